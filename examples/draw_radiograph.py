"""Draws docs/images/radiograph.png: ``python examples/draw_radiograph.py`` (extra cxr).

Its network is trained on small drawn films, then at 256 pixels (minutes); a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lrp_plugin.cxr.runfolder import RunSettings, open_parts, train_run
from lrp_plugin.cxr.trainer import Trainer
from lrp_plugin.evaluation.methods import explainers
from lrp_plugin.explain.samples import explain_sample
from lrp_plugin.images.loaders import get_dataloader
from lrp_plugin.visualization import plot_comparison

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "radiograph.png"
EPOCHS = 8
METHODS = ("saliency", "epsilon", "alphabeta")


def radiograph(run: Path) -> None:
    """The drawn test film with opacities that the network is surest of, and rightly; three methods' maps of it."""
    # Small films first: from scratch at 256 pixels eight epochs reach an accuracy of 0.73.
    model, _ = train_run(RunSettings(), open_parts(RunSettings()), run / "128", resume="auto", progress=False)
    settings = RunSettings(size=256, count=600, seed=1)
    parts = open_parts(settings)
    trainer = Trainer(model, parts.whole.classes, output=run / "256", seed=settings.seed, progress=False)
    loaders = [
        get_dataloader(part, settings.batch_size, shuffle=part is parts.train) for part in (parts.train, parts.val)
    ]
    trainer.train(*loaders, resume="auto", epochs=EPOCHS, learning_rate=1e-3, monitor="loss")
    accuracy = trainer.evaluate(get_dataloader(parts.test, settings.batch_size))["accuracy"]
    made = explainers(METHODS, model, model.pixel_range)
    labels, probabilities, _ = trainer.inference(get_dataloader(parts.test, settings.batch_size))
    right = [
        i for i in range(len(parts.test)) if parts.test[i]["evidence"].any() and probabilities[i].argmax() == labels[i]
    ]
    place = max(right, key=lambda i: probabilities[i].max())
    shown = explain_sample(model, parts.test[place], made, parts.whole.classes, "film", region="lungs")
    figure = plot_comparison(
        shown.image, {entry.method: entry.relevance for entry in shown.explanations}, logit=shown.logit,
        totals=[entry.method for entry in shown.explanations if entry.total is not None], mask=shown.finding,
        title=f"{shown.predicted_class}, probability {100 * shown.probability:.0f} % (drawn opacities outlined)",
    )  # fmt: skip
    figure.savefig(PICTURE, dpi=200)
    trained = f"{len(parts.train)} films, {EPOCHS} epochs, accuracy {accuracy:.3f} on {len(parts.test)} others"
    print(f"radiograph: {trained}; in truth {shown.true_class}")


def main() -> None:
    """Trains where that is not done yet, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("out") / "radiograph", help="the trained networks' folder")
    radiograph(parser.parse_args().run)


if __name__ == "__main__":
    main()
