"""Selectors: which operations of a network are meant."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial, wraps
from numbers import Real
from typing import Any, TypeVar, cast

from torch import nn

from lrp_plugin.composites.site import Site
from lrp_plugin.errors import told

Maker = TypeVar("Maker", bound=Callable[..., "Selector"])


def remembered(maker: Maker) -> Maker:
    """The maker, whose selectors know the call that made them: they can be pickled."""

    @wraps(maker)
    def make(*args: Any, **named: Any) -> Selector:
        return replace(maker(*args, **named), made=(partial(make, **named), args))

    return cast(Maker, make)


@dataclass(frozen=True)
class Selector:
    """A named test of a site. Made by the functions below; ``a & b``, ``a | b`` and ``~a`` combine.

    Args:
        text: How it prints; two selectors with one text are equal.
        matches: The test.
        located: It looks at the module that runs the operation.
        numbered: It looks at the operation's number among the linear maps.
        counted: It needs the number of linear maps of the whole pass, so a forward pass is made first.
        final: The number of the last linear map that it may match, counted from 0; None where that is not known.
        made: The function and the arguments that make it again.
        pattern: The module path it names, or what else the user wrote out: to match nothing is a mistake then.
    """

    text: str
    matches: Callable[[Site], bool] = field(compare=False)
    located: bool = True
    numbered: bool = False
    counted: bool = False
    final: int | None = field(default=None, compare=False)
    made: tuple[Any, ...] | None = field(default=None, compare=False, repr=False)
    pattern: str | None = field(default=None, compare=False)

    def __reduce__(self) -> Any:
        """Pickled by the call that made it: a test may be no function of a module."""
        return self.made if self.made is not None else object.__reduce__(self)

    @remembered
    def __and__(self, other: Selector) -> Selector:
        return Selector(
            f"{self} and {other}", lambda site: self.matches(site) and other.matches(site),
            self.located or other.located, self.numbered or other.numbered, self.counted or other.counted,
            min((end for end in (self.final, other.final) if end is not None), default=None),
            pattern=self.pattern or other.pattern,
        )  # fmt: skip

    @remembered
    def __or__(self, other: Selector) -> Selector:
        return Selector(
            f"({self} or {other})", lambda site: self.matches(site) or other.matches(site),
            self.located or other.located, self.numbered or other.numbered, self.counted or other.counted,
            None if self.final is None or other.final is None else max(self.final, other.final),
            pattern=self.pattern or other.pattern,
        )  # fmt: skip

    @remembered
    def __invert__(self) -> Selector:
        return Selector(f"not {self}", lambda site: not self.matches(site), self.located, self.numbered, self.counted)

    def __str__(self) -> str:
        return self.text


def _check(fine: bool, given: str, legal: str) -> None:
    if not fine:
        raise ValueError(f"{given}: legal is {legal}")


@remembered
def path(pattern: str) -> Selector:
    """Operations run by modules whose path matches a glob: ``path("layer1.*.conv1")``."""
    _check(isinstance(pattern, str), f"path({told(pattern)})", "a glob of module paths, path('layer1.*')")
    return Selector(f"path {pattern}", lambda site: fnmatchcase(site.path, pattern), pattern=pattern)


@remembered
def module(*types: type[nn.Module]) -> Selector:
    """Operations run directly by modules of these types (or their subclasses)."""
    _check(
        bool(types) and all(isinstance(kind, type) for kind in types), f"module{told(types)}",
        "classes, module(nn.Conv2d); a module of the model by name is path('layer1.conv1')",
    )  # fmt: skip
    names = ", ".join(kind.__name__ for kind in types)
    return Selector(f"module {names}", lambda site: isinstance(site.module, types), pattern=names)


@remembered
def operation(*names: str) -> Selector:
    """Operations by name: ``operation("conv2d", "linear")``."""
    _check(
        bool(names) and all(isinstance(name, str) for name in names), f"operation{told(names)}",
        "names of operations, operation('conv2d', 'linear')",
    )  # fmt: skip
    return Selector(f"operation {', '.join(names)}", lambda site: site.name in names, located=False)


@remembered
def linear_maps() -> Selector:
    """Every linear map of a signal: linear, convolutions, products with a constant matrix."""
    return Selector("linear maps", lambda site: site.linear, located=False)


@remembered
def convolutions() -> Selector:
    """Convolutions of every dimension, transposed ones too."""
    return Selector("convolutions", lambda site: str(site.operation).startswith("conv"), located=False)


@remembered
def dense() -> Selector:
    """Linear maps that are no convolutions."""
    return Selector("dense", lambda site: site.linear and not str(site.operation).startswith("conv"), located=False)


@remembered
def anything() -> Selector:
    """Every operation."""
    return Selector("anything", lambda site: True, located=False)


@remembered
def nth(index: int) -> Selector:
    """The linear map of that number in the order of execution: 0 the first, -1 the last.

    A map whose weight is applied again (to the next slice of a volume, at the next step) keeps its number.
    """
    index = operator.index(index) if hasattr(index, "__index__") else index
    _check(isinstance(index, int), f"nth({told(index)})", "an int: 0 the first linear map, -1 the last")

    def matches(site: Site) -> bool:
        if site.index is None:
            return False
        return site.index == (index if index >= 0 else index + (site.count or 0))

    final = index if index >= 0 else None
    return Selector(f"linear map {index}", matches, False, numbered=True, counted=index < 0, final=final)


@remembered
def first() -> Selector:
    """The first linear map that is executed."""
    return nth(0)


@remembered
def last() -> Selector:
    """The last linear map that is executed."""
    return nth(-1)


@remembered
def depth(start: float, stop: float) -> Selector:
    """Linear maps whose place, as a fraction of their number, lies in [start, stop): ``depth(0, 0.5)`` the lower half."""
    ends = all(isinstance(end, Real) for end in (start, stop))
    _check(
        ends and 0 <= start <= stop <= 1e9,
        f"depth({told(start)}, {told(stop)})",
        "two fractions in order, depth(0, 0.5)",
    )

    def matches(site: Site) -> bool:
        return site.index is not None and start <= site.index / max(site.count or 1, 1) < stop

    return Selector(f"depth [{start:g}, {stop:g})", matches, False, numbered=True, counted=True)


@remembered
def predicate(test: Callable[[Site], bool], text: str | None = None) -> Selector:
    """Operations for which ``test(site)`` is true."""
    _check(callable(test), f"predicate({told(test)})", "a function of a site")
    _check(text is None or isinstance(text, str), f"predicate(text={told(text)})", "a str, or None")
    return Selector(text or f"predicate {getattr(test, '__name__', test)}", test)


@remembered
def in_attention() -> Selector:
    """Operations run inside a module whose path or type names attention (``attn``, ``attention``)."""

    def matches(site: Site) -> bool:
        text = f"{site.path} {type(site.module).__name__}".lower()
        return "attn" in text or "attention" in text

    return Selector("in attention", matches)
