"""A composite: which rule for which operation, as one ordered list; the first match wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from lrp_plugin.algebra.linear_map import LINEAR_MAPS
from lrp_plugin.composites.parameters import check_parameters
from lrp_plugin.composites.selectors import Selector
from lrp_plugin.composites.site import Site
from lrp_plugin.errors import told
from lrp_plugin.registry import Operation, Registry, Rule


@dataclass(frozen=True)
class RuleSpec:
    """A rule by name, with its parameters.

    Args:
        name: The rule's name (``"gamma"``).
        parameters: The values that differ from the rule's defaults.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}({inside})" if inside else self.name

    def __hash__(self) -> int:
        return hash(str(self))


def rule(name: str, **parameters: Any) -> RuleSpec:
    """A rule by name with its parameters: ``rule("gamma", gamma=0.1)``."""
    if not isinstance(name, str):
        raise TypeError(f"rule({told(name)}): the first argument is a rule's name, rule('gamma', gamma=0.1)")
    return RuleSpec(name, parameters)


@dataclass(frozen=True)
class Choice:
    """The rule an operation gets, and which selector chose it."""

    rule: Rule
    parameters: Mapping[str, Any]
    selector: str

    @property
    def text(self) -> str:
        """The rule's name with the parameters that were given."""
        shown = {key: value for key, value in self.parameters.items() if not hasattr(value, "shape")}
        return str(RuleSpec(self.rule.name, shown))

    @property
    def folds(self) -> bool:
        """The rule, with these parameters, waits for the next operation."""
        wanted = self.rule.waits.folds
        return wanted(self.parameters) if callable(wanted) else wanted

    @classmethod
    def native(cls, operation: Operation) -> Choice:
        """No rule is known: the operation keeps its own gradient."""
        return cls(Rule(operation, "native gradient", None), {}, "no rule")

    @classmethod
    def folded(cls, choice: Choice) -> Choice:
        """The operation is folded into the map before it."""
        return cls(Rule(choice.rule.operation, "folded", None), {}, "follows a map whose rule looks at signs")


@dataclass(frozen=True)
class Composite:
    """An ordered list of ``(selector, rule)``; the first pair that matches an operation and fits it wins.

    Operations that no pair matches get their default rule. Composites are data: printable, comparable, and built on one
    another with `with_rule`.

    Args:
        pairs: ``(selector, rule)``: selectors from `lrp_plugin.composites` (``path``, ``module``, ``operation``,
            ``first``, ...), rules by name or from `rule`.
        name: For printing.

    >>> Composite([(first(), rule("flat")), (linear_maps(), rule("gamma", gamma=0.1))])
    """

    pairs: Sequence[tuple[Selector, RuleSpec]]
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, Sequence) or isinstance(self.pairs, (str, bytes)):
            raise TypeError(
                f"Composite({told(self.pairs)}): pass a list of pairs, Composite([(linear_maps(), rule('zplus'))])"
            )
        read = []
        for pair in self.pairs:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"Composite: {told(pair)} is no pair (selector, rule)")
            selector, spec = pair
            if not isinstance(selector, Selector):
                raise TypeError(
                    f"a composite's selector must be made by lrp_plugin.composites (path, module, operation, first, "
                    f"last, nth, depth, predicate, linear_maps, anything), got {told(selector)}"
                )
            if not isinstance(spec, (str, RuleSpec)):
                raise TypeError(f"a composite's rule must be a name or rule(name, ...), got {told(spec)}")
            read.append((selector, RuleSpec(spec) if isinstance(spec, str) else spec))
        object.__setattr__(self, "pairs", tuple(read))

    def with_rule(self, selector: Selector, spec: RuleSpec | str) -> Composite:
        """A new composite in which this pair comes first."""
        return Composite([(selector, spec), *self.pairs], self.name)  # type: ignore[list-item]

    def __str__(self) -> str:
        lines = [f"  {selector!s:40} -> {spec}" for selector, spec in self.pairs]
        return "\n".join([f"Composite {self.name}".rstrip() + ":", *lines, f"  {'anything else':40} -> its default"])

    __repr__ = __str__


