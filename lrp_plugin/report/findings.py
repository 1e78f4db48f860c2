"""What the numbers say: where evidence lies outside the region, and where a class leans on a shortcut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrp_plugin.evaluation.evidence import Localisation, RemovalTest
from lrp_plugin.evidence import Interval
from lrp_plugin.kinds import checked
from lrp_plugin.report.data import Report


def upper(interval: Interval) -> float:
    """The interval's upper end, or its mean where one value allows no interval."""
    return interval.mean if math.isnan(interval.high) else interval.high


def lower(interval: Interval) -> float:
    """The interval's lower end, or its mean where one value allows no interval."""
    return interval.mean if math.isnan(interval.low) else interval.low


@checked
def outside(report: Report) -> list[Localisation]:
    """Where positive relevance lies mostly outside the region: the whole interval is below `minimum_inside`.

    A map says what the model used for this class, through the eyes of one method; it does not say that the
    model would fail without it. That is what `suspicions` tests.
    """
    # A comparison with NaN is false: no value, no warning.
    return [entry for entry in report.localisation if upper(entry.inside) < report.minimum_inside]


@dataclass(frozen=True)
class Suspicion:
    """A class that leans on a region outside the region.

    Attributes:
        test: The removal that showed it.
        agreeing: Methods whose relevance for the class lies mostly outside the region as well.
        differing: Methods whose relevance does not.
    """

    test: RemovalTest
    agreeing: Sequence[Localisation]
    differing: Sequence[Localisation]


@checked
def suspicions(report: Report) -> list[Suspicion]:
    """Where accuracy falls without the region: the whole interval of the drop is above `minimum_drop`.

    The removal decides, being an intervention on what the model sees; the maps are reported beside it.
    """
    warned, found = outside(report), []
    for test in report.removal_tests:
        if lower(test.drop) > report.minimum_drop:
            own = [entry for entry in report.localisation if entry.class_name == test.class_name]
            agreeing = [entry for entry in own if entry in warned]
            found.append(Suspicion(test, agreeing, [entry for entry in own if entry not in warned]))
    return found
