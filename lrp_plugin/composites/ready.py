"""The field's ready composites: functions that return a `Composite`, usable by name where they need no argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lrp_plugin.composites.composite import Composite, RuleSpec, rule
from lrp_plugin.composites.selectors import Selector, convolutions, dense, first, linear_maps, operation, path
from lrp_plugin.errors import told
from lrp_plugin.kinds import checked
from lrp_plugin.rules.functions import SOFTMAXES
from lrp_plugin.rules.gates import PRODUCTS
from lrp_plugin.rules.recurrent import CELLS, SEQUENCES


def handing_on(bias: str) -> list[tuple[Selector, RuleSpec]]:
    """What ``bias="distribute"`` asks of operations that are no linear maps: their shifts are handed on as well."""
    if bias != "distribute":
        return []
    return [
        (operation("batch_norm"), rule("affine", bias=bias)),
        (~linear_maps(), rule("identity", bias=bias)),
    ]


def epsilon_plus(epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: str = "absorb") -> Composite:
    """z+ for convolutions, epsilon for dense layers (Kohlbrenner et al. 2020, arXiv 1910.09840, LRP-CMP).

    Args:
        epsilon: The dense layers' epsilon, in units of the pre-activation.
        stabilizer: Added to z+'s denominators.
        bias: ``"absorb"``, ``"ignore"`` or ``"distribute"``.
    """
    return Composite(
        [
            (convolutions(), rule("zplus", stabilizer=stabilizer, bias=bias)),
            (dense(), rule("epsilon", epsilon=epsilon, bias=bias)),
            *handing_on(bias),
        ],
        "epsilon_plus",
    )


def epsilon_plus_flat(epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: str = "absorb") -> Composite:
    """`epsilon_plus` with flat in the first layer."""
    below = epsilon_plus(epsilon, stabilizer, bias).with_rule(first(), rule("flat", stabilizer=stabilizer))
    return Composite(below.pairs, "epsilon_plus_flat")


def epsilon_alpha2_beta1(epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: str = "absorb") -> Composite:
    """alpha-beta (2, 1) for convolutions, epsilon for dense layers (Kohlbrenner et al. 2020)."""
    pairs = [
        (convolutions(), rule("alphabeta", alpha=2.0, beta=1.0, stabilizer=stabilizer, bias=bias)),
        (dense(), rule("epsilon", epsilon=epsilon, bias=bias)),
        *handing_on(bias),
    ]
    return Composite(pairs, "epsilon_alpha2_beta1")


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: str = "absorb") -> Composite:
    """`epsilon_alpha2_beta1` with flat in the first layer."""
    below = epsilon_alpha2_beta1(epsilon, stabilizer, bias).with_rule(first(), rule("flat", stabilizer=stabilizer))
    return Composite(below.pairs, "epsilon_alpha2_beta1_flat")


def epsilon_gamma_box(
    low: Any, high: Any, epsilon: float = 1e-6, gamma: float = 0.25, stabilizer: float = 1e-6, bias: str = "absorb"
) -> Composite:
    """z^B in the first layer, gamma for convolutions, epsilon for dense layers (Montavon et al. 2019, section 10.2).

    Args:
        low: The smallest value an input entry can take (number, or tensor broadcastable to the input).
        high: The largest.
        epsilon, gamma, stabilizer, bias: As in the rules.
    """
    pairs = [
        (first(), rule("zbox", low=low, high=high, stabilizer=stabilizer)),
        (convolutions(), rule("gamma", gamma=gamma, stabilizer=stabilizer, bias=bias)),
        (dense(), rule("epsilon", epsilon=epsilon, bias=bias)),
        *handing_on(bias),
    ]
    return Composite(pairs, "epsilon_gamma_box")


def deep_taylor(stabilizer: float = 1e-6, bias: str = "absorb") -> Composite:
    """Deep Taylor decomposition: z+ everywhere, w^2 in the first layer (Montavon et al. 2017)."""
    pairs = [
        (first(), rule("wsquare", stabilizer=stabilizer)),
        (linear_maps(), rule("zplus", stabilizer=stabilizer, bias=bias)),
        *handing_on(bias),
    ]
    return Composite(pairs, "deep_taylor")


def attnlrp(epsilon: float = 1e-6, bias: str = "absorb") -> Composite:
    """AttnLRP: epsilon for linear maps, uniform products, softmax by its gradient (Achtibat et al. 2024)."""
    return Composite([(linear_maps(), rule("epsilon", epsilon=epsilon, bias=bias)), *handing_on(bias)], "attnlrp")


def attnlrp_gamma(
    conv: float = 0.25, linear: float = 0.05, epsilon: float = 1e-6, stabilizer: float = 1e-6, bias: str = "absorb"
) -> Composite:
    """AttnLRP's setting for vision transformers: gamma for convolutions and dense layers, epsilon in attention.

    Achtibat et al. 2024 (arXiv 2402.05602), appendix B: conv gamma 0.25, linear gamma 0.05, attention projections
    epsilon.
    """
    from lrp_plugin.composites.selectors import in_attention

    pairs = [
        (in_attention() & linear_maps(), rule("epsilon", epsilon=epsilon, bias=bias)),
        (convolutions(), rule("gamma", gamma=conv, stabilizer=stabilizer, bias=bias)),
        (operation("linear"), rule("gamma", gamma=linear, stabilizer=stabilizer, bias=bias)),
        (dense(), rule("epsilon", epsilon=epsilon, bias=bias)),
        *handing_on(bias),
    ]
    return Composite(pairs, "attnlrp_gamma")


def cp_lrp(epsilon: float = 1e-6, bias: str = "absorb") -> Composite:
    """CP-LRP: as `attnlrp`, the attention weights held constant (Ali et al. 2022)."""
    pairs = [
        (operation("scaled_dot_product_attention"), rule("cp_lrp")),
        (operation("softmax", *SOFTMAXES), rule("cp_lrp")),
        (linear_maps(), rule("epsilon", epsilon=epsilon, bias=bias)),
        *handing_on(bias),
    ]
    return Composite(pairs, "cp_lrp")


@checked
def recurrent(products: str = "uniform", epsilon: float = 0.1) -> Composite:
    """LSTM, GRU and RNN as kernels or by hand, one rule for every gate times a signal; epsilon in linear maps.

    The defaults are those that found the letters behind a phoneme most steadily (docs/choosing-a-rule.md): half of a product
    to each factor, and an epsilon that damps the paths through time that nearly cancel.

    Args:
        products: ``"signal"`` (`arras`), ``"uniform"``, ``"ratio"`` or ``"gradient"`` (the gate gets its gradient besides).
        epsilon: Of all linear maps, also of those inside a recurrent kernel, in units of the pre-activation.

    Raises:
        ValueError: For an unknown rule of products.
    """
    if products not in PRODUCTS:
        raise ValueError(f"products={told(products)}; legal are {', '.join(PRODUCTS)}")
    pairs = [
        (linear_maps(), rule("epsilon", epsilon=epsilon)),
        (operation(*SEQUENCES, *CELLS), rule(products, epsilon=epsilon)),
        (operation("mul"), rule(products)),
    ]
    if products == "gradient":
        pairs.append((operation("sigmoid"), rule("gradient")))
    return Composite(pairs, f"recurrent {products}")


def arras(epsilon: float = 1e-3) -> Composite:
    """LSTM, GRU and RNN as kernels or by hand: gates get nothing, signals everything (Arras et al. 2017, 2019).

    arXiv 1706.07206, section 3.2, with its epsilon of 0.001. In a cell by hand a gate is what came through a sigmoid; the
    default for products, ``uniform``, would give it half. `recurrent` has the other rules.

    Args:
        epsilon: Of all linear maps, also of those inside a recurrent kernel, in units of the pre-activation.
    """
    return Composite(recurrent("signal", epsilon).pairs, "arras")


def mamba_lrp(epsilon: float = 1e-6, bias: str = "absorb") -> Composite:
    """MambaLRP: the step size, A, B and C of a selective state space are held constant (Jafari et al. 2024, arXiv 2406.07592).

    The recurrence ``h = A h + B x, y = C h`` is linear in x then. They are what the module ``x_proj`` returns, as Mamba,
    FalconMamba and Jamba name it; Mamba-2 projects them together with x, and has no such place. The rest of the paper are
    defaults here: the sigmoid of SiLU and the norm's root are constants, the gate's product is shared by halves. The
    convolution and the recurrence are seen where they are torch's operations, not in a CUDA kernel.
    """
    pairs = [
        (path("*x_proj"), rule("constant")),
        (linear_maps(), rule("epsilon", epsilon=epsilon, bias=bias)),
        *handing_on(bias),
    ]
    return Composite(pairs, "mamba_lrp")


def guided_backprop() -> Composite:
    """Guided backprop, for comparison: input times guided gradient (Springenberg et al. 2015, arXiv 1412.6806)."""
    return Composite([(operation("relu"), rule("guided_backprop")), (linear_maps(), rule("zero"))], "guided_backprop")


def deconvnet() -> Composite:
    """Deconvnet, for comparison: input times deconvnet's gradient (Zeiler and Fergus 2014, arXiv 1311.2901)."""
    return Composite([(operation("relu"), rule("deconvnet")), (linear_maps(), rule("zero"))], "deconvnet")


