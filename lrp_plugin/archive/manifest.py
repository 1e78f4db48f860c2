"""The manifest: what made an archive, down to the hash of its weights; another model or setting is refused by name."""

from __future__ import annotations

import dataclasses
import json
import platform
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from lrp_plugin.archive import places
from lrp_plugin.archive.explaining import build
from lrp_plugin.archive.models import ModelSource, model_hash, weights_hash
from lrp_plugin.archive.settings import Maps, Method, Picture, Settings, Targets
from lrp_plugin.attribution import UnifiedLRP
from lrp_plugin.composites import Composite
from lrp_plugin.version import __version__

FILE = "manifest.json"
FORMAT = 1
_PACKAGES = ("torch", "torchvision", "numpy", "pyarrow", "ray", "captum")


class ManifestError(ValueError):
    """The folder holds another archive than the one asked for; the message names each difference."""


def versions() -> dict[str, str]:
    """Of this package and of what decides its numbers."""
    found = {"lrp_plugin": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            found.setdefault(name, version(name))
        except PackageNotFoundError:
            found.setdefault(name, "absent")
    return found


def composite_code(composite: Composite) -> str:
    """The composite as it is written: one pair a line, the selectors as they print."""
    lines = [
        f"    ({selector}, rule({spec.name!r}{_arguments(spec.parameters)}))," for selector, spec in composite.pairs
    ]
    return "\n".join(["Composite([", *lines, f"], name={composite.name!r})"])


def _arguments(parameters: Mapping[str, Any]) -> str:
    return "".join(f", {key}={_plain(value)!r}" for key, value in parameters.items())


def _plain(value: Any) -> Any:
    """JSON's form of an option: tensors as lists, what JSON has no form for as it prints."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Composite):
        return composite_code(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


@dataclass(frozen=True)
class Manifest:
    """What made an archive.

    Attributes:
        archive: A name drawn once; every file of the archive carries it.
        decided: Everything that decides the numbers, as JSON values.
        about: What does not: versions, date, source of the items, names of the classes.
    """

    archive: str
    decided: Mapping[str, Any]
    about: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Settings, model: nn.Module, about: Mapping[str, Any]) -> Manifest:
        """A new archive's."""
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, decided(settings, model), {"created": created, "versions": versions(), **about})

    @classmethod
    def read(cls, url: str) -> Manifest:
        """Of the archive at ``url``.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is damaged, or of a later format.
        """
        place = places.join(url, FILE)
        try:
            values = json.loads(places.read_bytes(place))
            form, archive, made, about = (values[name] for name in ("format", "archive", "decided", "about"))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{url} holds no archive (no {FILE}): lrp-plugin archive explain makes one"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{place} is no manifest: {error!r}") from error
        if form != FORMAT:
            raise ValueError(f"{place} has format {form}; this version knows format {FORMAT}")
        return cls(archive, made, about)

    def write(self, url: str) -> None:
        """Write it."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        places.write_bytes(places.join(url, FILE), (json.dumps(values, indent=2) + "\n").encode())

    def refuse_other(self, wanted: Mapping[str, Any], url: str) -> None:
        """Raises `ManifestError` where something that decides the numbers differs, naming each."""
        ours, theirs = dict(_flat(wanted)), dict(_flat(self.decided))
        differing = [
            f"  {name}: the archive has {_short(theirs.get(name))}, asked for is {_short(ours.get(name))}"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]
        if differing:
            raise ManifestError(
                f"{url} holds an archive of another model or other settings; nothing was changed:\n"
                + ";\n".join(differing)
                + ".\nGive the same ones to go on, or another folder"
            )

    def other_versions(self) -> list[str]:
        """Versions that differ from those the archive was begun with: maps may differ in their last bits."""
        now, then = versions(), self.about.get("versions", {})
        return [f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]]

    @property
    def classes(self) -> list[str] | None:
        """Names of the outputs, if known."""
        return self.about.get("classes")


def decided(settings: Settings, model: nn.Module) -> dict[str, Any]:
    """Everything that decides an archive's numbers, as JSON values."""
    names = [field.name for field in dataclasses.fields(settings) if field.name not in ("model", "methods")]
    values = {name: _plain(getattr(settings, name)) for name in names}
    values["model"] = {
        "maker": settings.model.name,
        "arguments": _plain(settings.model.arguments),
        "weights": settings.model.weights,
        "model_sha256": model_hash(model),
        "weights_sha256": weights_hash(model),
    }
    values["methods"] = {}
    for method in settings.methods:
        explainer = build(method, model, settings.picture)
        code = composite_code(explainer.composite) if isinstance(explainer, UnifiedLRP) else None
        values["methods"][method.name] = {"options": _plain(method.options), "composite": code}
    return values


def restored(manifest: Manifest) -> Settings:
    """The settings an archive was made with, to explain again (`verify`).

    Raises:
        ValueError: The model or a method was given as an object (a function, a composite) that a manifest cannot hold.
    """
    kept = manifest.decided
    model = kept["model"]
    methods = tuple(Method(name, one["options"]) for name, one in kept["methods"].items())
    return Settings(
        ModelSource(model["maker"], model["weights"], model["arguments"]), methods, Targets(**kept["targets"]),
        Picture(**_tuples(kept["picture"])), Maps(**_tuples(kept["maps"])),
        ledger=kept["ledger"], batch=kept["batch"], chunk=kept["chunk"], threads=kept["threads"],
    )  # fmt: skip


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _flat(values: Any, start: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{start}.{name}" if start else str(name))
    else:
        yield start, values


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
