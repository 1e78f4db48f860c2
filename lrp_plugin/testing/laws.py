"""Laws of an explanation, as functions that raise ``AssertionError`` with figures.

Each takes a `UnifiedLRP`, inputs and a target, so that one's own model, layer or rule is tested in three lines::

    lrp = UnifiedLRP(model, rule="zplus")
    assert_conserves(lrp, images, target=0)
    assert_model_untouched(lrp, images, target=0)
"""

from __future__ import annotations

import copy
import hashlib
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.errors import TargetError, UnsupportedOperationWarning, told
from lrp_plugin.kinds import checked
from lrp_plugin.ledger import Ledger
from lrp_plugin.torch_private import selected_targets

Inputs = Tensor | tuple[Tensor, ...]

# float64: 1e-9, the accuracy of sums over some 1e5 entries with cancellation; float32 by the ratio of the epsilons.
_CONSERVATION = {torch.float64: 1e-9, torch.float32: 1e-3}
_EQUALITY = {torch.float64: 1e-10, torch.float32: 1e-4}
SOFTMAX_LIKE = ("softmax", "softmin", "log_softmax", "scaled_dot_product_attention")


@checked
def assert_conserves(
    attribution: UnifiedLRP,
    inputs: Inputs,
    target: Any = None,
    additional_forward_args: Any = None,
    *,
    tolerance: float | None = None,
    allowed_other: Sequence[str] = SOFTMAX_LIKE,
) -> Ledger:
    """Relevance is conserved: ``output = sum(attributions) + absorbed``, in total and in every single operation.

    Also: relevance is finite and not all zero, and column ``other`` is used only by operations that may.

    Args:
        attribution: The explanation method, with its model.
        inputs, target, additional_forward_args: As in `UnifiedLRP.attribute`.
        tolerance: Relative to ``max(1, sum |R|)`` of each example; by default 1e-9 in float64, 1e-3 in float32.
        allowed_other: Operations that may book relevance as ``other``.

    Returns:
        The ledger, for further questions.
    """
    bound = _tolerance(inputs, tolerance, _CONSERVATION)
    relevance = _as_tuple(attribution.attribute(inputs, target, additional_forward_args))
    ledger = attribution.ledger(inputs, target, additional_forward_args)
    assert all(bool(torch.isfinite(one).all()) for one in relevance), "relevance holds NaN or infinite entries"
    size = torch.stack([one.detach().double().abs().flatten(1).sum(1).cpu() for one in relevance]).sum(0)
    assert bool((size > 0).all()), f"relevance is zero everywhere in an example: sum|R| = {size.tolist()}"
    allowed = bound * size.clamp(min=1)
    _within(ledger.gap, allowed, "the ledger's gap")
    for row in ledger.rows:
        _within(row.gap, allowed, f"the gap of row {row.path or '(root)'} {row.operation} ({row.rule})")
        if row.operation not in allowed_other:
            _within(row.other, allowed, f"'other' of row {row.path or '(root)'} {row.operation} ({row.rule})")
    attributed = torch.stack([one.detach().double().flatten(1).sum(1).cpu() for one in relevance]).sum(0)
    _within(attributed - ledger.input, allowed, "sum of attributions less the ledger's input")
    return ledger


@checked
def assert_equals_gradient_x_input(
    attribution: UnifiedLRP,
    inputs: Inputs,
    target: Any = None,
    additional_forward_args: Any = None,
    *,
    tolerance: float | None = None,
) -> None:
    """LRP-0 on a piecewise-linear network is gradient times input, entry by entry.

    The model itself is differentiated, without interception; networks that overwrite what autograd saved cannot be
    (give `attribution` a model of the same values that does not).

    Args:
        attribution: An explanation by ``rule="zero"`` (or epsilon 0) of convolutions, linear maps, BatchNorm, ReLU,
            pooling, sums.
        inputs, target, additional_forward_args: As in `UnifiedLRP.attribute`; floating point only.
        tolerance: Relative to the greatest ``|gradient x input|``; by default 1e-10 in float64, 1e-4 in float32.
    """
    bound = _tolerance(inputs, tolerance, _EQUALITY)
    relevance = _as_tuple(attribution.attribute(inputs, target, additional_forward_args))
    leaves = tuple(one.detach().clone().requires_grad_() for one in _as_tuple(inputs))
    extra = _extra(additional_forward_args)
    with torch.enable_grad():
        output = attribution.model(*(leaf.clone() for leaf in leaves), *extra)
        selected = _selected(output, target)
        gradients = torch.autograd.grad(selected.sum(), leaves)
    for place, (found, leaf, gradient) in enumerate(zip(relevance, leaves, gradients)):
        expected = leaf.detach() * gradient
        _alike(found, expected, bound, f"relevance of input {place} and gradient x input")