class Chooser:
    """A composite over one registry: gives the `Choice` for a site, checked when it is made.

    Raises:
        ValueError: For a rule name the registry does not know, or a parameter the rule does not take.
    """

    def __init__(self, composite: Composite, registry: Registry) -> None:
        self.composite = composite
        self.registry = registry
        self.linear_maps: int | None = None
        self.defaults = registry.defaults()
        self._known: dict[Any, Choice] = {}
        self._located = any(selector.located for selector, _ in composite.pairs)
        self._idle = {place for place, (selector, _) in enumerate(composite.pairs) if selector.pattern is not None}
        self._fitting: set[int] = set()
        self._unfit: dict[int, set[str]] = {}
        self._paths: set[str] = set()
        for _, spec in composite.pairs:
            self._check(spec)

    @cached_property
    def counts(self) -> bool:
        """Some selector needs to know how many linear maps there are."""
        return any(selector.counted for selector, _ in self.composite.pairs)

    @cached_property
    def _numbered(self) -> bool:
        """Some selector looks at a linear map's number."""
        return any(selector.numbered for selector, _ in self.composite.pairs)

    def counting(self, linear_maps: int | None) -> Chooser:
        """The same choices where a pass executes so many linear maps."""
        chooser = copy(self)
        chooser.linear_maps = linear_maps
        return chooser

    def carrying_ports(self) -> Chooser:
        """The same choices in a pass that carries ports to its end, as ids need them."""
        chooser = copy(self)
        chooser.__dict__.update(ports=True, final_port=None)
        return chooser

    @cached_property
    def ports(self) -> bool:
        """Some rule in the composite sends relevance to entries whose value is zero."""
        return bool(self._asking)

    @cached_property
    def final_port(self) -> int | None:
        """The last linear map whose rule may ask for a port (``first()``: 0); None where any may."""
        ends = [selector.final for selector in self._asking]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None

    @cached_property
    def _asking(self) -> list[Selector]:
        asking = {known.name for known in self.registry if known.asks.ports}
        return [
            selector
            for selector, spec in self.composite.pairs
            if spec.name in asking or spec.parameters.get("bias") == "distribute"
        ]

    @cached_property
    def lineage(self) -> bool:
        """Some rule in the composite looks at what a signal was computed from."""
        named = {spec.name for _, spec in self.composite.pairs}
        return any(known.asks.lineage for known in self.registry if known.name in named)

    def default(self, operation: Operation) -> Rule | None:
        """The operation's default rule, None where the registry does not know the operation."""
        return self.defaults.get(operation)

    def choose(self, site: Site) -> Choice:
        """The rule for a site whose operation the registry knows."""
        if self._located:
            return self._search(site)
        key: Any = site.operation, site.linear  # a product of two signals is no linear map
        if self._numbered and site.linear:
            key = *key, site.index, site.count
        choice = self._known.get(key)
        if choice is None:
            choice = self._known[key] = self._search(site)
        return choice

    def _search(self, site: Site) -> Choice:
        if self._idle - self._fitting:
            self._paths.add(site.path)
        for place, (selector, spec) in enumerate(self.composite.pairs):
            if selector.matches(site):
                found = self.registry.find(site.operation, spec.name)
                if found is None:
                    self._unfit.setdefault(place, set()).add(site.name)
                else:
                    self._fitting.add(place)
                    given = {key: value for key, value in spec.parameters.items() if key in found.parameters}
                    return Choice(found, given, str(selector))
        return Choice(self.defaults[site.operation], {}, "default")

    def mistakes(self) -> list[str]:
        """What the passes so far show of the composite to be no use, each said once.

        A named path or module type that nothing has, and a rule that none of the operations it is meant for has.
        """
        found = []
        for place in sorted((self._idle | set(self._unfit)) - self._fitting):
            selector, spec = self.composite.pairs[place]
            self._fitting.add(place)  # said once
            if names := self._unfit.pop(place, set()):
                if selector.pattern is not None or selector.text.startswith("operation "):
                    legal = "; ".join(f"{name}: {', '.join(self.registry.names(name))}" for name in sorted(names))
                    found.append(f"{selector}: no operation there has rule {spec.name!r}; legal are {legal}")
            elif selector.pattern is not None:
                parts = [path.split(".") for path in sorted(self._paths)]
                known = dict.fromkeys(".".join(names[:n]) for names in parts for n in range(1, len(names) + 1))
                near = get_close_matches(selector.pattern.rstrip("*."), [*known], n=3, cutoff=0.5)
                hint = f"; near are {', '.join(map(repr, near))}" if near else ""
                found.append(f"{selector} matches no operation of the model{hint}")
        return found

    def _check(self, spec: RuleSpec) -> None:
        rules = [known for known in self.registry if known.name == spec.name]
        if not rules:
            raise ValueError(f"unknown rule {told(spec.name)}; legal are {', '.join(self.registry.names())}")
        legal = set().union(*(known.parameters for known in rules))
        for key in spec.parameters:
            if key not in legal:
                raise ValueError(
                    f"rule {spec.name!r} takes no parameter {key!r}; legal are {', '.join(sorted(legal)) or 'none'}"
                )
        if all((getattr(known.formula, "__module__", "") or "").startswith("lrp_plugin.") for known in rules):
            bounds = {key: rules[0].parameters[key] for key in ("low", "high") if key in rules[0].parameters}
            check_parameters({**bounds, **spec.parameters}, f"rule {spec.name!r}: ")


Predicate = Callable[[Site], bool]
__all__ = ["LINEAR_MAPS", "Choice", "Chooser", "Composite", "Predicate", "RuleSpec", "rule"]
