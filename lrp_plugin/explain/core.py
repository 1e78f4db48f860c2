"""From a model and its input to an `Explanation`: what all kinds of input share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.attribution.inputs import OUTPUT_NAMES, chosen_output, described
from lrp_plugin.attribution.reach import LITTLE, leave_out
from lrp_plugin.composites import Composite
from lrp_plugin.errors import told, unknown
from lrp_plugin.explain.explanation import IN_WORDS, Explanation, Guess
from lrp_plugin.explain.methods import GRADIENTS, Bounds, automatic, gradient_for, lrp_for, takes_bias
from lrp_plugin.explain.refusals import is_out_of_memory, refuse_empty_weights, refused
from lrp_plugin.kinds import checked_model
from lrp_plugin.ledger import ABSORBED
from lrp_plugin.propagation.quiet import evaluating


def scores_of(output: Any, choose: Any = None) -> Tensor:
    """The tensor that is explained of what a model returns; see `UnifiedLRP`'s ``output``."""
    if choose is not None:
        return chosen_output(output, choose)
    if isinstance(output, Tensor):
        return output
    for name in OUTPUT_NAMES:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise ValueError(
        f"the model returned {described(output)}, without any of {', '.join(OUTPUT_NAMES)}: say which tensor is "
        "explained by output=, a name in it, a place (int), or a function of it"
    )


def whole_call(explain: Callable[..., Explanation]) -> Callable[..., Explanation]:
    """A decorator for ``explain_...(model, ...)``: one evaluation mode, and one warning of it, for all its passes."""

    @wraps(explain)
    def explained(model: Any, *arguments: Any, **options: Any) -> Explanation:
        refuse_empty_weights(model)
        with evaluating(checked_model(model)):
            return explain(model, *arguments, **options)

    return explained


def forward(
    model: Any,
    inputs: Any,
    forward_kwargs: Mapping[str, Any] | None = None,
    remedy: str = "give it as the model takes it",
) -> Any:
    """What the model returns in evaluation mode, without a graph.

    Raises:
        ValueError: The model cannot take the input: why, and the `remedy`; its own error is the cause.
    """

    def call() -> Any:
        return model(**inputs, **further) if isinstance(inputs, Mapping) else model(inputs, **further)

    further = dict(forward_kwargs or {})
    with torch.no_grad(), evaluating(model):
        try:
            return call()
        except Exception as error:  # the model's own, of any kind
            if is_out_of_memory(error):
                raise
            raise refused(model, call, inputs, error, remedy) from error


def device_of(model: Any) -> torch.device:
    """Where the model's first parameter is; the CPU where it has none."""
    found = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if found is None else found.device


def dtype_of(model: Any) -> torch.dtype:
    """The model's floating-point type; float32 where it has no parameters."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((one.dtype for one in parameters if one.is_floating_point()), torch.float32)


def guesses(
    scores: Tensor, names: Sequence[str] | None, probabilities: str | None, topk: int
) -> tuple[list[Guess], list[float] | None]:
    """The best answers among ``(K,)`` outputs, and all probabilities.

    Args:
        scores: What the model returned for one example.
        names: The K names.
        probabilities: ``"softmax"``, ``"sigmoid"``, ``"given"`` (the outputs are probabilities) or None.
        topk: How many answers.
    """
    scores = scores.detach().double().cpu()
    shares = _probabilities(scores, probabilities)
    order = scores.argsort(descending=True, stable=True)[: max(topk, 1)].tolist()
    found = [
        Guess(k, names[k] if names else None, float(scores[k]), None if shares is None else float(shares[k]))
        for k in order
    ]
    return found, None if shares is None else shares.tolist()


def _probabilities(scores: Tensor, kind: str | None) -> Tensor | None:
    legal = ("softmax", "sigmoid", "given", "none", None)
    if kind not in legal:
        raise ValueError(unknown("kind of probabilities", str(kind), [str(one) for one in legal]))
    if kind == "softmax":
        return scores.softmax(0)
    return scores.sigmoid() if kind == "sigmoid" else scores if kind == "given" else None


def kind_of_probabilities(model: Any, scores: Tensor) -> str | None:
    """How outputs become probabilities: told by the model's package, else by how many and which they are."""
    packages = {kind.__module__.split(".")[0] for kind in type(model).__mro__}
    config = getattr(model, "config", None)
    if "transformers" in packages and getattr(config, "problem_type", None) == "regression":
        return None
    several = "transformers" in packages and getattr(config, "problem_type", None) == "multi_label_classification"
    values = scores.detach().double()
    if len(values) > 1 and bool((values >= 0).all()) and abs(float(values.sum()) - 1) < 1e-3:
        return "given"  # the model ends in a softmax
    if several or "torchxrayvision" in packages:
        inside = bool((values >= 0).all() and (values <= 1).all())
        return "given" if inside and getattr(model, "apply_sigmoid", False) else "sigmoid"
    return "sigmoid" if len(values) == 1 else "softmax"


