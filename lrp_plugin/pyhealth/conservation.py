"""PyHealth's conservation check, read from the ledger: per layer and per example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_plugin.kinds import checked
from lrp_plugin.ledger import ABSORBED, Ledger, Row


class ConservationError(RuntimeError):
    """Relevance went missing without account; the message names the layers."""


@dataclass(frozen=True)
class LayerCheck:
    """The account of one layer.

    Attributes:
        layer_name: Module path, ``"(model)"`` for input sum against explained output.
        layer_type: The operation.
        sum_output: Relevance that reached the layer's output, in the units of the explained output; shape (N,).
        sum_input: Relevance it sent to its inputs; shape (N,).
        absorbed: What biases, constants, the stabilizer and units without a receiver took, each computed from its own
            formula; shape (N,).
        error: ``|sum_output - sum_input - absorbed|`` over the greater of ``|sum_output|`` and the explained output's
            magnitude; shape (N,). The second keeps a layer whose relevance cancels to nearly 0 from dividing by it.
        valid: No example's error exceeds the tolerance.
    """

    layer_name: str
    layer_type: str
    sum_output: Tensor
    sum_input: Tensor
    absorbed: Tensor
    error: Tensor
    valid: bool


class ConservationValidator:
    """PyHealth's validator: layers checked one by one by the caller, example by example.

    Args:
        tolerance: Largest legal error, as a share (0.01 is 1 %).
        strict: Raise at a violation.

    Attributes:
        validations: What `validate` returned, in order.
        violations: Those that are not valid.

    Raises:
        ValueError: The tolerance is negative.
    """

    @checked
    def __init__(self, tolerance: float = 0.01, strict: bool = False) -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance={tolerance}: legal are numbers >= 0 (0.01 is 1 %)")
        self.tolerance, self.strict = tolerance, strict
        self.validations: list[dict[str, Any]] = []

    @property
    def violations(self) -> list[dict[str, Any]]:
        """The validations that failed."""
        return [found for found in self.validations if not found["valid"]]

    def validate(
        self, layer_name: str, relevance_input: Tensor, relevance_output: Tensor, layer_type: str = ""
    ) -> dict[str, Any]:
        """Checks one layer, the relevance of each example (dim 0) before and after it; `ConservationError` if ``strict``.

        Returns:
            ``layer_name``, ``layer_type``, ``sum_input``, ``sum_output`` (over the batch), ``error`` (the largest of an
            example, as a share of that example's output), ``error_pct`` and ``valid``.
        """
        into, out = (r.double().reshape(len(r), -1).sum(1) for r in (relevance_input, relevance_output))
        missing = (out - into).abs()
        error = float(torch.where(missing == 0, 0, missing / out.abs()).max())
        found = {
            "layer_name": layer_name, "layer_type": layer_type, "sum_input": float(into.sum()),
            "sum_output": float(out.sum()), "error": error, "error_pct": 100 * error, "valid": error <= self.tolerance,
        }  # fmt: skip
        self.validations.append(found)
        if self.strict and not found["valid"]:
            raise ConservationError(f"{layer_name} ({layer_type}) misses {100 * error:.3g} % of an example's relevance")
        return found

    def reset(self) -> None:
        """Forgets every validation."""
        self.validations.clear()

    def get_summary(self) -> dict[str, Any]:
        """PyHealth's five numbers."""
        return _five([found["error_pct"] for found in self.validations], len(self.violations))

    def print_summary(self) -> None:
        """Prints the numbers, and each violation."""
        print("\n".join(f"{name}: {value:.4g}" for name, value in self.get_summary().items()))
        for found in self.violations:
            print(f"  {found['layer_name']} ({found['layer_type']}): {found['error_pct']:.3g} %")


class ConservationReport:
    """Every layer's `LayerCheck` of one explanation.

    Args:
        ledger: The account of the explanation.
        tolerance: Largest legal error, as a share (0.01 is 1 %).

    Attributes:
        checks: In the order of execution; the model's own comes last.
        ledger, tolerance: As given.
    """

    @checked
    def __init__(self, ledger: Ledger, tolerance: float) -> None:
        self.ledger, self.tolerance = ledger, tolerance
        self.checks = [self._check_row(row) for row in ledger.rows]
        # `other` is a loss here only where an operation had no rule, and its row shows that already.
        self.checks.append(self._check("(model)", "output", ledger.output, ledger.input, ledger.absorbed))

    def _check_row(self, row: Row) -> LayerCheck:
        names = [name for name in ABSORBED if not (row.unknown and name == "other")]
        absorbed = torch.stack([getattr(row, name) for name in names]).sum(0)
        return self._check(row.path, row.operation, row.relevance_out, row.relevance_in, absorbed)

    def _check(self, name: str, kind: str, out: Tensor, into: Tensor, absorbed: Tensor) -> LayerCheck:
        scale = torch.maximum(out.abs(), self.ledger.output.abs())
        missing = (out - into - absorbed).abs()
        error = torch.where(missing == 0, 0, missing / scale)
        return LayerCheck(name, kind, out, into, absorbed, error, bool((error <= self.tolerance).all()))

    @property
    def violations(self) -> list[LayerCheck]:
        """The checks that failed for some example."""
        return [check for check in self.checks if not check.valid]

    def summary(self) -> dict[str, Any]:
        """Plain numbers: PyHealth's five, and per example output, input and what each account took."""
        errors = [100 * float(check.error.max()) for check in self.checks]
        accounts = {name: getattr(self.ledger, name).tolist() for name in ("output", "input", *ABSORBED)}
        return {**_five(errors, len(self.violations)), **accounts}

    def raise_on_violation(self) -> None:
        """Raises `ConservationError`, which names the worst layers, where some layer's error exceeds the tolerance."""
        worst = sorted(self.violations, key=lambda check: -float(check.error.max()))[:3]
        if worst:
            misses = [f"({check.layer_type}) misses {100 * float(check.error.max()):.3g} %" for check in worst]
            named = "; ".join(f"{check.layer_name or '(top)'} {told}" for check, told in zip(worst, misses))
            raise ConservationError(
                f"{len(self.violations)} of {len(self.checks)} checks exceed {100 * self.tolerance:g} %: {named}. A "
                "handler or rule of one's own must book what it absorbs (Call.absorb)"
            )

    def __str__(self) -> str:
        head = f"{'layer':36} {'operation':16} {'sum out':>11} {'sum in':>11} {'absorbed':>11} {'error %':>9}"
        lines = [
            f"{check.layer_name[-36:]:36} {check.layer_type[:16]:16} {float(check.sum_output.sum()):11.4g} "
            f"{float(check.sum_input.sum()):11.4g} {float(check.absorbed.sum()):11.4g} "
            f"{100 * float(check.error.max()):9.2g}{'' if check.valid else '  violated'}"
            for check in self.checks
        ]
        return "\n".join([head, "-" * len(head), *lines])


def _five(errors: list[float], violations: int) -> dict[str, Any]:
    count = max(len(errors), 1)
    return {
        "total_validations": len(errors), "violations_count": violations, "max_error_pct": max(errors, default=0.0),
        "avg_error_pct": sum(errors) / count, "violation_rate": violations / count,
    }  # fmt: skip