@checked
def assert_linear_in_output(
    attribution: UnifiedLRP,
    inputs: Inputs,
    targets: tuple[Any, Any],
    additional_forward_args: Any = None,
    *,
    factors: tuple[float, float] = (2.0, -3.0),
    tolerance: float | None = None,
) -> None:
    """Relevance is linear in what is explained: ``R(a f_i + b f_j) = a R(f_i) + b R(f_j)``.

    Args:
        attribution: The explanation method; its model gives several outputs and is in evaluation mode.
        inputs, additional_forward_args: As in `UnifiedLRP.attribute`.
        targets: Two targets, i and j.
        factors: a and b.
        tolerance: Relative to the greatest ``|R|``; by default 1e-10 in float64, 1e-4 in float32.
    """
    bound = _tolerance(inputs, tolerance, _EQUALITY)
    model = attribution.model

    def combined(_: Any, *args: Any) -> Tensor:
        output = model(*args)
        parts = [factor * _selected(output, target) for factor, target in zip(factors, targets)]
        return parts[0] + parts[1]

    mixed = copy.copy(attribution)
    # Bound to the model, so that selectors by module path find what they found before.
    mixed.session = attribution.session.explaining(types.MethodType(combined, model))
    found = _as_tuple(mixed.attribute(inputs, None, additional_forward_args))
    singles = [_as_tuple(attribution.attribute(inputs, t, additional_forward_args)) for t in targets]
    for place, one in enumerate(found):
        expected = factors[0] * singles[0][place] + factors[1] * singles[1][place]
        _alike(one, expected, bound, f"relevance of a sum of outputs at input {place} and the sum of relevances")


@checked
def assert_same_as(
    plain: UnifiedLRP,
    spelled: UnifiedLRP,
    inputs: Inputs,
    target: Any = None,
    additional_forward_args: Any = None,
    *,
    spelled_inputs: Inputs | None = None,
    tolerance: float | None = None,
) -> None:
    """Two spellings of one computation have one explanation.

    The explained output and the relevance of every entry are alike, both ledgers close, and the second spelling is not
    warned about where the first is not.

    Args:
        plain: The explanation to be met, with a model spelled the usual way.
        spelled: The other one; its model computes the same output.
        inputs, target, additional_forward_args: As in `UnifiedLRP.attribute`, for both.
        spelled_inputs: Of the second, where it takes the same entries in another form.
        tolerance: Relative to the greatest ``|R|``; by default 1e-10 in float64, 1e-4 in float32. The ledgers' gaps
            are held to ten times that, relative to ``max(1, sum |R|)``.
    """
    bound = _tolerance(inputs, tolerance, _EQUALITY)
    wanted, expected, told = _told(plain, inputs, target, additional_forward_args)
    other = inputs if spelled_inputs is None else spelled_inputs
    found, account, telling = _told(spelled, other, target, additional_forward_args)
    assert telling <= told, f"only the second spelling is warned about: {sorted(telling - told)[0]}"
    outputs = expected.output, account.output
    _within(outputs[1] - outputs[0], bound * outputs[0].abs().clamp(min=1), "the difference of the explained outputs")
    assert len(found) == len(wanted), f"relevance of {len(found)} and {len(wanted)} inputs"
    for place, (one, meant) in enumerate(zip(found, wanted)):
        _alike(one, meant, bound, f"relevance of input {place} in the second spelling and in the first")
    size = sum(float(one.detach().double().abs().sum()) for one in wanted)
    for ledger, which in ((expected, "first"), (account, "second")):
        allowed = torch.full_like(ledger.gap, 10 * bound * max(1.0, size))
        _within(ledger.gap, allowed, f"the gap of the {which} spelling's ledger")


