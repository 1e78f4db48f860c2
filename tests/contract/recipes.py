"""What every public callable of the package may be given: arguments that are right, by name, as small as they can be."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_plugin import Preprocessing, UnifiedLRP, composites
from lrp_plugin.evaluation import Candidate
from lrp_plugin.testing import Graph, Step

ROOMS = (
    "", "composites", "evaluation", "explain", "gradients", "visualization", "testing", "images", "files", "registry",
    "concepts", "contrast", "tables", "plan", "pyhealth", "cxr", "archive", "archive.report", "synthetic", "report",
)  # fmt: skip
"""The public modules; what they export is found by itself."""


def public() -> dict[str, Callable[..., Any]]:
    """Functions and classes that the rooms export, each once, as ``room:name``; no exceptions."""
    found: dict[str, Callable[..., Any]] = {}
    for room in ROOMS:
        module = importlib.import_module(f"lrp_plugin.{room}".rstrip("."))
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            callable_ = inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, BaseException))
            if callable_ and not name.startswith("_") and value not in found.values():
                found[f"{room}:{name}"] = value
    return found


NOT_TRIED = {
    "visualization:Picture": "matplotlib's own Figure, with its arguments",
    "visualization:draw_image": "an image on matplotlib's axes: imshow's own arguments",
    "archive:explain_archive": "starts Ray: tests/archive tries what it refuses",
    "archive:Archive": "needs an archive: tests/archive",
    "archive:Selection": "made by Archive.filter: tests/archive",
    "archive:status": "needs an archive: tests/archive",
    "archive:verify": "needs an archive: tests/archive",
    "archive.report:summarize": "needs an archive: tests/archive",
    "archive.report:write_archive_report": "needs an archive: tests/archive",
    "cxr:CXRSubset": "torch's own Subset, with its arguments",
    "cxr:join_processes": "takes nothing, and reads the environment",
    "cxr:Trainer": "seeds and moves a model: tests/cxr tries what it refuses",
    "pyhealth:Trainer": "wraps cxr's: tests/pyhealth",
    "COVID19CXRDataset": "needs a data set in files: tests/cxr",
    "images:LabelledImages": "needs a data set in files: tests/cxr",
    "gradients:AttributionMethod": "abstract", "pyhealth:LRPLayerHandler": "abstract",
    "cxr:CXRFolder": "needs a data set in files: tests/cxr",
    "registry:RuleTable": "a dict",
    "evaluation:Comparison": "made by compare", "evaluation:Recommendation": "made by recommend",
    "composites:Chooser": "made by a session", "composites:Site": "made by a pass",
}  # fmt: skip
"""Public names that no recipe is for, and why."""
NOT_YET: dict[str, str] = {}
"""Where bad arguments are met by other errors still, and by which: to be mended."""
RECORDS = (
    "Explanation", "Ledger", "Rule", "Choice", "Selector", "Curves", "Interval", "Metric", "Candidate", "Guess", "Region",
    "Strongest", "Step", "LayerCheck", "History", "Explained", "Manifest", "Method", "ModelSource", "Progress",
    "Status", "Verified", "Case", "Summary", "Localisation", "RemovalTest", "Suspicion", "Section", "Machines", "Limits",
    "Shortcut", "Graph", "Plan", "Difference", "LogOdds", "InMemory", "Look",
    "RuleCase", "Example", "Settings",
)  # fmt: skip
"""Records: what the package hands out, or hands on to what checks it. They take anything and say nothing of it."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 3)
    ).double().eval()  # fmt: skip


MODEL = network()
X = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
MAPS = torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
MASKS = MAPS > 0
LRP = UnifiedLRP(MODEL, "zero")
DENSE = nn.Sequential(nn.Linear(4, 3)).double().eval()
SIGNAL = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).double().eval()
VOLUME = nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double().eval()
WORDS = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)).eval()
MODELS = (MODEL, DENSE, SIGNAL, VOLUME, WORDS)


def saliency(inputs: Tensor, target: Any) -> Tensor:
    return UnifiedLRP(MODEL, "zero").attribute(inputs, target)


def built(model: nn.Module) -> Callable[[Tensor, Any], Tensor]:
    return lambda inputs, target: UnifiedLRP(model, "zero").attribute(inputs, target)


def account() -> Any:
    return LRP.ledger(X, 1)


def cohort() -> Any:
    from lrp_plugin.synthetic import SyntheticCXR

    return SyntheticCXR(24, size=32)


def report() -> Any:
    from lrp_plugin.report import Report

    return Report("t", "m", "d", ["a", "b"])


def axes() -> Any:
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def figure() -> Any:
    from matplotlib.figure import Figure

    return Figure((1, 1))


def picture_file() -> Path:
    from PIL import Image

    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).save("given.png")
    return Path("given.png")


def opened_picture() -> Any:
    from PIL import Image

    return Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6))


def small_cnn() -> Any:
    from lrp_plugin.cxr import build_model

    return build_model("reference_cnn", 2)


