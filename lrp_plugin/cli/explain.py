"""``lrp-plugin explain IMAGE``: one image, one torchvision network, where the logit comes from."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from lrp_plugin.attribution import RULES, UnifiedLRP
from lrp_plugin.cli.images import MEAN, STD, load_image, normalized
from lrp_plugin.composites import ready_composite
from lrp_plugin.composites.ready import READY
from lrp_plugin.visualization import plot_overlay, save_figure, write_atomically


def add_explain(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("explain", help="explain one image with a torchvision network")
    parser.add_argument("image", help="an image file (any size, grey or colour, 8 or 16 bit), or 'sample'")
    parser.add_argument("--model", default="resnet18", help="a torchvision classifier (default resnet18)")
    parser.add_argument("--weights", help="a state-dict file, or DEFAULT for torchvision's own (needs the network)")
    parser.add_argument("--rule", default="epsilon_plus_flat",
                        help=f"a rule ({', '.join(RULES)}) or a ready composite ({', '.join(READY)})")  # fmt: skip
    parser.add_argument("--target", type=int, help="the class to explain (default: the top one)")
    parser.add_argument("--size", type=int, help="side of the network's input in pixels (default: the model's own)")
    parser.add_argument("--out", default="lrp-out", help="folder for the results (default lrp-out)")
    parser.set_defaults(run=run_explain)


def run_explain(options: argparse.Namespace) -> None:
    """Explains the image, writes overlay PNG, relevance .npy and summary JSON, prints a short summary."""
    model, size, trained = _model(options.model, options.weights)
    picture = load_image(options.image, options.size or size)
    inputs = normalized(picture).unsqueeze(0)
    with torch.no_grad():
        logits = model(inputs)[0]
    target = int(logits.argmax()) if options.target is None else options.target
    lrp = explainer(model, options.rule)
    relevance = lrp.attribute(inputs, target=target)
    account = lrp.ledger(inputs, target=target)
    summary = _summary(options, logits, target, relevance, account.to_dict(), trained)
    paths = _write(Path(options.out), Path(options.image).stem, picture, relevance[0], summary)
    _report(summary, paths)


def explainer(model: nn.Module, rule: str) -> UnifiedLRP:
    """UnifiedLRP for a rule's or a ready composite's name.

    Raises:
        ValueError: For a name that is neither.
    """
    if rule in READY:
        return UnifiedLRP(model, composite=ready_composite(rule))
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; legal are {', '.join((*RULES, *READY))}")
    return UnifiedLRP(model, rule)


def _model(name: str, weights: str | None) -> tuple[nn.Module, int, bool]:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"unknown model {name!r}; legal are {', '.join(names)}")
    size = _input_size(name)
    if weights == "DEFAULT":
        return torchvision.models.get_model(name, weights="DEFAULT").eval(), size, True
    torch.manual_seed(0)  # an untrained network is at least the same one each time
    model = torchvision.models.get_model(name, weights=None)
    if weights is not None:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval(), size, weights is not None


def _input_size(name: str) -> int:
    """The side of the images the torchvision weights of this model were evaluated on, in pixels."""
    weights = torchvision.models.get_model_weights(name)
    crop = weights.DEFAULT.transforms().crop_size
    return int(crop[0])


def _summary(
    options: argparse.Namespace, logits: Tensor, target: int, relevance: Tensor, account: dict[str, Any], trained: bool
) -> dict[str, Any]:
    totals = {key: value[0] for key, value in account.items() if key != "rows"}
    return {
        "image": str(options.image), "model": options.model, "trained": trained, "rule": options.rule, "target": target,
        "predicted": int(logits.argmax()), "logit": float(logits[target]),
        "probability": float(logits.softmax(0)[target]), "sum_of_relevance": float(relevance.double().sum()),
        "ledger": totals,
    }  # fmt: skip


def _write(folder: Path, stem: str, picture: Tensor, relevance: Tensor, summary: dict[str, Any]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{stem}-{summary['model']}-{summary['rule']}"
    name = summary["model"] if summary["trained"] else f"untrained {summary['model']}"
    title = f"{name}, class {summary['target']}, logit {summary['logit']:.3g}\n{summary['rule']}"
    figure = plot_overlay(picture, relevance, title=title)
    paths = [Path(f"{base}{ending}") for ending in (".png", ".npy", ".json")]
    save_figure(figure, paths[0])
    temporary = Path(f"{base}.npy.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, relevance.numpy())
    os.replace(temporary, paths[1])
    write_atomically(paths[2], (json.dumps(summary, indent=2) + "\n").encode())
    return paths


def _report(summary: dict[str, Any], paths: list[Path]) -> None:
    if not summary["trained"]:
        print(
            "Note: no weights were given, so this network is UNTRAINED: the map shows how the method works, not evidence."
        )
    print(f"{summary['model']} on {summary['image']}: class {summary['predicted']} is on top")
    print(
        f"explained: class {summary['target']}, logit {summary['logit']:.4g}, probability {summary['probability']:.3g}"
    )
    parts = ", ".join(
        f"{name} {summary['ledger'][name]:.3g}" for name in ("bias", "constant", "stabilizer", "no_receiver", "other")
    )
    print(
        f"relevance at the pixels {summary['sum_of_relevance']:.4g}; absorbed: {parts}; gap {summary['ledger']['gap']:.1e}"
    )
    for path in paths:
        print(f"written: {path}")


__all__ = ["MEAN", "STD", "add_explain", "explainer", "run_explain"]
