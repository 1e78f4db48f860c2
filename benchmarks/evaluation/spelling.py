"""Rules of recurrent networks on g2p-en's GRUs: is the letter that spells a phoneme the most relevant one?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluation.tables import FOLDER
from benchmarks.harness import write_json
from lrp_plugin import Composite, UnifiedLRP, rule
from lrp_plugin.composites import linear_maps, operation, recurrent
from lrp_plugin.evaluation import bootstrap_mean, paired_difference
from lrp_plugin.rules.gates import PRODUCTS

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "real"))


def gradient_x_input(model: Any) -> Callable[[Tensor, int], Tensor]:
    """Gradient times input, by autograd."""

    def explain(x: Tensor, target: int) -> Tensor:
        given = x.detach().requires_grad_()
        return given * torch.autograd.grad(model(given)[0, target], given)[0]

    return explain


def methods(model: Any) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """The rules for recurrent networks, with epsilon and z+ in the maps outside the kernels, and gradient times input."""
    found = {"input_x_gradient": gradient_x_input(model)}
    for products in PRODUCTS:
        for epsilon in (0.001, 0.1, 1.0):
            found[f"{products}, epsilon {epsilon:g}"] = by(model, recurrent(products, epsilon))
    zplus = Composite([(operation("gru"), rule("signal", epsilon=0.001)), (linear_maps(), rule("zplus"))])
    found["signal, z+ head"] = by(model, zplus)
    return found


def by(model: Any, composite: Composite) -> Callable[[Tensor, int], Tensor]:
    """LRP with a composite, as a function."""
    lrp = UnifiedLRP(model, composite=composite)
    return lambda x, target: lrp.attribute(x, target=target)


def answers(model: Any) -> Iterator[tuple[str, int, int, list[int], tuple[int, ...]]]:
    """Word, place and number of a phoneme, what was said before it, and the letters that spell it."""
    from g2p import SPELLED

    for word, letters in SPELLED.items():
        said = model.pronounced(word)
        if len(said) == len(letters):
            for place, (number, spelled) in enumerate(zip(said, letters)):
                yield word, place, number, said[:place], spelled


def measure() -> dict[str, Any]:
    """For each method the share of phonemes whose most relevant letter is one that spells them, with intervals."""
    from g2p import speller

    model = speller().requires_grad_(False)
    asked = list(answers(model))
    found = methods(model)
    hits: dict[str, list[float]] = {name: [] for name in found}
    for word, _, number, before, spelled in asked:
        model.said = before
        x = model.spelled(word)
        for name, explain in found.items():
            letters = explain(x, number)[0, : len(word)].sum(1)
            hits[name].append(float(int(letters.argmax()) in spelled))
    base = torch.tensor(hits["input_x_gradient"])
    rows = []
    for name, values in hits.items():
        got, gap = bootstrap_mean(values), paired_difference(values, base)
        rows.append({"method": name, "hits": got.mean, "low": got.low, "high": got.high,
                     "above gradient x input": [gap.mean, gap.low, gap.high]})  # fmt: skip
    chance = sum(len(spelled) / len(word) for word, *_, spelled in asked) / len(asked)
    result = {"phonemes": len(asked), "words": len({word for word, *_ in asked}), "chance": chance, "rows": rows}
    write_json(FOLDER / "g2p.json", result)
    for row in rows:
        print(
            f"{row['method']:26} {row['hits']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['above gradient x input']}"
        )
    print({key: value for key, value in result.items() if key != "rows"})
    return result
