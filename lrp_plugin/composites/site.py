"""Where an operation stands in the network: what selectors look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import nn


class Site:
    """One operation of one forward pass.

    Attributes:
        operation: Its name (``"conv2d"``), or the module type whose call is atomic.
        linear: It is a linear map of one signal (linear, convolution, a product with a constant matrix).
        index: Its place among the linear maps, counted from the input (0 for the first); None for other operations.
        count: How many linear maps the pass executes, or None where no selector asked for it.
    """

    def __init__(
        self, operation: Any, locate: Callable[[], tuple[str, nn.Module | None]], *, linear: bool = False,
        index: int | None = None, count: int | None = None,
    ) -> None:  # fmt: skip
        self.operation = operation
        self.linear = linear
        self.index = index
        self.count = count
        self._locate = locate

    @cached_property
    def _place(self) -> tuple[str, nn.Module | None]:
        return self._locate()

    def located(self) -> Site:
        """The site with its place read now, while the module that runs it can be seen."""
        _ = self._place
        return self

    @property
    def path(self) -> str:
        """The path of the module that runs the operation."""
        return self._place[0]

    @property
    def module(self) -> nn.Module | None:
        """The module that runs the operation."""
        return self._place[1]

    @property
    def name(self) -> str:
        """The operation's name, also for an atomic module."""
        return self.operation if isinstance(self.operation, str) else self.operation.__name__
