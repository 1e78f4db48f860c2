"""``lrp-plugin cxr train|evaluate|explain|evidence|report`` and ``lrp-plugin demo``: arguments, nothing else."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lrp_plugin.files import file_stem
from lrp_plugin.options import MOST, folder, number, whole

from .runfolder import DEFAULT_METHODS, RunSettings, open_model, open_parts, train_run

# What trains, reports and draws is imported when a command runs: building the parser should not cost seconds.

_FIELDS = {field.name: field for field in fields(RunSettings)}


def add_demo(commands: Any) -> None:
    """Add ``demo`` to the parser."""
    parser = commands.add_parser("demo", help="train a small model on synthetic radiographs and explain it")
    parser.add_argument("--out", type=folder, help="folder for the results (default lrp-demo, or lrp-demo-quick)")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer pictures: a first look")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.set_defaults(run=_demo)


def add_cxr(commands: Any) -> None:
    """Add ``cxr`` and its commands to the parser."""
    parser = commands.add_parser("cxr", help="chest X-ray models: train, evaluate, explain, report")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = _action(actions, "train", _train, "train a model")
    for name in ("data", "model", "size", "count", "seed", "shortcut", "weights", "augment", "epochs", "max_grad_norm"):
        _setting(train, name)
    _setting(train, "learning_rate", "--lr")
    train.add_argument("--resume", action="store_true", help="continue the run in --out, exactly")
    _action(actions, "evaluate", _evaluate, "metrics on the test pictures", opens=True)
    explain = _action(actions, "explain", _explain, "explain single pictures", opens=True, methods=True)
    chosen = explain.add_mutually_exclusive_group()
    chosen.add_argument(
        "--index", type=whole(-MOST), nargs="+", help="positions in the data (default: a test picture a class)"
    )
    chosen.add_argument("--image", type=Path, nargs="+", help="files of your own: PNG, JPEG, TIFF, DICOM")
    told = "where each method's relevance lies, as a table"
    _action(actions, "evidence", _evidence, told, opens=True, methods=True)
    told = "one HTML page: metrics, examples, evidence, shortcuts"
    report = _action(actions, "report", _report, told, opens=True, methods=True)
    report.add_argument("--examples", type=whole(1), default=2, help="right pictures of each class (default 2)")
    report.add_argument("--compare", type=whole(0), default=24, metavar="N",
                        help="measure the methods against each other on N test pictures, 0 on none (default 24)")  # fmt: skip


def _action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, *, opens: bool = False,
    methods: bool = False,
) -> argparse.ArgumentParser:  # fmt: skip
    """A command; one that ``opens`` a run takes size, model and seed from it, and other data if asked."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--out", type=folder, default=Path("cxr-run"), help="the run's folder (default cxr-run)")
    if opens:
        parser.add_argument("--data", help="a folder of other pictures (default: the run's test pictures)")
    if methods:
        told = f"gradient methods, LRP rules or composites (default: {' '.join(DEFAULT_METHODS)})"
        parser.add_argument("--methods", nargs="+", metavar="METHOD", default=DEFAULT_METHODS, help=told)
    for setting in ("batch_size", "workers", "lenient"):
        _setting(parser, setting)
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)
    return parser


def _setting(parser: argparse.ArgumentParser, name: str, *other: str) -> None:
    """An option for a field of the run's settings, which says kind, bounds, default and what it is."""
    field, flag = _FIELDS[name], f"--{name.replace('_', '-')}"
    if str(field.type) == "bool":
        parser.add_argument(flag, *other, action="store_true", default=None, help=field.metadata["help"])
        return
    integers = whole(field.metadata["least"], min(field.metadata["most"], MOST))
    kind: Any = integers if str(field.type) == "int" else number if "float" in str(field.type) else str
    told = "" if field.default is None else f" (default {field.default})"
    parser.add_argument(flag, *other, type=kind, help=field.metadata["help"] + told)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The run's settings that the command line names."""
    return {name: value for name, value in vars(options).items() if name in _FIELDS and value is not None}


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    out = options.out or Path("lrp-demo-quick" if options.quick else "lrp-demo")
    run_demo(out, quick=options.quick, progress=not options.no_progress)


def _train(options: argparse.Namespace) -> None:
    out, settings = options.out, RunSettings(**_given(options))
    if options.resume:
        settings = _resumed(RunSettings.load(out), _given(options))
    elif (out / "last.ckpt").exists():
        raise ValueError(f"{out} holds a run already: continue it with --resume, or choose another --out")
    if settings.data == "synthetic" and settings.augment:
        raise ValueError("--augment varies a folder's training pictures; leave it away with --data synthetic")
    if settings.data != "synthetic" and options.count is not None:
        raise ValueError("--count is of synthetic pictures; leave it away: all of a folder's are used")
    parts = open_parts(settings, out if options.resume else None)
    _, history = train_run(settings, parts, out, resume=options.resume, progress=not options.no_progress)
    for row in history.rows:
        print(
            f"epoch {row['epoch']:.0f}: training loss {row['train_loss']:.3f}, validation loss {row['val_loss']:.3f}, "
            f"accuracy {row['val_accuracy']:.3f}"
        )
    print(f"best epoch {history.best_epoch}; weights: {out / 'best.safetensors'}")


