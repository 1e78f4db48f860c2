"""``lrp-plugin explain IMAGE...``: any image network, what its answer rests on."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrp_plugin.cli.devices import device_named
from lrp_plugin.cli.models import FORMS, LoadedModel, load_model
from lrp_plugin.explain import Explanation, Preprocessing, explain_image, preprocessing_of
from lrp_plugin.explain.methods import GRADIENTS, check_name
from lrp_plugin.explain.names import read_labels
from lrp_plugin.files import file_stem, file_stems
from lrp_plugin.options import folder, in_the_shells_words, number, said, whole
from lrp_plugin.visualization import number as shown_number
from lrp_plugin.visualization import plot_comparison, save_figure, unshown

FORMATS = ("png", "npy", "json", "html", "pdf", "svg")
DEFAULT_FORMATS = "png,npy,json"


def add_explain(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "explain", help="explain images with any network", description=__doc__,
        epilog="lrp-plugin methods lists the methods; exit status 2 where something could not be done, in one line.",
    )  # fmt: skip
    parser.add_argument("images", nargs="+", metavar="IMAGE",
                        help="PNG, JPEG, TIFF, DICOM, ..., or 'sample' for a drawn radiograph")  # fmt: skip
    parser.add_argument("--model", default="resnet18", help=f"{FORMS} (default resnet18)")
    parser.add_argument("--weights", help="DEFAULT or another name of the package's own weights (needs the network)")
    parser.add_argument("--checkpoint", type=Path, help="a state dict: .pt, .pth, .ckpt, .safetensors")
    parser.add_argument("--num-classes", type=whole(1, 1_000_000), help="the number of outputs to build the model with")
    parser.add_argument("--labels", help="classes' names: a file with one a line, a,b,c, or imagenet")
    parser.add_argument("--method", nargs="+", default=["auto"], metavar="METHOD",
                        help="rules, composites, gradient methods; several also side by side (default auto)")  # fmt: skip
    parser.add_argument("--bias", choices=("absorb", "ignore", "distribute"), default="absorb",
                        help="what becomes of the relevance of biases (default absorb)")  # fmt: skip
    parser.add_argument("--target", help="the class to explain, by number or name (default: the top one)")
    parser.add_argument("--output", help="which tensor is explained of several that the model returns: name or place")
    parser.add_argument("--topk", type=whole(1), default=5, help="how many answers to name (default 5)")
    parser.add_argument(
        "--size", type=whole(1, 10_000), nargs="+", metavar="PIXELS", help="of the network's input: side, or H W"
    )
    parser.add_argument("--mean", type=number, nargs="+", help="of the pixels in [0, 1] that training subtracted")
    parser.add_argument("--std", type=number, nargs="+", help="by which training divided")
    parser.add_argument("--gray", "--grey", action="store_true", help="the network takes one channel")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
    parser.add_argument("--format", default=DEFAULT_FORMATS,
                        help=f"some of {','.join(FORMATS)} (default {DEFAULT_FORMATS})")  # fmt: skip
    parser.add_argument("--out", type=folder, default=Path("lrp-out"), help="folder for the results (default lrp-out)")
    parser.add_argument("--overwrite", action="store_true", help="replace results of the same name")
    parser.add_argument("--no-progress", action="store_true", help="do not count the images on the terminal")
    parser.set_defaults(run=run_explain)


def run_explain(options: argparse.Namespace) -> int:
    """Explains each image by each method, writes the results, prints a short account; returns the exit status."""
    formats = _formats(options.format)
    for method in options.method:
        if method != "auto":
            check_name(method)
    device = device_named(options.device)
    labels = _labels(options.labels)
    loaded = load_model(options.model, weights=options.weights, checkpoint=options.checkpoint,
                        num_classes=options.num_classes)  # fmt: skip
    loaded.network.to(device)
    preprocess = _preprocessing(options, loaded)
    if loaded.caution:
        print(loaded.caution)
    failed = 0
    for image, stem in _counted(list(dict.fromkeys(options.images)), not options.no_progress):
        try:
            found = _explained(options, loaded, image, preprocess, labels)
            _report(options, image, found, _write(options, formats, loaded, stem, found))
        except BrokenPipeError:  # nobody reads on
            raise
        except (ValueError, OSError, ImportError, TypeError) as error:
            if len(options.images) == 1:
                raise
            print(f"lrp-plugin: {image}: {said(error, options)}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


def _explained(
    options: argparse.Namespace, loaded: LoadedModel, image: str, preprocess: Preprocessing, labels: list[str] | None
) -> list[Explanation]:
    name = f"untrained {loaded.name}" if loaded.trained is False else loaded.name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "only .* of the logit reached")  # printed with the explanation
        found = [
            explain_image(
                loaded.network, _picture(image), options.target, method, preprocess=preprocess, labels=labels,
                bias=_bias(options, method), output=_output(options.output), topk=options.topk, name=name,
            )
            for method in dict.fromkeys(options.method)
        ]  # fmt: skip
    return list({one.method: one for one in found}.values())  # auto may be what another is called


def _bias(options: argparse.Namespace, method: str) -> str:
    """``--bias`` is of the rules among the methods; where there are none it is refused."""
    rules = [one for one in options.method if one not in GRADIENTS]
    return "absorb" if rules and method in GRADIENTS else options.bias


def _output(given: str | None) -> str | int | None:
    return int(given) if given is not None and given.removeprefix("-").isdecimal() else given


def _picture(image: str) -> Any:
    if not image:
        raise ValueError("a picture's name is empty; give a file, or 'sample' for a drawn radiograph")
    if image != "sample" or Path(image).exists():
        return Path(image)
    from lrp_plugin.synthetic import SyntheticCXR

    return SyntheticCXR(1, seed=0, size=256)[0]["image"].numpy()


def _counted(images: Sequence[str], progress: bool) -> Iterator[tuple[str, str]]:
    """Each image and its part of file names; a count on the terminal."""
    names = [Path(image).name for image in images]
    distinct = names if len(set(map(str.lower, names))) == len(set(images)) else list(images)
    shown = progress and len(images) > 1 and sys.stderr.isatty()
    for place, (image, stem) in enumerate(zip(images, file_stems(distinct), strict=True)):
        if shown:
            print(f"\r{place + 1} of {len(images)}: {image}", end="\x1b[K\n", file=sys.stderr, flush=True)
        yield image, stem


def _formats(text: str) -> list[str]:
    chosen = list(dict.fromkeys(one.strip().lower() for one in text.split(",") if one.strip()))
    wrong = [one for one in chosen if one not in FORMATS]
    if wrong or not chosen:
        raise ValueError(f"--format {text!r}: legal are {', '.join(FORMATS)}, separated by commas")
    return chosen


def _labels(given: str | None) -> list[str] | None:
    listed = given is not None and "," in given and not Path(given).exists()
    return read_labels([name.strip() for name in given.split(",")] if listed and given is not None else given)


def _preprocessing(options: argparse.Namespace, loaded: LoadedModel) -> Preprocessing:
    """The model's own, changed by what the command line says."""
    own = loaded.preprocess or preprocessing_of(loaded.network)
    changes: dict[str, Any] = {}
    if options.gray and own.channels == 3:
        changes |= {"channels": 1, "mean": 0.5, "std": 0.5}
    if options.size is not None:
        if len(options.size) > 2:
            raise ValueError(f"--size {' '.join(map(str, options.size))}: give a side, or a height and a width")
        changes["size"] = options.size[0] if len(options.size) == 1 else tuple(options.size)
    for name in ("mean", "std"):
        values = getattr(options, name)
        if values is not None:
            changes[name] = values[0] if len(values) == 1 else tuple(values)
    if {"mean", "std"} <= set(changes):
        changes["source"] = "the command line"
    elif options.size is not None:
        changes["source"] = own.source.replace("224 pixels", f"{' x '.join(map(str, options.size))} pixels")
    return replace(own, **changes)