def weights_file() -> Path:
    from lrp_plugin.cxr import save_weights

    save_weights(Path("given.safetensors"), small_cnn(), {})
    return Path("given.safetensors")


BY_NAME: dict[str, Callable[[], Any]] = {
    "model": lambda: MODEL, "forward_func": lambda: MODEL, "layer": lambda: MODEL[0], "inputs": lambda: X, "target": lambda: 1,
    "relevance": lambda: MAPS, "mask": lambda: MASKS, "first": lambda: MAPS, "second": lambda: MAPS.flip(0), "build": lambda: built,
    "explain": lambda: saliency, "memorizer": network, "attribution": lambda: LRP, "plain": lambda: LRP, "spelled": lambda: LRP,
    "targets": lambda: (0, 1), "pairs": lambda: [(composites.first(), "flat")], "name": lambda: "a", "path": picture_file,
    "operation": lambda: None, "image": lambda: X[0], "images": lambda: X, "relevances": lambda: MAPS, "tokens": lambda: ["a", "b", "c"],
    "ledger": account, "dataset": cohort, "report": report, "title": lambda: "t", "seed": lambda: 0,
    "shares": lambda: [0.0, 0.5], "resamples": lambda: 20, "samples": lambda: 2, "draws": lambda: 1, "text": lambda: "t",
}  # fmt: skip
"""By an argument's name, where nothing else is said below."""

