"""``lrp-plugin cxr train|evaluate|explain|evidence|report`` and ``lrp-plugin demo``: arguments, nothing else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Everything else is imported when a command runs: building the parser should not cost seconds.
if TYPE_CHECKING:
    from .runfolder import RunSettings


def add_demo(commands: Any) -> None:
    """Add ``demo`` to the parser."""
    parser = commands.add_parser("demo", help="train a small model on synthetic radiographs and explain it")
    parser.add_argument("--out", type=Path, help="folder for the results (default lrp-demo, or lrp-demo-quick)")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer pictures: a first look")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.set_defaults(run=_stoppable(_demo))


def add_cxr(commands: Any) -> None:
    """Add ``cxr`` and its commands to the parser."""
    parser = commands.add_parser("cxr", help="chest X-ray models: train, evaluate, explain, report")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = _action(actions, "train", _train, "train a model")
    train.add_argument("--data", help="'synthetic' (default) or a folder with one subfolder for each class")
    train.add_argument("--model", help="reference_cnn (default) or any torchvision classifier")
    train.add_argument("--size", type=_at_least(8), help="side of the pictures in pixels (default 128)")
    train.add_argument("--count", type=_at_least(1), help="number of synthetic pictures (default 1200)")
    train.add_argument("--seed", type=_at_least(0), help="of pictures, split, weights and order (default 0)")
    train.add_argument("--shortcut", type=float, metavar="STRENGTH",
                       help="plant a text marker that goes with COVID (synthetic data), 0 to 1")  # fmt: skip
    train.add_argument("--weights", help="pretrained weights that torchvision knows, such as DEFAULT")
    train.add_argument("--epochs", type=_at_least(1), help="passes over the training pictures (default 8)")
    train.add_argument(
        "--lr", "--learning-rate", type=float, dest="learning_rate", help="learning rate (default 0.003)"
    )
    train.add_argument("--augment", action="store_true", default=None, help="vary a folder's training pictures")
    train.add_argument("--resume", action="store_true", help="continue the run in --out, exactly")
    _action(actions, "evaluate", _evaluate, "metrics on the test pictures", opens=True)
    explain = _action(actions, "explain", _explain, "explain single pictures", opens=True)
    _methods(explain)
    chosen = explain.add_mutually_exclusive_group()
    chosen.add_argument("--index", type=int, nargs="+", help="positions in the data (default: a test picture a class)")
    chosen.add_argument("--image", type=Path, nargs="+", help="files of your own: PNG, JPEG, TIFF, DICOM")
    _methods(_action(actions, "evidence", _evidence, "where each method's relevance lies, as a table", opens=True))
    report = _action(actions, "report", _report, "one HTML page: metrics, examples, evidence, shortcuts", opens=True)
    _methods(report)
    report.add_argument("--examples", type=_at_least(1), default=2, help="right pictures of each class (default 2)")
    report.add_argument("--compare", type=_at_least(0), default=24, metavar="N",
                        help="measure the methods against each other on N test pictures, 0 on none (default 24)")  # fmt: skip


def _at_least(least: int) -> Callable[[str], int]:
    """Whole numbers of at least ``least``; argparse names the option and what came."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return value

    return whole


def _action(
    actions: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, *, opens: bool = False
) -> argparse.ArgumentParser:
    """A command; one that ``opens`` a run takes size, model and seed from it, and other data if asked."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--out", type=Path, default=Path("cxr-run"), help="the run's folder (default cxr-run)")
    if opens:
        parser.add_argument("--data", help="a folder of other pictures (default: the run's test pictures)")
    parser.add_argument("--batch-size", type=_at_least(1), help="pictures a batch (default 32)")
    parser.add_argument("--workers", type=_at_least(0), help="processes that read ahead (default 0)")
    parser.add_argument("--lenient", action="store_true", default=None,
                        help="leave out broken, missing and changed pictures with a warning")  # fmt: skip
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.set_defaults(run=_stoppable(run))
    return parser


def _methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", metavar="METHOD",
                        help="gradient methods, LRP rules or composites (default: saliency epsilon alphabeta "
                        "epsilon_plus_flat)")  # fmt: skip


def _stoppable(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Ctrl-C ends a command with one line and the shell's status for it, 130."""

    def stoppable(options: argparse.Namespace) -> None:
        try:
            run(options)
        except KeyboardInterrupt:
            print("\nlrp-plugin: stopped; every file written so far is whole", file=sys.stderr)
            raise SystemExit(130) from None

    return stoppable


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The run's settings that the command line names."""
    from .runfolder import RunSettings

    names = {field.name for field in fields(RunSettings)}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    folder = options.out or Path("lrp-demo-quick" if options.quick else "lrp-demo")
    run_demo(folder, quick=options.quick, progress=not options.no_progress)