LRP_CMP_PRESETS = {
    "alpha1": (1.0, False),
    "alpha1_flat": (1.0, True),
    "alpha2": (2.0, False),
    "alpha2_flat": (2.0, True),
}
"""Preset: alpha of the convolutions, flat in the first layer."""


@checked
def lrp_cmp(
    preset: str = "alpha1_flat", epsilon: float = 0.1, stabilizer: float = 1e-9, bias: str = "absorb"
) -> Composite:
    """LRP-CMP: epsilon in dense layers, alpha-beta in convolutions, flat below (Kohlbrenner et al. 2020, section III).

    Args:
        preset: ``"alpha1"``, ``"alpha1_flat"``, ``"alpha2"`` or ``"alpha2_flat"``.
        epsilon: The dense layers' epsilon. stabilizer: Added to the other denominators. bias: As in the rules.

    Raises:
        ValueError: For an unknown preset.
    """
    if preset not in LRP_CMP_PRESETS:
        raise ValueError(f"unknown preset {told(preset)} of lrp_cmp; legal are {', '.join(LRP_CMP_PRESETS)}")
    alpha, flat = LRP_CMP_PRESETS[preset]
    pairs = [
        (convolutions(), rule("alphabeta", alpha=alpha, beta=alpha - 1, stabilizer=stabilizer, bias=bias)),
        (dense(), rule("epsilon", epsilon=epsilon, bias=bias)),
        *handing_on(bias),
    ]
    below = [(first(), rule("flat", stabilizer=stabilizer))] if flat else []
    return Composite([*below, *pairs], f"lrp_cmp {preset}")