def relevance_of(
    model: Any, inputs: Any, target: Any, method: str | Composite, *, bias: str = "absorb", bounds: Bounds | None = None,
    output: Any = None, forward_kwargs: Mapping[str, Any] | None = None, ledger: bool = True, **options: Any,
) -> tuple[Any, Any, str, str]:  # fmt: skip
    """Relevance of a batch of one, its ledger, the method's name and the unit.

    Args:
        model, inputs, target, forward_kwargs: As `UnifiedLRP.attribute` takes them.
        method: A name, ``"auto"``, or a `Composite`.
        bias, bounds, output: See `lrp_for`.
        ledger: Also make the account.
        **options: Of `UnifiedLRP` or of the gradient method.
    """
    call: dict[str, Any] = {} if forward_kwargs is None else {"forward_kwargs": forward_kwargs}
    if not isinstance(method, (str, Composite)):
        raise TypeError(f"method is {told(method)}; legal are a method's name, 'auto', or a Composite")
    name = method if isinstance(method, str) else method.name or "composite"
    if method == "auto":
        name = method = automatic(model, inputs, output=output, **call)
    if method in GRADIENTS:
        if bias != "absorb":
            raise ValueError(
                f"{method} is a gradient method and takes no bias={bias!r}; leave it away, or choose a rule"
            )
        if not isinstance(inputs, Tensor) or not isinstance(target, int):
            raise ValueError(
                f"{method} explains a class of one floating-point input; choose an LRP method for this one"
            )
        explainer = gradient_for(model, str(method), output=lambda found: scores_of(found, output), **options)
        return explainer.attribute(inputs, target), None, name, explainer.unit
    lrp = lrp_for(model, method, bias=bias, bounds=bounds, output=output, **options)
    if ledger:
        leave_out(lrp.session)  # its note says more, from the ledger
    if bias != "absorb":
        name = f"{name}, biases {'handed on' if bias == 'distribute' else 'ignored'}"
    found = lrp.attribute(inputs, target, **call)
    return found, lrp.ledger(inputs, target, **call) if ledger else None, name, "logit"


def noted(explanation: Explanation, bias: str) -> Explanation:
    """Adds what a reader has to know of a map that is empty or holds little, and warns of it in Python's way."""
    notes = list(explanation.notes)
    if not bool(explanation.relevance.any()):
        why = "the explained output is 0" if explanation.logit == 0 else "nothing reached the input"
        notes.append(f"the map is blank: {why}, as with a last layer that was never trained")
    elif explanation.share is not None and abs(explanation.share) < LITTLE and bias != "distribute":
        from lrp_plugin.visualization import percent

        assert explanation.ledger is not None
        taken = {name: float(getattr(explanation.ledger, name)[0]) / explanation.logit for name in ABSORBED}
        most = max(taken, key=lambda name: abs(taken[name]))
        remedy = "" if takes_bias(explanation.method) else f" of a rule that takes it, {explanation.method} does not,"
        how = f'; bias="distribute" (--bias distribute){remedy} hands on what biases take' if most == "bias" else ""
        notes.append(
            f"only {percent(explanation.share)} of the logit reached the input, {percent(taken[most])} went to "
            f"{IN_WORDS[most]}: the map's pattern can be read, its scale cannot{how}"
        )
        warnings.warn(notes[-1], stacklevel=4)
    explanation.notes = tuple(notes)
    return explanation


def named(model: Any) -> str:
    """What a model is called in reports."""
    return getattr(model, "name_in_reports", None) or getattr(model, "__name__", None) or type(model).__name__