OWN: dict[str, dict[str, Callable[[], Any]]] = {
    ":LayerUnifiedLRP": {}, ":NeuronUnifiedLRP": {},
    ":rule": {"name": lambda: "epsilon"},
    ":explain_image": {"picture": lambda: X[0], "preprocess": lambda: Preprocessing(6, 0.5, 0.5, 1), "method": lambda: "epsilon"},
    ":explain_signal": {"model": lambda: SIGNAL, "signal": lambda: np.ones((2, 10)), "method": lambda: "epsilon"},
    ":explain_table": {"model": lambda: DENSE, "row": lambda: [1.0, 2.0, -1.0, 0.5], "method": lambda: "epsilon"},
    ":explain_text": {"model": lambda: WORDS, "tokenizer": lambda: lambda text: [1, 2, 3], "text": lambda: "a b c",
                      "method": lambda: "epsilon"},
    ":explain_volume": {"model": lambda: VOLUME, "volume": lambda: np.ones((3, 3, 3)), "method": lambda: "epsilon"},
    "composites:RuleSpec": {"name": lambda: "zero"},
    "composites:depth": {"start": lambda: 0.0, "stop": lambda: 0.5},
    "composites:module": {"types": lambda: nn.Linear}, "composites:operation": {"names": lambda: "conv2d"},
    "composites:nth": {"index": lambda: 1}, "composites:path": {"pattern": lambda: "0"},
    "composites:predicate": {"test": lambda: lambda site: True}, "composites:ready_composite": {"name": lambda: "attnlrp"},
    "composites:epsilon_gamma_box": {"low": lambda: 0.0, "high": lambda: 1.0},
    "evaluation:agreement": {"relevances": lambda: {"a": MAPS, "b": MAPS.flip(0)}},
    "evaluation:bootstrap_mean": {"values": lambda: [1.0, 2.0, 4.0]},
    "evaluation:paired_difference": {"first": lambda: [1.0, 2.0, 4.0], "second": lambda: [0.0, 2.0, 5.0]},
    "evaluation:boxes_to_masks": {"boxes": lambda: torch.tensor([[0, 0, 2, 3]]), "size": lambda: (4, 5)},
    "evaluation:evidence_by_class": {"scores": lambda: [0.1, 0.2, 0.3], "labels": lambda: [0, 1, 0], "class_names": lambda: ["a", "b"]},
    "evaluation:compare": {"data": lambda: (X, torch.tensor([0, 1])), "methods": lambda: ["epsilon"], "metrics": lambda: ["entropy"],
                           "progress": lambda: False, "shares": lambda: 2},
    "evaluation:recommend": {"data": lambda: (X.repeat(2, 1, 1, 1), torch.tensor([0, 1, 0, 1])), "shares": lambda: 2,
                             "tried": lambda: [Candidate("a", composites.epsilon_plus(), "a"), Candidate("b", composites.attnlrp(), "b")],
                             "baselines": lambda: ["saliency"], "progress": lambda: False},
    "evaluation:greedy_curves": {"shares": lambda: 1, "inputs": lambda: X[:1]},
    "explain:family_of": {"operations": lambda: ["conv2d"]},
    "gradients:CaptumMethod": {"explain": lambda: lambda scores, signal, target: signal, "unit": lambda: "u"},
    "gradients:ScoreModel": {"forward": lambda: None, "output": lambda: "logit"}, "gradients:build_method": {"name": lambda: "saliency"},
    "gradients:method": {"name": lambda: "no such method yet"},
    "gradients:resolve_target": {"scores": lambda: torch.randn(2, 3)},
    "visualization:display_image": {}, "visualization:draw_mask_contour": {"ax": axes, "mask": lambda: MASKS[0], "size": lambda: (6, 6)},
    "visualization:number": {"value": lambda: 1.5}, "visualization:percent": {"share": lambda: 0.5},
    "visualization:plot_comparison": {"relevances": lambda: {"a": MAPS[0]}},
    "visualization:plot_detection": {"relevance": lambda: MAPS[0], "box": lambda: [0, 0, 2, 3]},
    "visualization:plot_distribution": {"relevance": lambda: MAPS[0]}, "visualization:plot_features": {"relevance": lambda: [1.0, -2.0]},
    "visualization:plot_heatmap": {"relevance": lambda: MAPS[0]}, "visualization:plot_ledger": {"rows": lambda: account().rows},
    "visualization:plot_overlay": {"relevance": lambda: MAPS[0]},
    "visualization:plot_segmentation": {"relevance": lambda: MAPS[0], "region": lambda: MASKS[0]},
    "visualization:plot_signal": {"signal": lambda: [1.0, 2.0], "relevance": lambda: [1.0, -1.0]},
    "visualization:plot_text": {"relevance": lambda: [1.0, 2.0, -3.0]},
    "visualization:plot_token_matrix": {"sources": lambda: ["a", "b"], "generated": lambda: ["c"], "relevance": lambda: [[1.0, 2.0]]},
    "visualization:plot_top_regions": {"relevance": lambda: MAPS[0]},
    "visualization:plot_volume": {"volume": lambda: np.ones((3, 4, 5)), "relevance": lambda: np.ones((3, 4, 5))},
    "visualization:region_mask": {"mask": lambda: MASKS[0], "size": lambda: (6, 6)}, "visualization:relevance_map": {"relevance": lambda: MAPS[0]},
    "visualization:save_figure": {"figure": figure, "path": lambda: "made.png"}, "visualization:text_html": {"relevance": lambda: [1.0, 2.0, -3.0]},
    "visualization:top_regions": {"relevance": lambda: MAPS[0], "size": lambda: 2}, "visualization:whole_words": {"relevance": lambda: [1.0, 2.0, -3.0]},
    "visualization:write_atomically": {"path": lambda: "made.bin", "content": lambda: b"x"},
    "images:pixels_of": {"picture": opened_picture}, "images:left_out": {"picture": picture_file},
    "files:write_json": {"path": lambda: "made.json", "value": lambda: {"accuracy": 0.5}},
    "testing:GraphNetwork": {"graph": lambda: Graph((1, 3, 3), (Step("relu", (0,)),))},
    **{f"testing:assert_{law}": {"target": lambda: 1} for law in (
        "conserves", "equals_gradient_x_input", "independent_of_batch", "model_untouched", "repeatable", "same_as")},
    "testing:check_rule": {"spec": lambda: "zero", "operation": lambda: "linear", "examples": lambda: 1},
    "testing:inputs": {"shape": lambda: (2,)}, "testing:targets": {"classes": lambda: 3, "examples": lambda: 2},
    "files:open_atomically": {"path": lambda: "made.bin"}, "files:file_stems": {"names": lambda: ["a", "b"]},
    "files:csv_bytes": {"rows": lambda: [["a", 1.0]]}, "registry:qualified_name": {"kind": lambda: nn.Linear},
    "concepts:channel_dim": {"tensor": lambda: X, "module": lambda: MODEL[0]},
    "tables:text_table": {"head": lambda: ["a"], "rows": lambda: [["b"]]},
    "tables:html_table": {"caption": lambda: "c", "head": lambda: ["a"], "rows": lambda: [["b"]]},
    "pyhealth:ConservationReport": {"tolerance": lambda: 0.01},
    "pyhealth:TorchvisionModel": {"model_name": lambda: "resnet18"},
    "pyhealth:visualize_attribution": {"plt": lambda: None, "attribution": lambda: MAPS[0]},
    "cxr:CXRClassifier": {"backbone": lambda: MODEL, "num_classes": lambda: 3},
    "cxr:EpochSampler": {"n": lambda: 5, "batch_size": lambda: 2, "shuffle": lambda: True},
    "cxr:build_model": {"name": lambda: "reference_cnn"}, "cxr:load_model": {"path": weights_file},
    "cxr:load_weights": {"path": weights_file, "model": small_cnn}, "cxr:save_weights": {"facts": dict},
    "cxr:plot_confusion_matrix": {"matrix": lambda: np.eye(2, dtype=int), "classes": lambda: ["a", "b"]},
    "report:layer_png": {"relevance": lambda: MAPS[0], "size": lambda: (6, 6)},
    "report:write_report": {"path": lambda: Path("made.html")},
    "report:Metric": {"value": lambda: 0.5},
    "report:Report": {"model": lambda: "m", "dataset": lambda: "d", "class_names": lambda: ["a", "b"]},
    "report:Explanation": {"method": lambda: "m"},
}  # fmt: skip
"""By callable, where the table above does not fit."""
