"""PyHealth's conservation check, per layer and per example: of layers handed over one by one, or of a whole ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.kinds import checked
from lrp_plugin.ledger import ABSORBED, Ledger
from lrp_plugin.tables import text_table

_SUMS = ("sum_output", "sum_input", "absorbed")


class ConservationError(RuntimeError):
    """Relevance went missing without account; the message names the layers."""


@dataclass(frozen=True)
class LayerCheck:
    """The account of one layer. PyHealth's keys are read too, as numbers of the batch: ``check["error_pct"]``.

    Attributes:
        layer_name: Module path, ``"(model)"`` for input sum against explained output.
        layer_type: The operation.
        sum_output, sum_input: Relevance at its output, and what it sent to its inputs, in the explained output's units; (N,).
        absorbed: What biases, constants, the stabilizer and units without a receiver took, each by its own formula; (N,).
        error: What is missing, ``|sum_output - sum_input - absorbed|``, over the greater of ``|sum_output|`` and, in a
            report, the explained output's magnitude (relevance that cancels to nearly 0 divides nothing); (N,).
        valid: No example's error exceeds the tolerance.
    """

    layer_name: str
    layer_type: str
    sum_output: Tensor
    sum_input: Tensor
    absorbed: Tensor
    error: Tensor
    valid: bool

    @property
    def error_pct(self) -> float:
        """The largest error of an example, in percent."""
        return 100 * float(self.error.max())

    def __getitem__(self, name: str) -> Any:
        value = getattr(self, name)
        return value if not isinstance(value, Tensor) else float(value.max() if name == "error" else value.sum())

    def __str__(self) -> str:
        return f"{self.layer_name or '(top)'} ({self.layer_type}) misses {self.error_pct:.3g} %"


class ConservationValidator:
    """PyHealth's validator: layers checked one by one by the caller, example by example.

    Args:
        tolerance: Largest legal error, as a share (0.01 is 1 %); ValueError where it is negative.
        strict: Raise at a violation.

    Attributes:
        checks: A `LayerCheck` for each layer, in order; also as ``validations``, PyHealth's word.
    """

    @checked
    def __init__(self, tolerance: float = 0.01, strict: bool = False) -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance={tolerance}: legal are numbers >= 0 (0.01 is 1 %)")
        self.tolerance, self.strict = tolerance, strict
        self.checks: list[LayerCheck] = []
        self.validations = self.checks

    @property
    def violations(self) -> list[LayerCheck]:
        """The checks that failed for some example."""
        return [check for check in self.checks if not check.valid]

    def validate(
        self, layer_name: str, relevance_input: Tensor, relevance_output: Tensor, layer_type: str = ""
    ) -> LayerCheck:
        """Checks one layer, the relevance of each example (dim 0) before and after it; `ConservationError` if ``strict``."""
        into, out = (r.double().reshape(len(r), -1).sum(1) for r in (relevance_input, relevance_output))
        check = self._add(layer_name, layer_type, out, into, out - into, scale=out.abs())
        if self.strict and not check.valid:
            self.raise_on_violation()
        return check

    def _add(self, name: str, kind: str, out: Tensor, into: Tensor, missing: Tensor, scale: Tensor) -> LayerCheck:
        error = torch.where(missing == 0, 0, missing.abs() / torch.maximum(out.abs(), scale))
        valid, absorbed = bool((error <= self.tolerance).all()), out - into - missing
        self.checks.append(LayerCheck(name, kind, out, into, absorbed, error, valid))
        return self.checks[-1]

    def reset(self) -> None:
        """Forgets every check."""
        self.checks.clear()

    def get_summary(self) -> dict[str, Any]:
        """PyHealth's five numbers."""
        errors, wrong = [check.error_pct for check in self.checks], len(self.violations)
        count = max(len(errors), 1)
        return {
            "total_validations": len(errors), "violations_count": wrong, "max_error_pct": max(errors, default=0.0),
            "avg_error_pct": sum(errors) / count, "violation_rate": wrong / count,
        }  # fmt: skip

    def print_summary(self) -> None:
        """Prints the five numbers, and each violation."""
        five = [f"{name}: {value:.4g}" for name, value in ConservationValidator.get_summary(self).items()]
        print("\n".join([*five, *(f"  {check}" for check in self.violations)]))

    def raise_on_violation(self) -> None:
        """Raises `ConservationError`, which names the worst layers, where some layer's error exceeds the tolerance."""
        worst = sorted(self.violations, key=lambda check: -check.error_pct)[:3]
        if worst:
            raise ConservationError(
                f"{len(self.violations)} of {len(self.checks)} checks exceed {100 * self.tolerance:g} %: "
                f"{'; '.join(map(str, worst))}. A handler or rule of one's own must book what it absorbs (Call.absorb)"
            )

    def __str__(self) -> str:
        rows = [
            [one.layer_name or "(top)", one.layer_type, *(f"{one[name]:.4g}" for name in _SUMS), f"{one.error_pct:.2g}",
             "" if one.valid else "violated"]
            for one in self.checks
        ]  # fmt: skip
        return "\n".join(text_table(["layer", "operation", *_SUMS, "error %", ""], rows, right=5))


class ConservationReport(ConservationValidator):
    """The checks of one explanation, read from its ``ledger``, in the order of execution; the model's own comes last."""

    @checked
    def __init__(self, ledger: Ledger, tolerance: float) -> None:
        super().__init__(tolerance)
        self.ledger, scale = ledger, ledger.output.abs()
        for row in ledger.rows:
            missing = row.other if row.unknown else row.gap  # without a rule: the ledger books what was lost as `other`
            self._add(row.path, row.operation, row.relevance_out, row.relevance_in, missing, scale)
        self._add("(model)", "output", ledger.output, ledger.input, ledger.gap, scale)

    def get_summary(self) -> dict[str, Any]:
        """Plain numbers: PyHealth's five, and per example output, input and what each account took."""
        accounts = {name: getattr(self.ledger, name).tolist() for name in ("output", "input", *ABSORBED)}
        return {**super().get_summary(), **accounts}