def _told(
    attribution: UnifiedLRP, inputs: Inputs, target: Any, extra: Any
) -> tuple[tuple[Tensor, ...], Ledger, set[str]]:
    """Relevance, ledger, and what was warned about, in words without module paths."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        relevance = _as_tuple(attribution.attribute(inputs, target, extra))
        ledger = attribution.ledger(inputs, target, extra)
    unknown = (str(one.message) for one in caught if issubclass(one.category, UnsupportedOperationWarning))
    return relevance, ledger, {text.split(" in module ")[0].split(" in the model")[0] for text in unknown}


@checked
def assert_repeatable(
    attribution: UnifiedLRP,
    inputs: Inputs,
    target: Any = None,
    additional_forward_args: Any = None,
) -> None:
    """The same call twice gives the same bits, with a `ledger` between the two."""
    first = _as_tuple(attribution.attribute(inputs, target, additional_forward_args))
    attribution.ledger(inputs, target, additional_forward_args)
    second = _as_tuple(attribution.attribute(inputs, target, additional_forward_args))
    for place, (one, other) in enumerate(zip(first, second)):
        assert torch.equal(one, other), f"a second call differs at input {place} by {float((one - other).abs().max())}"


@checked
def assert_independent_of_batch(
    attribution: UnifiedLRP, inputs: Tensor, target: Any = None, *, tolerance: float | None = None
) -> None:
    """A batch's relevance is that of its examples, one by one.

    Args:
        attribution: The explanation method; its model treats the examples of a batch independently.
        inputs: A tensor, shape (N, ...).
        target: As in `UnifiedLRP.attribute`; a list holds one for each example.
        tolerance: Relative to the greatest ``|R|``; by default 1e-10 in float64, 1e-4 in float32.
    """
    bound = _tolerance(inputs, tolerance, _EQUALITY)
    together = attribution.attribute(inputs, target)
    for place in range(inputs.shape[0]):
        own = target[place] if isinstance(target, list) else target
        alone = attribution.attribute(inputs[place : place + 1], own)
        _alike(together[place : place + 1], alone, bound, f"relevance of example {place} in a batch and alone")


@checked
def assert_model_untouched(
    attribution: UnifiedLRP,
    inputs: Inputs,
    target: Any = None,
    additional_forward_args: Any = None,
    *,
    call: Callable[[], Any] | None = None,
) -> None:
    """An explanation leaves the model and the inputs bit for bit as they were.

    Parameters, buffers, ``.grad``, ``requires_grad``, ``training`` flags, hooks of every kind and instance attributes
    are compared; so are the inputs' values, versions and ``.grad``.

    Args:
        attribution: The explanation method, with its model.
        inputs, target, additional_forward_args: As in `UnifiedLRP.attribute`.
        call: What to run instead of `UnifiedLRP.attribute` with these arguments; it may raise, and what it raises is
            passed on after the comparison.
    """
    given = _as_tuple(inputs)
    before = dict(model_state(attribution.model)), [_tensor_state(one) for one in given]
    raised: BaseException | None = None
    try:
        call() if call is not None else attribution.attribute(inputs, target, additional_forward_args)
    except Exception as error:
        raised = error
    after = dict(model_state(attribution.model)), [_tensor_state(one) for one in given]
    changed = [name for name in {**before[0], **after[0]} if before[0].get(name) != after[0].get(name)]
    assert not changed, f"the explanation changed the model: {', '.join(changed[:5])}"
    moved = [place for place, (old, new) in enumerate(zip(before[1], after[1])) if old != new]
    assert not moved, f"the explanation changed inputs {moved}"
    if raised is not None:
        raise raised


def model_state(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Everything of a model that an explanation must leave alone, by name; tensors as digests of their bits."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            where = f"{path}.{name}".lstrip(".")
            if name in ("_parameters", "_buffers"):
                for key, tensor in value.items():
                    yield f"{path}.{key}".lstrip("."), None if tensor is None else (id(tensor), _tensor_state(tensor))
            elif isinstance(value, dict):
                yield where, tuple((key, id(item)) for key, item in value.items())
            elif isinstance(value, Tensor):
                yield where, _tensor_state(value)
            else:
                yield where, value if isinstance(value, (bool, int, float, str)) else id(value)


def _tensor_state(tensor: Tensor) -> tuple[Any, ...]:
    grad = None if tensor.grad is None else (id(tensor.grad), _digest(tensor.grad))
    version = None if tensor.is_inference() else tensor._version
    hooks = None if tensor._backward_hooks is None else len(tensor._backward_hooks)
    return _digest(tensor), tuple(tensor.shape), tensor.requires_grad, version, hooks, grad


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.blake2b(flat.view(torch.uint8).numpy().data, digest_size=16).hexdigest()


def _within(values: Tensor, allowed: Tensor, what: str) -> None:
    worst = (values.abs() - allowed).argmax()
    fine = bool((values.abs() <= allowed).all())
    assert fine, f"{what} is {float(values[worst]):.3e} in example {int(worst)}; allowed is {float(allowed[worst]):.3e}"


def _alike(found: Tensor, expected: Tensor, bound: float, what: str) -> None:
    assert found.shape == expected.shape, f"{what} differ in shape: {tuple(found.shape)}, {tuple(expected.shape)}"
    scale = float(expected.abs().max())
    off = float((found - expected).abs().max())
    assert off <= bound * scale, f"{what} differ by {off:.3e}; allowed is {bound:.1e} of {scale:.3e}"


def _tolerance(inputs: Inputs, given: float | None, by_dtype: dict[torch.dtype, float]) -> float:
    floating = [one.dtype for one in _as_tuple(inputs) if one.is_floating_point()]
    return given if given is not None else max((by_dtype.get(kind, 1e-1) for kind in floating), default=1e-3)


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _extra(given: Any) -> tuple[Any, ...]:
    return () if given is None else given if isinstance(given, tuple) else (given,)


def _selected(output: Tensor, target: Any) -> Tensor:
    if target is None:
        return output.reshape(output.shape[0])
    try:  # Captum's own reading of a target, beside the package's
        return selected_targets(output, int(target) if isinstance(target, Integral) else target)
    except AssertionError as error:
        raise TargetError(f"target={told(target)}: {error}") from None
