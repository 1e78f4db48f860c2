"""Where relevance lies, measured against masks: the names of `lrp_plugin.evaluation` that stood here first."""

from lrp_plugin.evaluation.intervals import Interval, bootstrap_mean, evidence_by_class
from lrp_plugin.evaluation.localization import MEASURES, mask_area, mask_share, pointing_game, rank_accuracy

__all__ = [
    "MEASURES",
    "Interval",
    "bootstrap_mean",
    "evidence_by_class",
    "mask_area",
    "mask_share",
    "pointing_game",
    "rank_accuracy",
]
