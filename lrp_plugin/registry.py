"""The registry: one dict from (operation, rule name) to the rule that carries relevance through it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked
from lrp_plugin.tables import html_table

Operation = str | type
Formula = TypeVar("Formula", bound=Callable[..., Any])
Sign = Literal["any", "keeps", "nonnegative"]
Form = Literal["rectifier", "scale", "sum", "curve", "held_attention"]
Port = Literal["ends", "keeps", "routes"] | Callable[..., Any]


def _always(*_: Any) -> bool:
    return True


@dataclass(frozen=True)
class Output:
    """What becomes of an operation's output under a rule.

    Args:
        sign: What its sign is known to be: ``"any"``, ``"keeps"`` (non-negative when all signals are) or
            ``"nonnegative"``.
        port: What becomes of a port: it ``"ends"``, passes unchanged (``"keeps"``), ``"routes"`` through the same
            operation, or a function of the call and of a function from a signal to its port.
        affine: The operation adds constants (its value at zero signals is not zero): a routed port leaves them out.
        gate: It is a gate (a sigmoid-like function), for the products' rule ``signal``.
    """

    sign: Sign = "any"
    port: Port = "ends"
    affine: bool = False
    gate: bool = False


@dataclass(frozen=True)
class Waits:
    """Whether a rule waits for the operation that reads its value, and which is folded into it.

    Args:
        folds: The rule looks at weight signs (given its parameters, where it is a function): a following BatchNorm is
            folded into the map, and the rule runs when the next operation is known.
        defers: For ``folds``: given the arguments by name and the signals, whether this call is such a map.
        follows: Given the arguments by name and the operation of the map before, whether the call may be folded into it.
    """

    folds: bool | Callable[[Mapping[str, Any]], bool] = False
    defers: Callable[..., bool] = _always
    follows: Callable[..., bool] | None = None


@dataclass(frozen=True)
class Asks:
    """What a rule asks of the pass.

    Args:
        ports: It sends relevance to the input's port, so the pass must carry ports.
        lineage: It looks at what a signal was computed from, so the pass must remember it.
        tokens: It takes integer signals, whose relevance their port carries (an embedding).
    """

    ports: bool = False
    lineage: bool = False
    tokens: bool = False


@dataclass(frozen=True)
class Rule:
    """How one operation turns the multiplier of its output into multipliers of its inputs.

    Args:
        operation: The operation's name (``"conv2d"``), or a module type (or its qualified name) whose call is atomic.
        name: The rule's name (``"zplus"``).
        formula: Called as ``formula(call, **parameters)``; returns the operation's value.
        output: What becomes of the output.
        waits: Whether the rule waits for the next operation.
        asks: What the rule asks of the pass.
        transparent: Given the arguments by name, whether the call returns its first argument (dropout, evaluating).
        form: What the specialisations may take the formula for: ``"rectifier"`` (only positive entries of the input
            matter, and the multiplier passes there), ``"scale"``, ``"sum"``, ``"curve"``, ``"held_attention"``. None: the
            formula runs as it is written.
        function: The operation is the class of a custom autograd Function, by qualified name, and no module's.
        parameters: The formula's keyword arguments with their defaults.
    """

    operation: Operation
    name: str
    formula: Callable[..., Any] | None
    output: Output = Output()
    waits: Waits = Waits()
    asks: Asks = Asks()
    transparent: Callable[..., bool] | None = None
    form: Form | None = None
    function: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, operation: Operation, name: str, formula: Any, parameters: Mapping[str, Any], **traits: Any) -> Rule:
        """A rule whose traits are given one by one, as `Registry.register` takes them."""
        groups = {
            group: {key: traits.pop(key) for key in _names_in(kind) & set(traits)} for group, kind in _GROUPS.items()
        }
        made = {group: _GROUPS[group](**given) for group, given in groups.items()}
        return cls(operation, name, formula, parameters=parameters, **made, **traits)

    @property
    def summary(self) -> str:
        """The first line of the formula's docstring."""
        return (inspect.getdoc(self.formula) or "").split("\n")[0]


_GROUPS: dict[str, type] = {"output": Output, "waits": Waits, "asks": Asks}


def _names_in(kind: type) -> set[str]:
    return {known.name for known in fields(kind)}