def _write(
    options: argparse.Namespace, formats: list[str], loaded: LoadedModel, stem: str, found: list[Explanation]
) -> list[Path]:
    bases = [f"{stem}-{loaded.name}-{one.target}-{one.method.partition(',')[0]}" for one in found]
    if options.bias != "absorb":
        bases = [base if one.method in GRADIENTS else f"{base}-{options.bias}" for one, base in zip(found, bases)]
    planned = [(one, options.out / f"{file_stem(base)}.{form}") for one, base in zip(found, bases, strict=True)
               for form in formats]  # fmt: skip
    together = options.out / f"{file_stem(f'{stem}-{loaded.name}-{found[0].target}-comparison')}.png"
    paths = [path for _, path in planned] + ([together] if len(found) > 1 else [])
    there = [path for path in paths if os.path.lexists(path)]
    if there and not options.overwrite:
        raise ValueError(f"{there[0]} exists already; add --overwrite, or another --out")
    for one, path in planned:
        one.save(path, replace=options.overwrite)
    if len(found) > 1:
        with unshown():
            figure = plot_comparison(
                found[0].view["picture"], {one.method: one.relevance for one in found}, logit=found[0].logit,
                totals=[one.method for one in found if one.ledger is not None],
                title=f"{found[0].title}\n{found[0].model}",
            )  # fmt: skip
            save_figure(figure, together, replace=options.overwrite)
    return paths


def _report(options: argparse.Namespace, image: str, found: list[Explanation], paths: list[Path]) -> None:
    print(f"{image}: {'; '.join(str(guess) for guess in found[0].top)}")
    for one in found:
        print(f"  {one.method} explains {one.title}, logit {shown_number(one.logit)}: {'; '.join(one.account())}")
    for note in dict.fromkeys(note for one in found for note in one.notes):
        print(f"  note: {in_the_shells_words(note, options)}")
    for path in paths:
        print(f"  written: {path}")