def _train(options: argparse.Namespace) -> None:
    from .runfolder import RunSettings, open_parts, train_run

    if options.resume:
        settings = replace(RunSettings.load(options.out), **_given(options))
    else:
        settings = RunSettings(**_given(options))
        if (options.out / "last.ckpt").exists():
            raise ValueError(f"{options.out} holds a run already: continue it with --resume, or choose another --out")
    parts = open_parts(settings, options.out if options.resume else None)
    _, history = train_run(settings, parts, options.out, resume=options.resume, progress=not options.no_progress)
    for row in history.rows:
        print(
            f"epoch {row['epoch']:.0f}: training loss {row['train_loss']:.3f}, validation loss {row['val_loss']:.3f}, "
            f"accuracy {row['val_accuracy']:.3f}"
        )
    print(f"best epoch {history.best_epoch}; weights: {options.out / 'best.safetensors'}")


def _opened(options: argparse.Namespace) -> tuple[RunSettings, Any, Any]:
    """Settings, data and trained model of the run in ``--out``; what the command line names comes first."""
    from .runfolder import RunSettings, open_model, open_parts

    stored = RunSettings.load(options.out)
    settings = replace(stored, **_given(options))
    parts = open_parts(settings, options.out, training=False)
    return settings, parts, open_model(options.out, parts.whole.classes)


def _evaluate(options: argparse.Namespace) -> None:
    from .loaders import get_dataloader
    from .reporting import plain_metrics, write_metrics
    from .trainer import Trainer

    settings, parts, model = _opened(options)
    trainer = Trainer(model, parts.whole.classes, progress=not options.no_progress)
    metrics = trainer.evaluate(get_dataloader(parts.test, settings.batch_size, num_workers=settings.workers))
    for name, value in metrics.items():
        if isinstance(value, float):
            print(f"{name:12} {value:.4f}")
    print("confusion matrix, rows true:", *metrics["confusion_matrix"].tolist(), sep="\n  ")
    print(f"written: {write_metrics(options.out, plain_metrics(metrics))}")


def _explain(options: argparse.Namespace) -> None:
    from .example_figures import CAUTION, save_example
    from .explaining import DEFAULT_METHODS, build_explainer
    from .reporting import explain_sample, open_samples

    settings, parts, model = _opened(options)
    explainers = {name: build_explainer(name, model) for name in options.methods or DEFAULT_METHODS}
    for identifier, source, sample in open_samples(settings, parts, options.index, options.image):
        example = explain_sample(model, sample, explainers, parts.whole.classes, identifier)
        print(f"{identifier}: {example.predicted_class}, {100 * example.probability:.1f} %, logit {example.logit:.3f}")
        if example.true_class is None:
            print(f"  caution: {CAUTION}")
        for path in save_example(options.out / "explained", example, source):
            print(f"  written: {path}")


def _evidence(options: argparse.Namespace) -> None:
    from lrp_plugin.files import write_atomically

    from .explaining import DEFAULT_METHODS, evidence_csv, evidence_table, score_evidence

    settings, parts, model = _opened(options)
    scores = score_evidence(
        model, parts.test, options.methods or DEFAULT_METHODS, batch_size=settings.batch_size,
        progress=not options.no_progress,
    )  # fmt: skip
    tables = {region: rows for region in scores.areas if (rows := scores.intervals(region))}
    if not tables:
        raise ValueError("no test picture has a mask of its lungs or of a finding: nothing to measure")
    for region, rows in tables.items():
        print(evidence_table(rows, region), end="\n\n")
    path = options.out / "evidence.csv"
    earlier = path.read_bytes() if path.is_file() else b""
    print(f"written: {write_atomically(path, evidence_csv(tables, earlier))}")


def _report(options: argparse.Namespace) -> None:
    from lrp_plugin.report import suspicions

    from .explaining import DEFAULT_METHODS
    from .reporting import build_report, examine, explain_examples, write_findings

    settings, parts, model = _opened(options)
    methods = options.methods or DEFAULT_METHODS
    findings = examine(
        model,
        parts,
        methods,
        compared=options.compare,
        batch_size=settings.batch_size,
        progress=not options.no_progress,
    )
    examples = explain_examples(model, parts, findings, options.examples)
    command = " ".join(["lrp-plugin cxr report --out", str(options.out), "--methods", *methods])
    report = build_report(model, settings, parts, findings, examples, command)
    for found in suspicions(report):
        print(
            f"suspected shortcut: {found.test.class_name} rests on the {found.test.removed}: accuracy "
            f"{found.test.accuracy_with.mean:.3f} with it, {found.test.accuracy_without.mean:.3f} without"
        )
    for path in write_findings(options.out, report, findings):
        print(f"written: {path}")