class Registry:
    """Rules by (operation, name). The first rule registered for an operation is its default.

    >>> mine = registry.copy()
    >>> @mine.register("halved", "relu")
    ... def halved(call, *, factor=0.5):
    ...     '''Half of the relevance passes a ReLU.'''
    ...     return scale(call.native(), factor)
    """

    @checked
    def __init__(self, rules: Mapping[tuple[Operation, str], Rule] | None = None) -> None:
        self._rules: dict[tuple[Operation, str], Rule] = dict(rules or {})
        self._atomic: list[Operation] | None = None  # known until another rule is registered

    def register(
        self, name: str, *operations: Operation, override: bool = False, default: bool = False, **traits: Any
    ) -> Callable[[Formula], Formula]:
        """A decorator that adds one formula under ``name`` for each of ``operations``.

        Args:
            name: The rule's name.
            operations: Names of torch operations (``"conv2d"``, ``"relu"``: any spelling of it is meant), or module
                types, or their qualified names.
            override: Replace what is registered already.
            default: Make it the operations' default, before the rules registered earlier.
            traits: ``sign``, ``port``, ``gate``, ``folds``, ...: see `Rule`, `Output`, `Waits` and `Asks`.

        Raises:
            ValueError: Without an operation, where the pair is registered and ``override`` is not set, for a trait that
                there is not or a value it cannot have.
            TypeError: For a name that is no string, an operation that is neither a string nor a module type.
        """
        _check_traits(name, operations, traits)

        def decorate(formula: Formula) -> Formula:
            if not callable(formula):
                raise TypeError(f"rule {name!r}: the formula is a {type(formula).__name__}, not a function of the call")
            defaults = {
                key: parameter.default
                for key, parameter in inspect.signature(formula).parameters.items()
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY
            }
            for operation in operations:
                if (operation, name) in self._rules and not override:
                    raise ValueError(
                        f"rule {name!r} for operation {operation!r} is registered already; pass override=True to "
                        f"replace it, or choose another name"
                    )
                rule = Rule.of(operation, name, formula, defaults, **traits)
                self._atomic = None
                self._rules[operation, name] = rule
                if default:
                    self._rules = {(operation, name): rule, **self._rules}
            return formula

        return decorate

    def unregister(self, name: str, operation: Operation) -> None:
        """Removes one rule. Raises ``KeyError`` where there is none."""
        del self._rules[operation, name]
        self._atomic = None

    def find(self, operation: Operation, name: str | None = None) -> Rule | None:
        """The rule of that name for the operation, or the operation's default where ``name`` is None."""
        if name is not None:
            return self._rules.get((operation, name))
        return self._defaults().get(operation)

    def _defaults(self) -> dict[Operation, Rule]:
        found: dict[Operation, Rule] = {}
        for (operation, _), rule in self._rules.items():
            found.setdefault(operation, rule)
        return found

    def defaults(self) -> dict[Operation, Rule]:
        """The default rule of every operation."""
        return self._defaults()

    def names(self, operation: Operation | None = None) -> list[str]:
        """The rule names known for one operation, or for any."""
        return sorted({rule for place, rule in self._rules if operation is None or place == operation})

    def atomic_types(self) -> list[Operation]:
        """Module types, and qualified class names, whose call is one operation."""
        if self._atomic is None:
            named = ((place, rule) for (place, _), rule in self._rules.items() if not rule.function)
            self._atomic = sorted({place for place, _ in named if isinstance(place, type) or "." in place}, key=str)
        return self._atomic

    def copy(self) -> Registry:
        """A registry of one's own: what is added to it is seen by nobody else."""
        return Registry(self._rules)

    def __reduce__(self) -> Any:
        """The package's registry is pickled by name, another by what it holds beside that one's rules."""
        if self is registry:
            return "registry"
        return _restored, (
            {place: None if registry._rules.get(place) is rule else rule for place, rule in self._rules.items()},
        )

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def __len__(self) -> int:
        return len(self._rules)

    def __contains__(self, key: tuple[Operation, str]) -> bool:
        return key in self._rules


registry = Registry()
register_rule = registry.register
_SIGNS = ("any", "keeps", "nonnegative")
_PORTS = ("ends", "keeps", "routes")
_TRAITS = sorted({"transparent", "form", "function"}.union(*map(_names_in, _GROUPS.values())))


def _restored(rules: Mapping[tuple[Operation, str], Rule | None]) -> Registry:
    return Registry({place: registry._rules[place] if rule is None else rule for place, rule in rules.items()})


def _check_traits(name: Any, operations: tuple[Any, ...], traits: Mapping[str, Any]) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"a rule's name is a string: register_rule('halved', 'relu'), got {told(name)}")
    if not operations:
        raise ValueError(f"rule {name!r} names no operation: register_rule({name!r}, 'relu', ...)")
    for operation in operations:
        if not isinstance(operation, (str, type)):
            raise TypeError(f"rule {name!r}: an operation is a name ('relu') or a module type, got {told(operation)}")
    unknown = sorted(set(traits) - set(_TRAITS))
    if unknown:
        raise ValueError(f"rule {name!r} has no trait {', '.join(unknown)}; legal are {', '.join(_TRAITS)}")
    sign, port = traits.get("sign", "any"), traits.get("port", "ends")
    if not isinstance(sign, str) or sign not in _SIGNS:
        raise ValueError(f"rule {name!r}: sign={told(sign)}; legal are {', '.join(map(repr, _SIGNS))}")
    if not callable(port) and not (isinstance(port, str) and port in _PORTS):
        raise ValueError(
            f"rule {name!r}: port={told(port)}; legal are {', '.join(map(repr, _PORTS))}, or a function of the call"
        )


@checked
def qualified_name(kind: type) -> str:
    """``module.Class`` of a type: how an atomic module is named without importing its package."""
    return f"{kind.__module__}.{kind.__qualname__}"


class RuleTable(dict[str, list[str]]):
    """Operation to rule names, the default first; prints operations that share their rules together."""

    def _grouped(self) -> list[tuple[str, str]]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for operation, rules in self.items():
            groups.setdefault(tuple(rules), []).append(operation)
        return [(", ".join(rules), ", ".join(operations)) for rules, operations in groups.items()]

    def __repr__(self) -> str:
        lines = [
            textwrap.fill(f"{rules}: {operations}", 110, subsequent_indent="    ")
            for rules, operations in self._grouped()
        ]
        return "\n".join([f"{len(self)} operations, rules (the default first): operations", *lines])

    def _repr_html_(self) -> str:
        return html_table(f"{len(self)} operations", ("rules, the default first", "operations"), self._grouped())


@checked
def list_rules(operation: str | None = None, registry: Registry = registry) -> dict[str, list[str]]:
    """The rules by operation, the default first; a dict that prints its operations in groups.

    Args:
        operation: One operation; None lists all.
        registry: Whose rules.

    >>> list_rules("add")["add"][:3]
    ['epsilon', 'ratio', 'equal']
    """
    table = RuleTable()
    for rule in registry:
        place = rule.operation if isinstance(rule.operation, str) else qualified_name(rule.operation)
        if operation is None or place == operation:
            table.setdefault(place, []).append(rule.name)
    return table
