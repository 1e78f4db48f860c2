"""``lrp-plugin archive explain|status|report|verify``: a whole archive of pictures explained, and read back."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lrp_plugin.options import above_zero, json_object, no_file, number, whole

# Everything else is imported when a command runs: building the parser should not cost seconds.
if TYPE_CHECKING:
    from torch import nn

    from lrp_plugin.archive import Method, ModelSource, Picture, Progress, Settings, Targets

_NO_OPTIONS = ("model", "rule", "composite", "registry", "output", "compile")  # said otherwise, or no text says them
_EVERY = 10.0  # Seconds between lines of progress where the output is no terminal.


def add_archive(commands: Any) -> None:
    """Adds ``archive`` and its commands to the parser."""
    parser = commands.add_parser(
        "archive", help="explain a whole archive of pictures: resumable, on one machine or many"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_explain(actions)
    status = _action(actions, "status", _status, "what is done, failed and left")
    status.add_argument("--json", action="store_true", help="as JSON")
    report = _action(actions, "report", _report, "HTML pages: examples, shares by class, worst cases first")
    report.add_argument("--out", type=no_file, help="folder for the pages (default ARCHIVE-report beside it)")
    report.add_argument(
        "--examples", type=whole(0), default=5000, help="pictures shown, the worst first (default 5000)"
    )
    verify = _action(actions, "verify", _verify, "prove that every id is there once and every map is as it was made")
    verify.add_argument("--sample", type=whole(0), default=20, help="ids explained again and compared (default 20)")
    verify.add_argument("--seed", type=whole(0), default=0, help="of the sample (default 0)")
    verify.add_argument("--sources", action="store_true", help="read every source again and compare its checksum")
    verify.add_argument("--repair", action="store_true", help="delete damaged files; explain makes them again")
    verify.add_argument("--device", default="cpu", help="where the sample is explained (default cpu)")


def _action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    if name == "explain":
        parser.add_argument("source", help="a folder of pictures, or a .csv or .parquet with a column path (and id, label, "
                            "target, mask); a path or a URL")  # fmt: skip
    parser.add_argument("archive", type=no_file, help="the archive's folder or URL")
    parser.set_defaults(run=run)
    return parser


def _add_explain(actions: Any) -> None:
    parser = _action(actions, "explain", _explain, "explain every picture, or go on where a run stopped")
    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, help="a torchvision classifier, a run folder of lrp-plugin cxr train, or "
                       "package.module:function, file.py:function, timm:NAME, hf:FOLDER, xrv:NAME")  # fmt: skip
    model.add_argument("--weights", help="a state-dict file, or DEFAULT for torchvision's own")
    model.add_argument("--model-arguments", type=json_object, default={}, metavar="JSON", help="for the function")
    model.add_argument("--classes", nargs="+", metavar="NAME", help="names of the outputs")
    what = parser.add_argument_group("what is explained")
    what.add_argument("--methods", nargs="+", default=["epsilon_plus_flat"], metavar="METHOD",
                      help="LRP rules, composites, gradient methods (default epsilon_plus_flat)")  # fmt: skip
    what.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of UnifiedLRP, for the LRP methods"
    )
    what.add_argument("--targets", choices=("predicted", "given", "above"), default="predicted",
                      help="the greatest output (default), the list's column target, or all above the threshold")  # fmt: skip
    what.add_argument("--threshold", type=number, help="for above (default 0.5)")
    what.add_argument("--scale", choices=("output", "sigmoid", "softmax"),
                      help="what is compared with the threshold (default sigmoid)")  # fmt: skip
    what.add_argument(
        "--ledger", action="store_true", help="keep all of the ledger's totals: a backward pass more for each"
    )
    _add_pictures(parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--max-errors", type=whole(0), help="stop when more items of this run fail (default: never)")
    run.add_argument("--retry-errors", action="store_true", help="also do again what failed before")
    run.add_argument("--add", action="store_true", help="take in items that the archive does not have yet")
    run.add_argument("--address", help="of a Ray cluster (auto, HOST:6379); default: this machine, without set-up")
    run.add_argument("--actors", type=whole(1), help="explainers (default: one a GPU, or all cores but one)")
    run.add_argument("--gpus", type=above_zero, help="GPUs of each, also a part of one (default 1 where there are any)")
    run.add_argument("--cpus", type=whole(1), help="cores of this machine to use (default all)")
    run.add_argument("--no-progress", action="store_true", help="no progress")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    pictures = parser.add_argument_group("pictures and maps (defaults: as the model's own)")
    pictures.add_argument(
        "--size",
        type=whole(1, 10_000),
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width, of the model's input",
    )
    pictures.add_argument("--channels", type=whole(1), choices=(1, 3))
    pictures.add_argument(
        "--fit", choices=("squash", "crop"), help="resize both sides, or the shorter and crop the middle"
    )
    pictures.add_argument("--mean", type=number, nargs="+", help="subtracted from values in [0, 1]")
    pictures.add_argument("--std", type=number, nargs="+", help="divided into them")
    pictures.add_argument("--stretch", action="store_true", help="make a 16-bit file's own extremes black and white")
    pictures.add_argument("--masks", help="a folder with a mask of the same path for each picture that has one")
    pictures.add_argument(
        "--map-size",
        type=whole(1, 10_000),
        nargs="+",
        metavar="PIXELS",
        help="pool maps to this side (their sum is kept)",
    )
    pictures.add_argument("--map-channels", choices=("sum", "keep"), default="sum")
    pictures.add_argument("--batch", type=whole(1), default=32, help="pictures in one pass (default 32)")
    pictures.add_argument("--chunk", type=whole(1), default=128, help="pictures in one file (default 128)")
    pictures.add_argument(
        "--threads", type=whole(1, 4096), default=1, help="of torch in each explainer on the CPU (default 1)"
    )


def _explain(options: argparse.Namespace) -> None:
    from lrp_plugin.archive import Limits, Machines, explain_archive
    from lrp_plugin.archive.manifest import Manifest

    settings, classes = settings_of(options)
    with suppress(FileNotFoundError):  # an archive that has names keeps them, unless others are given
        classes = None if Manifest.read(options.archive).classes else classes
    progress = explain_archive(
        options.source, options.archive, settings, masks=options.masks,
        machines=Machines(options.address, options.actors, options.gpus, options.cpus),
        limits=Limits(options.max_errors, options.retry_errors, options.add), classes=options.classes or classes,
        report=None if options.no_progress else _Line(),
    )  # fmt: skip
    print(f"{options.archive}: {progress.done} of {progress.items} items, {progress.failed} failed")
    if progress.failed:
        print(f"  lrp-plugin archive status {options.archive} names the errors")


def settings_of(options: argparse.Namespace) -> tuple[Settings, list[str] | None]:
    """The settings that the options and the model's own defaults make, and the names of its classes if it has any."""
    from lrp_plugin.archive import Maps, ModelSource, Settings

    source = ModelSource(options.model, options.weights, options.model_arguments)
    if source.run_folder is None and _is_commands(options):
        if options.model_arguments:
            raise ValueError(f"--model-arguments: {options.model} takes none; a package.module:function does")
        source = ModelSource(f"{__name__}:network", None, {"spec": options.model, "weights": options.weights})
    picture, classes = _defaults(source, options)
    maps = Maps(options.map_channels, _sides(options.map_size))
    settings = Settings(
        source, _methods(options), _targets(options), _picture(options, picture),
        maps, options.ledger, options.batch, options.chunk, options.threads,
    )  # fmt: skip
    return settings, classes


