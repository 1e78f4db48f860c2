"""What a report measures of a run's test pictures beside metrics and evidence: methods compared, the planted marker removed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch.utils.data import Subset

from lrp_plugin.evaluation import Comparison, compare
from lrp_plugin.evidence import bootstrap_mean
from lrp_plugin.images import IGNORED
from lrp_plugin.report import RemovalTest
from lrp_plugin.synthetic import SyntheticCXR

from .explaining import build_explainer
from .loaders import get_dataloader
from .models import CXRClassifier
from .runfolder import Parts
from .splits import CXRSubset
from .trainer import Trainer

MARKER_REGION = "text marker in the upper left corner"


def compare_methods(
    model: CXRClassifier, parts: Parts, methods: Sequence[str], count: int, *, batch_size: int = 32, progress: bool = True
) -> Comparison:  # fmt: skip
    """What the prediction does while regions are removed in each map's order, and where each map lies.

    Args:
        model: the classifier; its device is where it runs.
        parts: of :func:`lrp_plugin.cxr.runfolder.open_parts`.
        methods: names of :func:`lrp_plugin.cxr.explaining.method_names`.
        count: at most so many readable test pictures, spread over all.
        batch_size: pictures in one pass at most.
        progress: show a bar.
    """
    readable = [place for place in range(len(parts.test)) if int(parts.test[place]["disease"]) != IGNORED]
    count = min(count, len(readable))
    chosen = [readable[place * len(readable) // count] for place in range(count)]
    made = {name: partial(build_explainer, name) for name in methods}
    return compare(model.eval(), Subset(parts.test, chosen), made, batch_size=batch_size, progress=progress)


def marker_tests(trainer: Trainer, test: CXRSubset, batch_size: int = 32) -> list[RemovalTest]:
    """Accuracy on each class's marked pictures, and on the same pictures without the marker.

    Returns:
        One test for each class that has marked pictures; none for data without a planted marker.
    """
    planted = test.dataset
    if not isinstance(planted, SyntheticCXR) or planted.shortcut is None:
        return []
    marked = [index for index in test.indices if planted[index]["marker"].any()]
    if not marked:
        return []
    right = []
    for dataset in (planted, planted.without_shortcut()):
        labels, probabilities, _ = trainer.inference(get_dataloader(CXRSubset(dataset, marked), batch_size))
        right.append((probabilities.argmax(1) == labels).astype(float))
    tests = []
    for label, name in enumerate(planted.classes):
        chosen = labels == label
        if chosen.any():
            before, after = right[0][chosen], right[1][chosen]
            intervals = (bootstrap_mean(values) for values in (before, after, before - after))
            tests.append(RemovalTest(name, MARKER_REGION, *intervals))
    return tests
