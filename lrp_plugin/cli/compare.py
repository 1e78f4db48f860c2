"""``lrp-plugin compare`` and ``recommend``: which explanation can be trusted, and which rule, on one's own pictures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from lrp_plugin.cli.models import FORMS, LoadedModel, load_model
from lrp_plugin.explain import Preprocessing, preprocessing_of
from lrp_plugin.explain.core import forward, scores_of
from lrp_plugin.files import csv_bytes, write_atomically
from lrp_plugin.images import read_image
from lrp_plugin.images.reading import is_image_file
from lrp_plugin.images.splits import spread
from lrp_plugin.options import folder, number, whole

RUN_SETTINGS = "run.json"
_DATA = (
    "a folder of pictures, with a subfolder for each class in the order of the outputs, or a run folder of 'cxr train'"
)


def add_compare(commands: Any) -> None:
    """Adds both commands to the parser."""
    compare = commands.add_parser(
        "compare", help="measure methods against each other on pictures", description=__doc__,
        epilog="writes comparison.html, comparison.csv, curves.png and ranks.png; stopped, the same call goes on",
    )  # fmt: skip
    _shared(compare)
    compare.add_argument("--methods", nargs="+", metavar="METHOD", help="as 'lrp-plugin methods' lists them")
    compare.add_argument(
        "--metrics", nargs="+", metavar="METRIC", help="srg, road, mask_share, ... (an unknown one lists all)"
    )
    compare.add_argument("--sort-by", metavar="METRIC", help="orders the table (default: the first)")
    compare.set_defaults(run=run_compare)
    recommend = commands.add_parser(
        "recommend", help="choose a rule by a metric, judged on pictures the choice did not see", description=__doc__,
        epilog="writes recommendation.txt, whose last lines are the composite as code",
    )  # fmt: skip
    _shared(recommend)
    recommend.add_argument("--metric", default="srg", help="what the rule is chosen by (default srg)")
    recommend.add_argument(
        "--held-out", type=number, default=0.5, help="share of the pictures for the report (default 0.5)"
    )
    recommend.set_defaults(run=run_recommend)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help=_DATA)
    parser.add_argument("--model", help=f"{FORMS} (default resnet18; a run folder brings its own)")
    parser.add_argument("--weights", help="DEFAULT or another name of the package's own weights (needs the network)")
    parser.add_argument("--checkpoint", type=Path, help="a state dict: .pt, .pth, .ckpt, .safetensors")
    parser.add_argument("--num-classes", type=whole(1, 1_000_000), help="the number of outputs to build the model with")
    parser.add_argument("--size", type=whole(1, 10_000), help="side of the network's input in pixels")
    parser.add_argument(
        "--patch", type=whole(1), help="side of what is removed together (default: an eighth of the picture)"
    )
    parser.add_argument("--replacement", default="mean", type=_replacement,
                        help="zero, mean (default), blur, noise, road, or a number in the network's input")  # fmt: skip
    parser.add_argument("--limit", type=whole(1), help="at most so many pictures, spread over all")
    parser.add_argument("--batch-size", type=whole(1), default=32, help="pictures in one pass at most (default 32)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of all that is drawn at random (default 0)")
    parser.add_argument("--out", type=folder, default=Path("lrp-out"), help="folder for the results (default lrp-out)")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def _replacement(text: str) -> str | float:
    try:
        found = float(text)
    except ValueError:
        return text
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give a finite number, or a name")
    return found


class Pictures:
    """Picture files as examples, read when they are asked for.

    Args:
        folder: Pictures, or a subfolder of them for each class; subfolders count as classes 0, 1, ... by name.
        preprocess: From a picture to the network's input.
        limit: At most so many, spread over all.

    Raises:
        ValueError: There is no picture.
    """

    def __init__(self, folder: Path, preprocess: Preprocessing, limit: int | None = None) -> None:
        self.preprocess = preprocess
        folders = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        classes: list[tuple[Path, int | None]] = [(one, place) for place, one in enumerate(folders)]
        classes = classes or [(folder, None)]
        found = [(path, label) for one, label in classes for path in sorted(one.rglob("*")) if is_image_file(path)]
        if not found:
            raise ValueError(f"{folder} holds no picture, nor a subfolder for each class with some")
        self.files = spread(found, limit)
        self.labelled = bool(folders)
        self.classes = [one.name for one in folders]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        inputs = self.preprocess.inputs(self.preprocess.picture(read_image(path, stretch=True)))
        return {"inputs": inputs} if label is None else {"inputs": inputs, "target": torch.tensor(label)}


def _opened(options: argparse.Namespace) -> tuple[Any, Any, tuple[Any, Any]]:
    """Model, examples, and the range of the first map's input."""
    folder = Path(options.data)
    if options.data and (folder / RUN_SETTINGS).exists():
        return _xray(options, folder)
    if not options.data or not folder.is_dir():
        raise ValueError(f"{options.data or 'an empty name'} is no folder; give {_DATA}")
    loaded = load_model(options.model or "resnet18", weights=options.weights, checkpoint=options.checkpoint,
                        num_classes=options.num_classes)  # fmt: skip
    preprocess = _preprocessing(options, loaded)
    pictures = Pictures(folder, preprocess, options.limit)
    _refuse_unfit(loaded, pictures, folder)
    if loaded.caution:
        print(loaded.caution)
    return loaded.network, pictures, preprocess.bounds