def _is_commands(options: argparse.Namespace) -> bool:
    """Whether the command line makes it: another package's network, a function in a file, a name's weights in any form."""
    if options.model.partition(":")[0] in ("timm", "hf", "xrv") or ".py:" in options.model:
        return True
    return ":" not in options.model and options.weights not in (None, "DEFAULT")


def network(spec: str, weights: str | None = None) -> nn.Module:
    """The network that ``--model`` names, in any form that ``lrp-plugin explain`` takes; each process makes it so."""
    from lrp_plugin.cli.models import load_model

    return load_model(spec, weights=weights).network


def _defaults(source: ModelSource, options: argparse.Namespace) -> tuple[dict[str, Any], list[str] | None]:
    """The model's own preprocessing as keywords of `Picture`, and its classes' names if known."""
    from lrp_plugin.archive.models import defaults_of

    if source.run_folder is not None or not _is_commands(options):
        found = defaults_of(source)
        if source.run_folder is None and ":" not in options.model and options.weights is None:
            print(
                f"Note: no weights were given, so {options.model} is UNTRAINED: its maps are no evidence.",
                file=sys.stderr,
            )
        return found
    from lrp_plugin.cli.models import load_model
    from lrp_plugin.explain import preprocessing_of

    loaded = load_model(options.model, weights=options.weights)
    if loaded.caution:
        print(loaded.caution, file=sys.stderr)
    own = loaded.preprocess or preprocessing_of(loaded.network)
    return {
        "size": own.height_width, "channels": own.channels, "fit": "crop", "crop": own.crop, "scale": own.scale,
        "interpolation": own.interpolation, "mean": _each(own.mean, own.channels), "std": _each(own.std, own.channels),
    }, None  # fmt: skip


def _picture(options: argparse.Namespace, picture: dict[str, Any]) -> Picture:
    from lrp_plugin.archive import Picture

    channels = options.channels or picture.get("channels", 3)
    given: dict[str, Any] = {
        "size": _sides(options.size), "channels": options.channels, "fit": options.fit,
        "mean": _each(options.mean or (), channels) or None, "std": _each(options.std or (), channels) or None,
    }  # fmt: skip
    if options.channels not in (None, picture.get("channels", 3)):
        picture = {name: value for name, value in picture.items() if name not in ("mean", "std")}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Picture(**{**picture, **chosen, "stretch": options.stretch})


