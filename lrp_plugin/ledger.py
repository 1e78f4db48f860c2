"""The ledger: where every bit of relevance went, per example and per operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_plugin.algebra.formulas import relevance_of
from lrp_plugin.kinds import checked
from lrp_plugin.tables import html_table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABSORBED = ("bias", "constant", "stabilizer", "no_receiver", "other")
COLUMNS = ("relevance_out", "relevance_in", *ABSORBED, "distributed")


class Columns:
    """What was absorbed, by its kind, and what was handed on; float64, shape (N,)."""

    bias: Tensor
    constant: Tensor
    stabilizer: Tensor
    no_receiver: Tensor
    other: Tensor
    distributed: Tensor


class Row(Columns):
    """The account of one executed operation.

    Attributes:
        path: The module path (``"layer1.0.conv1"``), ``""`` outside any module.
        operation: The operation's name.
        rule: The rule that carried its relevance, with its parameters.
        relevance_out, relevance_in: Relevance at the operation's output, and what this operation sent to its inputs;
            float64, shape (N,).
        bias, constant, stabilizer, no_receiver, other: What it absorbed, each from its own formula; shape (N,).
        distributed: What bias="distribute" handed on instead of absorbing (for information); shape (N,).
    """

    relevance_out: Tensor
    relevance_in: Tensor

    def __init__(self, path: str, operation: str, rule: str, examples: int, native: bool = False) -> None:
        self.path = path
        self.operation = operation
        self.rule = rule
        self.unknown = native
        self.absorptions: list[tuple[str, int, Callable[[Tensor], Tensor | float]]] = []
        self.count(examples)

    def count(self, examples: int) -> None:
        """Makes an empty account of so many examples."""
        self._added: list[tuple[str, int, Tensor | float]] = []
        for name in COLUMNS:
            setattr(self, name, torch.zeros(examples, dtype=torch.float64, device="cpu"))

    def add(self, column: str, example: int, amount: Tensor | float) -> None:
        """Adds the sum of ``amount`` to one example's column, when `read` is called."""
        if isinstance(amount, Tensor):
            amount = _wide(amount.detach()).sum().real
        self._added.append((column, example, amount))

    def read(self, number: Callable[[Tensor], float]) -> None:
        """Adds up what was added, given what reads a sum."""
        for column, example, amount in self._added:
            getattr(self, column)[example] += number(amount) if isinstance(amount, Tensor) else amount
        self._added.clear()

    def waiting(self) -> list[Tensor]:
        """The sums that are to be read."""
        return [amount for *_, amount in self._added if isinstance(amount, Tensor)]

    def close(self) -> None:
        """The account is complete and read: of an operation without a rule what its native gradient lost is ``other``.

        What was to be booked is let go of: it holds the graph, whose taps hold the row, a cycle no collector sees.
        """
        self.absorptions.clear()
        if self.unknown:
            self.other = self.relevance_out - self.relevance_in

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "absorptions": []}  # formulas over the graph, booked already

    @property
    def gap(self) -> Tensor:
        """Relevance out, less relevance in and all that was absorbed; rounding only. Shape (N,)."""
        return self.relevance_out - self.relevance_in - sum(getattr(self, name) for name in ABSORBED)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values; a number that is not finite is None, as JSON has none."""
        named = {"path": self.path, "operation": self.operation, "rule": self.rule}
        return {**named, **{name: _numbers(getattr(self, name)) for name in COLUMNS}}

    def __repr__(self) -> str:
        return f"Row({self.path or '(root)'}, {self.operation}, {self.rule}, gap={self.gap.abs().max():.1e})"


class Recorder:
    """Collects rows while relevance flows; one backward pass per example fills their columns."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.example = 0
        self.rows: list[Row] = []

    def clear(self) -> None:
        """The pass is made again."""
        self.rows.clear()

    def count(self, examples: int) -> None:
        """Says how many examples there are, known with the explained output; before the first backward pass."""
        self.examples = examples
        for row in self.rows:
            row.count(examples)

    def open_row(self, path: str, operation: str, rule: str, unknown: bool = False) -> Row:
        """A new row, in the order of execution."""
        row = Row(path, operation, rule, self.examples, unknown)
        self.rows.append(row)
        return row

    def close(self) -> None:
        """Closes every row, also where the pass broke off; what was added then is not read."""
        for row in self.rows:
            row.close()

    def input_sink(self, row: Row) -> Callable[[Tensor, Tensor], None]:
        """A tap's sink for what the row's operation sends to one input."""
        return lambda tensor, multiplier: row.add(
            "relevance_in", self.example, relevance_of(_wide(tensor), _met(multiplier))
        )

    def output_sink(self, row: Row, output: int, port: bool = False) -> Callable[[Tensor, Tensor], None]:
        """A tap's sink for what arrives at one of the row's outputs, or at that output's port."""

        def sink(tensor: Tensor, multiplier: Tensor) -> None:
            row.add("relevance_out", self.example, relevance_of(_wide(tensor), _met(multiplier)))
            multiplier = multiplier.conj()  # of a real one the tensor itself
            for column, place, formula in row.absorptions:
                if place == output and port == column.startswith("port:"):
                    row.add(column.removeprefix("port:"), self.example, formula(multiplier))

        return sink


