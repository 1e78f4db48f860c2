"""What the model is called with, by position and by name, and relevance given back in the inputs' own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from captum._utils.common import _format_output
from torch import Tensor


class Arguments(NamedTuple):
    """The model's arguments beside the explained tensors.

    Args:
        names: Of the explained tensors, where they are given by name; empty where by position.
        positional: Further arguments by position, behind the explained ones.
        keywords: Further arguments by name.
    """

    names: tuple[str, ...] = ()
    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}

    def call(self, model: Any, tensors: Sequence[Tensor]) -> Any:
        """What the model returns for these explained tensors."""
        if not self.names:
            return model(*tensors, *self.positional, **self.keywords)
        return model(*self.positional, **dict(zip(self.names, tensors)), **self.keywords)

    def format(self, relevances: Sequence[Tensor], many: bool) -> Any:
        """One relevance per input in the inputs' form: a dict by name, a tuple, or a tensor."""
        return dict(zip(self.names, relevances)) if self.names else _format_output(many, tuple(relevances))


def read_arguments(inputs: Any, additional: Any, keywords: Mapping[str, Any] | None) -> tuple[Any, Arguments]:
    """The explained inputs without their names, and everything else the model is called with.

    Args:
        inputs: A tensor, a tuple of them, or a mapping from the model's argument names to them.
        additional: One further argument, or a tuple of them, or None; what this function returned passes unchanged.
        keywords: Further arguments by name, or None.

    Raises:
        ValueError: For a name given twice, or that is no string.
    """
    if isinstance(additional, Arguments):
        return inputs, additional
    names: tuple[str, ...] = ()
    if isinstance(inputs, Mapping):
        names, inputs = tuple(inputs), tuple(inputs.values())
    keywords = dict(keywords or {})
    for name in (*names, *keywords):
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is no argument's name; give strings, as {{'input_ids': ids}}")
    twice = sorted(set(names) & set(keywords))
    if twice:
        raise ValueError(f"{', '.join(twice)} given both in inputs and in forward_kwargs: explain it, or hold it fixed")
    positional = () if additional is None else additional if isinstance(additional, tuple) else (additional,)
    return inputs, Arguments(names, positional, keywords)