def _resumed(settings: RunSettings, given: dict[str, Any]) -> RunSettings:
    """The run's own settings; only how pictures are read, and where they lie, may change."""
    for name in given.keys() - {"workers", "lenient", "data"}:
        if given[name] != getattr(settings, name):
            raise ValueError(
                f"--resume goes on exactly as the run began, with {name}={getattr(settings, name)}; leave the option away, "
                "or train into another --out"
            )
    return replace(settings, **given)


def _opened(options: argparse.Namespace) -> tuple[Any, Any]:
    """Data and trained model of the run in ``--out``, what the command line names first."""
    parts = open_parts(replace(RunSettings.load(options.out), **_given(options)), options.out, training=False)
    return parts, open_model(options.out, parts.whole.classes)


def _results(options: argparse.Namespace) -> Path:
    """Where results go; those on other pictures than the run's have a folder of their own in it."""
    out: Path = options.out
    return out if options.data is None else out / f"on-{file_stem(str(Path(options.data).resolve()))}"


def _evaluate(options: argparse.Namespace) -> None:
    from lrp_plugin.images.loaders import get_dataloader

    from .reporting import write_metrics
    from .trainer import Trainer

    parts, model = _opened(options)
    trainer, settings = Trainer(model, parts.whole.classes, progress=not options.no_progress), parts.settings
    metrics = trainer.evaluate(get_dataloader(parts.test, settings.batch_size, num_workers=settings.workers))
    for name, value in metrics.items():
        if isinstance(value, float):
            print(f"{name:12} {value:.4f}")
    print("confusion matrix, rows true:", *metrics["confusion_matrix"].tolist(), sep="\n  ")
    print(f"written: {write_metrics(_results(options), metrics)}")


def _explain(options: argparse.Namespace) -> None:
    from lrp_plugin.evaluation.methods import explainers
    from lrp_plugin.explain.samples import CAUTION, explain_sample, save_example

    from .reporting import open_samples

    parts, model = _opened(options)
    made = explainers(options.methods, model, model.pixel_range)
    for identifier, source, sample in open_samples(parts, options.index, options.image):
        example = explain_sample(model, sample, made, parts.whole.classes, identifier, region="lungs")
        print(f"{identifier}: {example.predicted_class}, {100 * example.probability:.1f} %, logit {example.logit:.3f}")
        if example.true_class is None:
            print(f"  caution: {CAUTION}")
        for path in save_example(_results(options) / "explained", example, source, "lungs"):
            print(f"  written: {path}")


def _evidence(options: argparse.Namespace) -> None:
    from lrp_plugin.evaluation.evidence import evidence_table, score_evidence

    from .reporting import write_evidence

    parts, model = _opened(options)
    how = {"batch_size": parts.settings.batch_size, "progress": not options.no_progress}
    scores = score_evidence(model, parts.test, options.methods, bounds=model.pixel_range, **how)
    tables = {region: rows for region in scores.areas if (rows := scores.intervals(region))}
    if not tables:
        raise ValueError("no test picture has a mask of its lungs or of a finding: nothing to measure")
    for region, rows in tables.items():
        print(evidence_table(rows, region), end="\n\n")
    print(f"written: {write_evidence(_results(options), tables)}")


def _report(options: argparse.Namespace) -> None:
    from lrp_plugin.evaluation.methods import builders
    from lrp_plugin.report import suspicions

    from .reporting import report_run

    parts, model = _opened(options)
    builders(options.methods, model, model.pixel_range)  # an unknown name is said before the work
    told = {"out": options.out, "data": options.data, "examples": options.examples, "compare": options.compare}
    named = [word for name, value in told.items() if value is not None for word in (f"--{name}", str(value))]
    command = shlex.join(["lrp-plugin", "cxr", "report", *named, "--methods", *options.methods])
    how = {"examples": options.examples, "compared": options.compare, "progress": not options.no_progress}
    _, report, written = report_run(model, parts, options.methods, _results(options), command, **how)
    for found in suspicions(report):
        print(
            f"suspected shortcut: {found.test.class_name} rests on the {found.test.removed}: accuracy "
            f"{found.test.accuracy_with.mean:.3f} with it, {found.test.accuracy_without.mean:.3f} without"
        )
    for path in written:
        print(f"written: {path}")
