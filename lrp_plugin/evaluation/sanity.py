"""Does the map depend on the model at all? Parameters made random, labels made random (Adebayo et al. 2018).

Adebayo et al., Sanity checks for saliency maps, arXiv:1810.03292. What such scores do not say (Binder et al. 2023, CVPR,
Shortcomings of top-down randomization-based sanity checks, arXiv:2211.12486): a randomized network keeps its architecture
and, cascading from the top, for long its lower layers' activations, so that maps which follow the input's signal (LRP,
gradient times input) stay correlated without being wrong; noisy maps change most and so score best, as does pure noise;
and SSIM of maps scaled each by its own range moves with a single pixel. So a map that does *not* change is refuted; one
that changes more is not the better for it. Read them beside faithfulness, and beside the floor of a random map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution.arguments import Arguments
from lrp_plugin.errors import told
from lrp_plugin.evaluation.faithfulness import check_examples
from lrp_plugin.evaluation.similarity import rank_correlation
from lrp_plugin.kinds import checked

Explain = Callable[[Tensor, Any], Tensor]
Similarity = Callable[[Tensor, Tensor], Tensor]
ORDERS = ("cascading", "independent")


@checked
def parametrized_layers(model: nn.Module, inputs: Tensor) -> list[str]:
    """The modules that hold parameters of their own, the last to run first (those that no hook sees run come last)."""
    check_examples(inputs)
    own = {
        name: module for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))
    }
    seen: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: seen.append(name) if name not in seen else None)
        for name, module in own.items()
    ]
    try:
        with torch.no_grad():
            Arguments().call(model, (inputs[:1],))
    finally:
        for hook in hooks:
            hook.remove()
    return [*reversed(seen), *(name for name in own if name not in seen)]


def randomize(module: nn.Module, generator: torch.Generator) -> None:
    """Each parameter of the module itself drawn anew: normal, with the mean and standard deviation that it had."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            spread = parameter.std(correction=0) if parameter.numel() > 1 else parameter.abs().max()
            parameter.copy_(parameter.mean() + spread * drawn)


@checked
def parameter_randomization(
    build: Callable[[nn.Module], Explain], model: nn.Module, inputs: Tensor, target: Any, *, order: str = "cascading",
    similarity: Similarity = rank_correlation, layers: list[str] | None = None, seed: int = 0,
    relevance: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """How alike the maps of the model and of a randomized copy of it are, layer by layer; see the module's caveats.

    Args:
        build: Makes ``(inputs, target) -> relevance`` for a model.
        model: The trained model; it is copied, never changed.
        inputs: ``(N, ...)``. target: An int or ``(N,)``.
        order: ``"cascading"``: from the top down, each layer in addition to those above; ``"independent"``: one alone.
        similarity: `rank_correlation`, `structural_similarity`, or a function of two sets of maps that returns ``(N,)``.
        layers: Names of modules, in the order of randomization; None: all with parameters, the last to run first.
        seed: Of the random parameters.
        relevance: The trained model's maps, where they are known.

    Returns:
        Layer's name -> similarity ``(N,)``. An explanation that ignores the model gives 1 throughout; a sound one falls.

    Raises:
        ValueError: An unknown order or layer, or no layer at all.
    """
    if order not in ORDERS:
        raise ValueError(f"order={told(order)}; legal are {', '.join(ORDERS)}")
    names = parametrized_layers(model, inputs) if layers is None else layers
    known = dict(model.named_modules())
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ValueError(f"unknown layers {', '.join(wrong)}" if wrong else "the model has no layer with parameters")
    clean = build(model)(inputs, target) if relevance is None else relevance
    found, changed = {}, copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        changed = copy.deepcopy(model) if order == "independent" else changed
        randomize(changed.get_submodule(name), generator)
        found[name] = similarity(clean, build(changed)(inputs, target))
    return found


@checked
def label_randomization(
    build: Callable[[nn.Module], Explain], model: nn.Module, memorizer: nn.Module, inputs: Tensor, target: Any, *,
    similarity: Similarity = rank_correlation,
) -> Tensor:  # fmt: skip
    """How alike the maps of a model and of one trained on shuffled labels are, ``(N,)`` (Adebayo et al. 2018, section 4).

    Args:
        build: As in `parameter_randomization`.
        model: Trained on the true labels. memorizer: The same network, trained on shuffled labels until it knows them.
        inputs: ``(N, ...)``. target: An int or ``(N,)``. similarity: As in `parameter_randomization`.
    """
    return similarity(build(model)(inputs, target), build(memorizer)(inputs, target))


@checked
def random_map_similarity(relevance: Tensor, *, similarity: Similarity = rank_correlation, seed: int = 0) -> Tensor:
    """The floor: how alike each map and a map of random numbers are, ``(N,)``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(relevance.shape[1:], generator=generator, dtype=torch.float64).to(relevance)
    return similarity(relevance, drawn.expand(relevance.shape))