def _refuse_unfit(loaded: LoadedModel, pictures: Pictures, folder: Path) -> None:
    """Raises ``ValueError``, before anything is measured, for pictures or classes that the network does not take."""
    answer = forward(loaded.network, pictures[0]["inputs"][None], remedy="give --size with the pixels it was made for")
    scores = scores_of(answer)
    if scores.dim() != 2:
        raise ValueError(
            f"{loaded.name} returned scores of shape {tuple(scores.shape)} for one picture; legal is a classifier's (1, K)"
        )
    if len(pictures.classes) > scores.shape[1]:
        raise ValueError(
            f"{folder} has {len(pictures.classes)} subfolders, {loaded.name} {scores.shape[1]} outputs; give one for each "
            f"output, in their order, or --num-classes {len(pictures.classes)}"
        )


def _preprocessing(options: argparse.Namespace, loaded: LoadedModel) -> Preprocessing:
    from dataclasses import replace

    own = loaded.preprocess or preprocessing_of(loaded.network)
    return own if options.size is None else replace(own, size=options.size)


def _xray(options: argparse.Namespace, folder: Path) -> tuple[Any, Any, tuple[Any, Any]]:
    """A run's model and its test pictures."""
    from lrp_plugin.cxr.runfolder import RunSettings, open_model, open_parts

    for name in ("model", "weights", "checkpoint", "num_classes", "size"):
        if getattr(options, name) is not None:
            raise ValueError(f"a run brings its own network and pictures: leave --{name.replace('_', '-')} away")
    settings = RunSettings.load(folder)
    parts = open_parts(settings, folder, training=False)
    model = open_model(folder, parts.whole.classes).eval()
    return model, Subset(parts.test, spread(range(len(parts.test)), options.limit)), model.pixel_range


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    from lrp_plugin.evaluation.regions import patches

    return {
        "regions": None if options.patch is None else patches(options.patch), "replacement": options.replacement,
        "batch_size": options.batch_size, "seed": options.seed, "progress": not options.no_progress,
    }  # fmt: skip


def run_compare(options: argparse.Namespace) -> None:
    """Measures, prints the table, writes page, table and pictures."""
    from lrp_plugin.evaluation import compare
    from lrp_plugin.evaluation.comparing import DEFAULT_METHODS
    from lrp_plugin.evaluation.methods import RANDOM
    from lrp_plugin.visualization import save_figure

    model, data, bounds = _opened(options)
    found = compare(
        model, data, options.methods or DEFAULT_METHODS, options.metrics, bounds=bounds, sort_by=options.sort_by,
        folder=options.out / "values", **_settings(options),
    )  # fmt: skip
    if all(method in found.failures for method in found.methods if method != RANDOM):
        raise ValueError(f"no method could be measured: {found.failures[found.methods[0]].partition(': ')[2]}")
    print(found)
    rows = found.rows()
    paths = [
        write_atomically(
            options.out / "comparison.csv", csv_bytes([list(rows[0]), *(list(row.values()) for row in rows)])
        )
    ]
    found.to_html(options.out / "comparison.html")
    paths.append(options.out / "comparison.html")
    if found.curves:
        paths.append(save_figure(found.plot(), options.out / "curves.png"))
    if found.ranking():
        paths.append(save_figure(found.plot_ranks(), options.out / "ranks.png"))
    _written(paths)


def run_recommend(options: argparse.Namespace) -> None:
    """Searches, prints the recommendation, writes it."""
    from lrp_plugin.evaluation import recommend

    model, data, bounds = _opened(options)
    if len(data) < 2:
        raise ValueError("1 picture is too few: some choose the rule, others judge it; give 2 or more")
    found = recommend(
        model, data, metric=options.metric, held_out=options.held_out, bounds=bounds, **_settings(options)
    )
    print(found)
    _written([write_atomically(options.out / "recommendation.txt", f"{found}\n".encode())])


def _written(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"written: {path}")
