"""A batch of pictures explained: targets found in the pass that is explained, each broken picture alone to blame."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from lrp_plugin.archive.pictures import Read
from lrp_plugin.archive.rows import LEDGER, kept, packed
from lrp_plugin.archive.settings import Method, Picture, Settings, Targets
from lrp_plugin.attribution import RULES, UnifiedLRP
from lrp_plugin.attribution.reach import leave_out
from lrp_plugin.composites import epsilon_gamma_box
from lrp_plugin.composites.ready import READY
from lrp_plugin.errors import told
from lrp_plugin.evidence import mask_area, mask_share
from lrp_plugin.gradients import METHODS, build_method

Row = dict[str, Any]
BOX = "epsilon_gamma_box"


class _Explains(Protocol):
    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor: ...


def method_names() -> list[str]:
    """The names that mean something without options."""
    return [*RULES, *READY, BOX, *(name for name in METHODS if name != "lrp")]


def build(method: Method, model: nn.Module, picture: Picture) -> UnifiedLRP | _Explains:
    """The explainer a method names.

    Raises:
        ValueError: An unknown name without options, or an illegal option.
    """
    options = dict(method.options)
    if method.name in METHODS and method.name != "lrp":
        return build_method(method.name, model, **options)
    if "rule" not in options and "composite" not in options:
        if method.name == BOX:
            low, high = (_normalized(torch.full((1, picture.channels, 1, 1), end), picture) for end in (0.0, 1.0))
            options["composite"] = epsilon_gamma_box(low, high)
        elif method.name in READY:
            bias = {"bias": options.pop("bias")} if "bias" in options else {}
            options["composite"] = READY[method.name](**bias)
        elif method.name in RULES:
            options["rule"] = method.name
        else:
            raise ValueError(f"unknown method {told(method.name)}; legal are {', '.join(method_names())}")
    lrp = UnifiedLRP(model, **options)
    leave_out(lrp.session)  # rows and report say what reached the picture, of every map
    return lrp


def _normalized(images: Tensor, picture: Picture) -> Tensor:
    scaled = images if picture.scale == 1 else images * picture.scale
    return transforms.normalize(scaled, list(picture.mean), list(picture.std)) if picture.mean else scaled


class Explainer:
    """The model and its methods, ready; one in each process.

    Args:
        settings: Of the archive.
        device: Where it runs.
        model: The model; made from the settings if None.

    Attributes:
        outputs: How many outputs the model has; None before a picture was explained.
    """

    def __init__(self, settings: Settings, device: str = "cpu", model: nn.Module | None = None) -> None:
        self.settings, self.device = settings, torch.device(device)
        self.outputs: int | None = None
        self.model = (settings.model.make() if model is None else model).to(self.device)
        self.methods = [(method.name, build(method, self.model, settings.picture)) for method in settings.methods]

    def explain(self, images: np.ndarray, reads: Sequence[Read]) -> list[Row]:
        """The rows of one batch.

        A picture that could not be read, or that the model fails on, leaves its place to a copy of a sound one: so
        the batch keeps its size, and the others the bits they would have had beside a sound neighbour.

        Args:
            images: float32 (N, C, H, W), N at most the batch size.
            reads: What was read, in the same order.

        Returns:
            Rows in the order of the items; at least one for each.

        Raises:
            torch.OutOfMemoryError: The batch is too large for the device; no picture's fault.
        """
        began = time.perf_counter()
        errors = {place: read.error for place, read in enumerate(reads) if read.error}
        given = torch.from_numpy(images)
        try:
            found = self._rows(given, reads, errors)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"a batch of {len(reads)} pictures: give a smaller batch ({error})") from error
        except Exception as error:  # somebody's picture, or everybody's: each is tried alone
            failed = self._culprits(given, reads, errors)
            if failed:
                found = self._rows(given, reads, {**errors, **failed})
            else:
                raise RuntimeError(
                    f"the batch fails though each of its {len(reads)} pictures can be explained alone: {error}"
                ) from error
        each = (time.perf_counter() - began) / len(reads)
        for row in found:
            row["seconds"] = each
        return found

    def _culprits(self, images: Tensor, reads: Sequence[Read], errors: Mapping[int, str]) -> dict[int, str]:
        failed = {}
        for place, read in enumerate(reads):
            if place not in errors:
                try:
                    self._rows(images[place : place + 1], [read], {})
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # any kind: it is the model's
                    failed[place] = f"explaining: {type(error).__name__}: {error}"
        return failed

    def inputs(self, images: Tensor) -> Tensor:
        """What the model is given for pictures ``(N, C, H, W)`` in [0, 1]."""
        return _normalized(images.to(self.device), self.settings.picture)

    def _rows(self, images: Tensor, reads: Sequence[Read], errors: Mapping[int, str]) -> list[Row]:
        sound = next((place for place in range(len(reads)) if place not in errors), None)
        if sound is None:
            return [_failed(read, errors[place]) for place, read in enumerate(reads)]
        filled = images.clone()
        for place in errors:
            filled[place] = images[sound]
        given = [(reads[sound] if place in errors else read).item.targets for place, read in enumerate(reads)]
        inputs = self.inputs(filled)
        chosen = _Chosen(self.settings.targets, given)
        maps = {name: self._maps(method, inputs, chosen) for name, method in self.methods}
        self.outputs = None if chosen.outputs is None else chosen.outputs.shape[1]
        rows: list[list[Row]] = [[] for _ in reads]
        for name, method in self.methods:
            self._book(rows, name, method, inputs, maps[name], chosen, reads, errors)
        found: list[Row] = []
        for place, read in enumerate(reads):
            error = errors.get(place) or next((row["error"] for row in rows[place] if row["error"]), None)
            found += [_failed(read, error)] if error else rows[place] or [chosen.row(read, place)]
        return found

    def _maps(self, method: Any, inputs: Tensor, chosen: _Chosen) -> Tensor:
        """Relevance (ranks, N, C, H, W) of every chosen target."""
        if isinstance(method, UnifiedLRP):
            return method.attribute_targets(inputs, chosen)
        if chosen.outputs is None:
            with torch.no_grad():
                chosen(method.scores(inputs))
        return torch.stack([method.attribute(inputs, target) for target in chosen.asked])

    def _book(
        self, rows: list[list[Row]], name: str, method: Any, inputs: Tensor, maps: Tensor, chosen: _Chosen,
        reads: Sequence[Read], errors: Mapping[int, str],
    ) -> None:  # fmt: skip
        """Adds one method's rows to each item's."""
        for rank, relevance in enumerate(maps):
            sums = relevance.detach().double().flatten(1).sum(1).tolist()
            values = kept(relevance, self.settings.maps)
            account = None
            if self.settings.ledger and isinstance(method, UnifiedLRP):
                account = method.ledger(inputs, chosen.asked[rank])
            for place, read in enumerate(reads):
                if place in errors or rank >= chosen.counts[place]:
                    continue
                row = chosen.row(read, place, rank)
                row.update(method=name, relevance=sums[place])
                if not np.isfinite(values[place]).all() or not np.isfinite(row["logit"]):
                    row["error"] = f"explaining: {name} of output {row['target']} is NaN or infinite"
                else:
                    row.update(packed(values[place]), **_shares(relevance[place], read.mask))
                if account is not None:
                    row.update({column: float(getattr(account, column)[place]) for column in LEDGER})
                rows[place].append(row)


class _Chosen:
    """The targets of a batch, found when the first pass has its outputs; `UnifiedLRP.attribute_targets` calls it.

    Attributes:
        outputs: (N, classes), float64, on the CPU.
        ranks: One tensor (N,) for each place in the longest list of targets; shorter lists repeat their first.
        asked: The same as the explainers take it: None for a model that gives one number per example.
        counts: How many targets each example has.
    """

    def __init__(self, targets: Targets, given: Sequence[tuple[int, ...] | None]) -> None:
        self.targets, self.given = targets, given
        self.outputs: Tensor | None = None
        self.ranks: list[Tensor] = []
        self.asked: list[Any] = []
        self.counts: list[int] = []

    def __call__(self, outputs: Tensor) -> list[Any]:
        if self.outputs is None:
            if outputs.dim() not in (1, 2):
                raise ValueError(
                    f"the model returns shape {tuple(outputs.shape)}; an archive needs (N, classes) or (N,)"
                )
            self.outputs = outputs.detach().double().cpu().reshape(outputs.shape[0], -1)
            lists = [self._list(place) for place in range(outputs.shape[0])]
            self.counts = [len(found) for found in lists]
            longest = max(1, *self.counts)
            padded = [found + (found[:1] or [0]) * (longest - len(found)) for found in lists]
            self.ranks = [rank.to(outputs.device) for rank in torch.tensor(padded).T]
            self.asked = [None] * len(self.ranks) if outputs.dim() == 1 else self.ranks
        return self.asked

    def _list(self, place: int) -> list[int]:
        assert self.outputs is not None
        values, kind = self.outputs[place], self.targets.kind
        if values.isnan().any():
            raise ValueError("the model returns NaN for this picture")
        if kind == "predicted":
            return [int(values.argmax())]
        if kind == "given":
            chosen = self.given[place]
            if not chosen:
                raise ValueError("no target is given for this item; the list's column target says it")
            wrong = [target for target in chosen if not 0 <= target < len(values)]
            if wrong:
                raise ValueError(f"target {wrong[0]} is out of range: legal are 0 to {len(values) - 1}")
            return list(chosen)
        scaled = {"output": values, "sigmoid": values.sigmoid(), "softmax": values.softmax(0)}[self.targets.scale]
        return (scaled > self.targets.threshold).nonzero().flatten().tolist()

    def row(self, read: Read, place: int, rank: int | None = None) -> Row:
        """An item's row so far: what it is, what was predicted, and the target of that rank."""
        assert self.outputs is not None
        values = self.outputs[place]
        best = int(values.argmax())
        row = {**_failed(read, None), "prediction": best, "prediction_logit": float(values[best])}
        if rank is not None:
            target = int(self.ranks[rank][place])
            row.update(target=target, logit=float(values[target]))
        return row


def _failed(read: Read, error: str | None) -> Row:
    item = read.item
    return {
        "key": item.key, "id": item.id, "source": item.source, "checksum": read.checksum, "label": item.label,
        "error": error,
    }  # fmt: skip


def _shares(relevance: Tensor, mask: np.ndarray | None) -> dict[str, float | None]:
    if mask is None:
        return {}
    inside = torch.from_numpy(mask)[None, None].to(relevance.device)
    share = float(mask_share(relevance[None], inside)[0])
    return {"share": None if np.isnan(share) else share, "mask_area": float(mask_area(inside)[0])}