def _targets(options: argparse.Namespace) -> Targets:
    from lrp_plugin.archive import Targets

    given = {name: value for name in ("threshold", "scale") if (value := getattr(options, name)) is not None}
    if given and options.targets != "above":
        raise ValueError(f"--{' and --'.join(given)} is of --targets above; give that too, or leave it away")
    return Targets(options.targets, **given)


def _each(values: Any, channels: int) -> tuple[float, ...]:
    """One value counts for each channel."""
    several = (values,) if isinstance(values, (int, float)) else tuple(values)
    return several * channels if len(several) == 1 else several


def _sides(given: list[int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    if len(given) > 2:
        raise ValueError(f"size {' '.join(map(str, given))}: give one side, or height and width")
    return given[0], given[-1]


def _methods(options: argparse.Namespace) -> tuple[Method, ...]:
    from lrp_plugin.archive import Method
    from lrp_plugin.attribution import UnifiedLRP
    from lrp_plugin.errors import unknown
    from lrp_plugin.gradients import METHODS

    legal = [name for name in inspect.signature(UnifiedLRP).parameters if name not in _NO_OPTIONS]
    given: dict[str, Any] = {}
    for text in options.option:
        name, mark, value = text.partition("=")
        if not mark:
            raise ValueError(f"--option {text}: give KEY=VALUE, such as bias=distribute")
        if name not in legal:
            raise ValueError(unknown("--option", name, legal))
        try:
            given[name] = json.loads(value)
        except json.JSONDecodeError:
            given[name] = value
    if given and set(options.methods) <= set(METHODS):
        raise ValueError(f"--option {', '.join(given)} is of the LRP methods, and none is asked for; leave it away")
    return tuple(Method(name, {} if name in METHODS else given) for name in dict.fromkeys(options.methods))


class _Line:
    """Progress on standard error: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.shown = -_EVERY

    def __call__(self, progress: Progress) -> None:
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if not terminal and now - self.shown < _EVERY and progress.left:
            return
        self.shown = now
        left = "" if progress.seconds_left is None else f", about {_duration(progress.seconds_left)} left"
        text = f"{progress.done} of {progress.items} items, {progress.failed} failed{left}"
        print(
            f"\r{text:70}" if terminal else text,
            end="" if terminal and progress.left else "\n",
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _status(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from lrp_plugin.archive import status

    found = status(options.archive)
    if options.json:
        counts = {**asdict(found.progress), "left": found.progress.left}
        print(json.dumps({**asdict(found), "progress": counts}, indent=2))
        return
    progress = found.progress
    print(f"{options.archive}: {progress.items} items in {found.chunks} files")
    print(f"  done {progress.done}, of which failed {progress.failed}; left {progress.left}")
    if progress.left and progress.seconds_left is not None:
        print(f"  at the speed of the last files the rest takes {_duration(progress.seconds_left)}")
    model = found.manifest.decided["model"]
    methods = ", ".join(found.manifest.decided["methods"])
    print(f"  model {model['maker']}, weights {model['weights_sha256'][:12]}; methods {methods}")
    for text in [*found.damaged, *(f"{name} is no file of this archive" for name in found.strangers)]:
        print(f"  {text}")
    for error, count in list(found.errors.items())[:20]:
        print(f"  {count} x {error}, first {found.examples[error]}")


def _verify(options: argparse.Namespace) -> int:
    from lrp_plugin.archive import verify
    from lrp_plugin.cli.devices import device_named

    device_named(options.device)
    found = verify(
        options.archive, sample=options.sample, seed=options.seed, sources=options.sources, repair=options.repair,
        device=options.device,
    )  # fmt: skip
    print(
        f"{options.archive}: {found.found} of {found.items} ids, each once; {found.failed} failed; {found.maps} maps read"
    )
    print(
        f"  explained again {found.again}: {found.identical} the same in every bit, greatest difference {found.greatest:.2g}"
    )
    print(f"  sources read again: {found.sources}")
    if found.missing:
        print(f"  {len(found.missing)} files are not there yet: lrp-plugin archive explain goes on")
    for text in found.problems:
        print(f"  PROBLEM: {text}")
    if found.whole:
        print("  whole: nothing is missing, nothing is wrong")
    return 0 if found.whole else 1


def _report(options: argparse.Namespace) -> None:
    from lrp_plugin.archive.report import write_archive_report

    out = options.out or options.archive.rstrip("/") + "-report"
    page = write_archive_report(options.archive, out, examples=options.examples, progress=_drawn)
    print(f"written: {page}")


def _drawn(done: int, of: int) -> None:
    """Progress of the pictures, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r{done} of {of} pictures", end="\n" if done == of else "", file=sys.stderr, flush=True)
