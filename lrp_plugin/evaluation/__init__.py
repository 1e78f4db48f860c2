"""Which explanation can be trusted: faithfulness, localization, sanity, stability; methods compared, a rule chosen.

Every measure takes maps of any method and returns one number for each example, ``(N,)``; `bootstrap_mean` gives their
mean with an interval, `paired_difference` the difference between two methods on the same examples.
"""

from lrp_plugin.evaluation.bounds import greedy_curves, random_curves
from lrp_plugin.evaluation.candidates import Candidate, candidates
from lrp_plugin.evaluation.comparing import compare
from lrp_plugin.evaluation.comparison import Comparison
from lrp_plugin.evaluation.complexity import effective_rank, entropy, noise_stability, sparseness
from lrp_plugin.evaluation.faithfulness import (
    Curves,
    comprehensiveness,
    deletion,
    insertion,
    perturbation_curves,
    srg,
    sufficiency,
)
from lrp_plugin.evaluation.infidelity import infidelity, sensitivity
from lrp_plugin.evaluation.intervals import Interval, bootstrap_mean, evidence_by_class, paired_difference
from lrp_plugin.evaluation.localization import (
    MEASURES,
    boxes_to_masks,
    mask_area,
    mask_share,
    pointing_game,
    rank_accuracy,
    top_k_inside,
)
from lrp_plugin.evaluation.methods import method_names
from lrp_plugin.evaluation.metrics import METRICS, Metric
from lrp_plugin.evaluation.recommending import Recommendation, recommend
from lrp_plugin.evaluation.sanity import (
    label_randomization,
    parameter_randomization,
    parametrized_layers,
    random_map_similarity,
)
from lrp_plugin.evaluation.scoring import Scorer
from lrp_plugin.evaluation.similarity import agreement, rank_correlation, structural_similarity

__all__ = [
    "MEASURES", "METRICS", "Candidate", "Comparison", "Curves", "Interval", "Metric", "Recommendation", "Scorer",
    "agreement", "bootstrap_mean", "boxes_to_masks", "candidates", "compare", "comprehensiveness", "deletion",
    "effective_rank", "entropy", "evidence_by_class", "greedy_curves", "infidelity", "insertion",
    "label_randomization", "mask_area", "mask_share", "method_names", "noise_stability", "paired_difference",
    "parameter_randomization", "parametrized_layers", "perturbation_curves", "pointing_game", "random_curves",
    "random_map_similarity", "rank_accuracy", "rank_correlation", "recommend", "sensitivity", "sparseness", "srg",
    "structural_similarity", "sufficiency", "top_k_inside",
]  # fmt: skip