READY: dict[str, Callable[[], Composite]] = {
    maker.__name__: maker
    for maker in (
        epsilon_plus, epsilon_plus_flat, epsilon_alpha2_beta1, epsilon_alpha2_beta1_flat, deep_taylor, attnlrp,
        attnlrp_gamma, cp_lrp, arras, recurrent, mamba_lrp, guided_backprop, deconvnet, lrp_cmp,
    )
}  # fmt: skip


def list_composites() -> dict[str, str]:
    """The ready composites by name, each with the first line of its docstring.

    >>> list_composites()["epsilon_plus_flat"]
    '`epsilon_plus` with flat in the first layer.'
    """
    makers = {**READY, "epsilon_gamma_box": epsilon_gamma_box}
    return {name: (maker.__doc__ or "").split("\n")[0] for name, maker in makers.items()}


@checked
def ready_composite(name: str) -> Composite:
    """A ready composite by its name.

    Raises:
        ValueError: For an unknown name; the legal ones are listed.
    """
    if name == "epsilon_gamma_box":
        raise ValueError("composite 'epsilon_gamma_box' needs the input's range: epsilon_gamma_box(low, high)")
    if name not in READY:
        raise ValueError(
            f"unknown composite {told(name)}; legal are {', '.join(sorted(READY))} and epsilon_gamma_box(low, high)"
        )
    return READY[name]()
