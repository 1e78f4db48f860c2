"""Draws docs/images/photographs.png: ``python examples/draw_photographs.py`` (extra real; seconds)."""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib import pyplot
from skimage import data

from lrp_plugin import explain_image
from lrp_plugin.samples import efficientnet_lite0
from lrp_plugin.visualization import plot_overlay, save_figure

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "photographs.png"
PHOTOGRAPHS = (data.chelsea, data.coffee)


def photographs(path: Path) -> None:
    """Each photograph, and what the network's own answer rests on in it, all of the logit at the pixels."""
    network = efficientnet_lite0()
    figure, panels = pyplot.subplots(1, 2 * len(PHOTOGRAPHS), figsize=(8.6, 2.3), layout="constrained")
    for place, photograph in enumerate(PHOTOGRAPHS):
        found = explain_image(network, photograph(), bias="distribute")
        seen, map_of_it = panels[2 * place : 2 * place + 2]
        seen.imshow(found.view["picture"].permute(1, 2, 0))
        seen.set_title(f"{found.target_name}, probability {100 * found.probability:.0f} %", fontsize=9)
        seen.set_axis_off()
        plot_overlay(found.view["picture"], found.relevance, smooth=1, ax=map_of_it)
        map_of_it.set_title(f"what it rests on (logit {found.logit:.1f})", fontsize=9)
    save_figure(figure, path, dpi=200)


def main() -> None:
    """Draws the picture, there or elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURE, help="the picture's file")
    photographs(parser.parse_args().out)


if __name__ == "__main__":
    main()
