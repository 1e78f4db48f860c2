"""The composite that an explainer's options ask for: one rule with its parameters, a ready composite, or one's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lrp_plugin.composites.composite import Composite, rule
from lrp_plugin.composites.parameters import check_parameters
from lrp_plugin.composites.ready import READY, handing_on, ready_composite
from lrp_plugin.composites.selectors import linear_maps, operation
from lrp_plugin.errors import told
from lrp_plugin.registry import Registry
from lrp_plugin.rules.recurrent import CELLS, SEQUENCES

DEFAULTS = {"epsilon": 0.01, "gamma": 0.25, "alpha": 2.0, "beta": 1.0, "stabilizer": 1e-9, "bias": "absorb"}


def asked_composite(
    name: str | None, composite: Composite | str | None, given: Mapping[str, Any], registry: Registry
) -> Composite:
    """The composite of an explainer.

    Args:
        name: The one rule of all linear maps, where no composite is given.
        composite: A composite, or the name of a ready one.
        given: ``epsilon``, ``gamma``, ``alpha``, ``beta``, ``stabilizer``, ``bias``; None where the caller gave none.
        registry: Where the rule is looked up.

    Raises:
        ValueError: For an unknown name, a value out of range, an option that the composite does not take.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    if "alpha" in chosen and "beta" not in chosen:
        check_parameters({"alpha": chosen["alpha"]})
        chosen["beta"] = chosen["alpha"] - 1
    elif "beta" in chosen and "alpha" not in chosen:
        check_parameters({"beta": chosen["beta"]})
        chosen["alpha"] = chosen["beta"] + 1
    check_parameters(chosen)
    if composite is None:
        return _single("epsilon" if name is None else name, {**DEFAULTS, **chosen}, registry)
    if name is not None:
        raise ValueError(f"rule={told(name)} and composite= given: pass one; a composite says which rule is where")
    if isinstance(composite, str):
        return _ready(composite, chosen)
    if not isinstance(composite, Composite):
        raise ValueError(
            f"composite={told(composite)} is a {type(composite).__name__}; legal are a Composite([(selector, rule), "
            f"...]), or a name: {', '.join(sorted(READY))}"
        )
    useless = sorted(set(chosen) - {"stabilizer"})  # which is also where ports end
    if useless:
        raise ValueError(
            f"{', '.join(f'{key}=' for key in useless)} given with a Composite: its rules have their own; say it in them, "
            "rule('epsilon', epsilon=...), or in a ready composite's function, epsilon_plus(bias='distribute')"
        )
    return composite


def _ready(name: str, chosen: dict[str, Any]) -> Composite:
    ready_composite(name)  # the name is checked first
    maker = READY[name]
    legal = inspect.signature(maker).parameters
    useless = sorted(set(chosen) - set(legal) - {"stabilizer"})
    if useless:
        raise ValueError(
            f"composite {name!r} takes no {', '.join(f'{key}=' for key in useless)}; it takes "
            f"{', '.join(legal) or 'nothing'}: pass lrp_plugin.composites.{name}(...), or name another"
        )
    return maker(**{key: value for key, value in chosen.items() if key in legal})


def _single(name: str, given: Mapping[str, Any], registry: Registry) -> Composite:
    maps = [found for found in registry if found.name == name and found.operation in ("linear", "conv2d")]
    if not maps:
        legal = sorted({found.name for found in registry if found.operation in ("linear", "conv2d")})
        others = [str(found.operation) for found in registry if found.name == name]
        hint = f" ({name!r} is a composite: composite={name!r})" if isinstance(name, str) and name in READY else ""
        if others and not hint:
            hint = (
                f" of linear maps: it is one of {others[0]}, and goes into a composite, Composite([(operation("
                f"{others[0]!r}), rule({name!r})), (linear_maps(), rule('epsilon'))])"
            )
        raise ValueError(f"unknown rule {told(name)}{hint}; legal are {', '.join(legal)}")
    taken = {key: value for key, value in given.items() if key in maps[0].parameters}
    pairs = [(linear_maps(), rule(name, **taken)), *handing_on(given["bias"])]
    if registry.find("lstm", "signal") is not None:  # the maps inside a recurrent kernel are maps too
        inside = rule("signal", epsilon=0.0 if name in ("zero", "lrp0") else given["epsilon"])
        pairs.append((operation(*SEQUENCES, *CELLS), inside))
    return Composite(pairs, name)