def _host(tensor: Tensor) -> Tensor:
    """The entries on the CPU; on the ``meta`` device there are none: NaN, not known."""
    return torch.full(tensor.shape, torch.nan, dtype=tensor.dtype, device="cpu") if tensor.is_meta else tensor.cpu()


def _numbers(sums: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in sums.tolist()]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double()


def _met(multiplier: Tensor) -> Tensor:
    """A multiplier in double precision, conjugated: of complex numbers the product's real part is relevance then."""
    return _wide(multiplier.conj())


class Ledger(Columns):
    """The account of one explanation: ``output = input + everything absorbed``, to rounding.

    Attributes:
        output: The explained output (what the model returned at the target, a logit as a rule). Shape (N,), float64.
        input: The sum of the attributions. Shape (N,).
        bias, constant, stabilizer, no_receiver, other: Totals of what operations absorbed; shape (N,). ``constant``:
            added parameters and f(0); ``no_receiver``: relevance of units none of whose contributions can take it;
            ``other``: softmax's second-order part, and operations that have no rule.
        distributed: What ``bias="distribute"`` handed on, for information; in no sum. Shape (N,).
        rows: One `Row` per operation, in order of execution.
    """

    @checked
    def __init__(self, rows: list[Row], output: Tensor, input: Tensor) -> None:
        self.rows = rows
        # Each look at another device waits for it: one for all numbers.
        sums = [output, input, *(amount for row in rows for amount in row.waiting())]
        numbers = _host(torch.cat([one.detach().double().reshape(-1).to(output.device) for one in sums]))
        self.output, self.input, read = numbers.split([output.numel(), input.numel(), len(numbers) - 2 * len(input)])
        following = iter(read.tolist())
        for row in rows:
            row.read(lambda _: next(following))
            row.close()
        for column in (*ABSORBED, "distributed"):
            setattr(self, column, self._total(column))

    def _total(self, column: str) -> Tensor:
        zero = torch.zeros_like(self.output)
        return torch.stack([zero, *(getattr(row, column) for row in self.rows)]).sum(0)

    @property
    def absorbed(self) -> Tensor:
        """Everything absorbed. Shape (N,)."""
        return sum((getattr(self, name) for name in ABSORBED), torch.zeros_like(self.output))

    @property
    def gap(self) -> Tensor:
        """``output - input - absorbed``: rounding only. Shape (N,)."""
        return self.output - self.input - self.absorbed

    def table(self, example: int = 0, every: bool = False) -> str:
        """A printable table of one example's account; of a batch it says which one it shows.

        Args:
            example: Which example.
            every: Also show operations that absorbed nothing.

        Raises:
            IndexError: There is no such example.
        """
        head, rows, totals = self._cells(example, every)
        lines = text_table(head, [*rows, totals], right=2 + len(ABSORBED))
        lines.insert(len(lines) - 1, lines[1])
        return "\n".join([self._which(example, len(rows)), *lines, f"gap {float(self.gap[example]):.3g}"])

    def _which(self, example: int, shown: int) -> str:
        examples = len(self.output)
        which = (
            f"example {example % examples} of {examples} (table(example=...) shows another): " if examples > 1 else ""
        )
        return f"{which}{shown} of {len(self.rows)} operations"

    def _cells(self, example: int, every: bool) -> tuple[list[str], list[list[str]], list[str]]:
        examples = len(self.output)
        if not -examples <= example < examples:
            raise IndexError(f"example {example} is outside the ledger's {examples} examples")
        rows = []
        for row in self.rows:
            sums = [float(getattr(row, name)[example]) for name in ("relevance_out", "relevance_in", *ABSORBED)]
            if every or any(abs(value) > 0 for value in sums[2:]):
                rows.append([row.path or "(top)", row.operation, row.rule, *(f"{value:.4g}" for value in sums)])
        totals = [float(getattr(self, name)[example]) for name in ("output", "input", *ABSORBED)]
        head = ["path", "operation", "rule", "out", "in", *ABSORBED]
        return head, rows, ["total", "", "", *(f"{value:.4g}" for value in totals)]

    def _repr_html_(self) -> str:
        head, rows, totals = self._cells(0, every=False)
        gap = f"gap {float(self.gap[0]):.3g}"
        return html_table(f"{self._which(0, len(rows))}; {gap}", head, rows, 2 + len(ABSORBED), foot=totals)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values: totals, gap and rows (JSON-ready: a number that is not finite is None)."""
        names = ("output", "input", *ABSORBED, "distributed", "gap")
        totals = {name: _numbers(getattr(self, name)) for name in names}
        return {**totals, "rows": [row.to_dict() for row in self.rows]}

    def plot(self, example: int = 0) -> Figure:
        """A matplotlib figure of where the relevance of one example went, layer by layer."""
        from lrp_plugin.visualization import plot_ledger

        return plot_ledger(self.rows, example=example)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={getattr(self, name).tolist()}" for name in ("output", "input", *ABSORBED))
        return f"Ledger({parts}, gap={self.gap.tolist()}, rows={len(self.rows)})"
