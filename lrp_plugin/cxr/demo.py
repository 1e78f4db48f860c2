"""``lrp-plugin demo``: train on synthetic radiographs, explain, and show where the evidence lies."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor

from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.evaluation.evidence import evidence_table
from lrp_plugin.explain.samples import plot_example
from lrp_plugin.files import file_stems
from lrp_plugin.report import Report
from lrp_plugin.visualization import plot_ledger, save_figure
from lrp_plugin.visualization.classes import literal, plot_class_examples, plot_confusion_matrix
from lrp_plugin.visualization.localisation import plot_evidence

from .models import CXRClassifier
from .reporting import Findings, report_run
from .runfolder import DEFAULT_METHODS, Parts, RunSettings, open_parts, train_run

FULL = RunSettings()
QUICK = RunSettings(size=64, count=480, epochs=8)


def run_demo(folder: Path, *, quick: bool = False, progress: bool = True) -> None:
    """Train the reference model on the embedded data, explain its test pictures, write everything to ``folder``.

    Each file is written whole. A demo that was stopped continues where it was when called again. With ``quick`` pictures
    are smaller and fewer; the figures are then less telling.

    Raises:
        CheckpointError: the folder holds a run of other settings. OSError: something cannot be written.
    """
    settings, start = QUICK if quick else FULL, time.perf_counter()
    print(f"Drawing {settings.count} radiographs of {settings.size} x {settings.size} pixels")
    parts = open_parts(settings)
    print(f"Training {settings.model} on {len(parts.train)} of them, {settings.epochs} epochs")
    model, _ = train_run(settings, parts, folder, resume="auto", progress=progress)
    trained = time.perf_counter()
    print(f"Explaining {len(parts.test)} test pictures: {', '.join(DEFAULT_METHODS)}")
    command = f"lrp-plugin demo --out {folder}" + (" --quick" if quick else "")
    findings, report, written = report_run(model, parts, DEFAULT_METHODS, folder, command, progress=progress)
    written += _write_figures(folder / "figures", model, parts, findings, report)
    print(f"\nTest accuracy {findings.metrics['accuracy']:.3f} on {len(findings.labels)} pictures\n")
    print(evidence_table(findings.scores.intervals("evidence"), "evidence"))
    if quick:
        print("At this size an opacity is a few pixels wide: take the figures from the demo without --quick.")
    seconds = time.perf_counter() - start
    print(f"\n{seconds:.0f} s, of which data and training {trained - start:.0f} s. Written:")
    print("\n".join(f"  {path}" for path in written))
    print(f"\nOpen {written[0].resolve().as_uri()}")


def _write_figures(folder: Path, model: CXRClassifier, parts: Parts, findings: Findings, report: Report) -> list[Path]:
    """One figure for each class's first example, and those about the whole test set."""
    classes = parts.whole.classes
    firsts = {example.true_class: example for example in reversed(report.examples)}
    # Where the first example's logit went, operation by operation.
    shown, method = report.examples[0], "epsilon_plus_flat"
    image = Tensor(shown.image)[None].to(next(model.parameters()).device)
    ledger = UnifiedLRP(model, composite=method).ledger(image, parts.whole.label_vocab[shown.predicted_class])
    logit = f"the logit of {shown.predicted_class}, {shown.logit:.2f}"
    figures = {
        "classes": plot_class_examples(parts.test),
        "confusion": plot_confusion_matrix(findings.metrics["confusion_matrix"], classes),
        **{
            f"explained-{stem}": plot_example(firsts[name], "lungs")
            for name, stem in zip(classes, file_stems(classes))
            if name in firsts
        },
        "evidence": plot_evidence(findings.scores.intervals("evidence"), "evidence"),
        "lungs": plot_evidence(findings.scores.intervals("lungs"), "lungs"),
        "ledger": plot_ledger(ledger.rows, title=literal(f"{shown.identifier}: {logit}, {method}")),
    }
    return [save_figure(figure, folder / f"{name}.png", dpi=200) for name, figure in figures.items()]
