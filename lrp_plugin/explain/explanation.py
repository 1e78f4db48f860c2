"""One explanation: what was explained, what it rests on, and how to show and keep it."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from lrp_plugin.files import write_atomically, write_json
from lrp_plugin.ledger import ABSORBED, Ledger
from lrp_plugin.visualization import Picture, number, percent, save_figure, unshown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IN_WORDS = {
    "bias": "biases",
    "constant": "constants",
    "stabilizer": "the stabilizer of small denominators",
    "no_receiver": "units none of whose inputs could take it",
    "other": "softmax, and operations without a rule",
}
"""The ledger's columns as a reader of a paper understands them."""


class Guess(NamedTuple):
    """One of the model's answers.

    Args:
        target: The output's number.
        name: The class's name, None where it has none.
        logit: What the model returned.
        probability: Of the class, None where outputs are no classes.
    """

    target: int
    name: str | None
    logit: float
    probability: float | None

    def __str__(self) -> str:
        name = self.name or f"class {self.target}"
        return name if self.probability is None else f"{name}, probability {percent(self.probability)}"


@dataclass
class Explanation:
    """What one output of a model rests on.

    Attributes:
        kind: ``"image"``, ``"text"``, ``"signal"``, ``"table"``, ``"volume"``, ``"segmentation"`` or ``"detection"``.
        relevance: Of each entry of the input, in `unit`; the input's shape without the batch, on the CPU.
        input: What the network was given, without the batch.
        model: The model's name.
        method: The rule, composite or gradient method.
        target: The explained output: a number, or a position and a number.
        target_name: Its class's name, None where it has none.
        logit: The explained output's value.
        probability: Of the class, None where outputs are no classes.
        top: The model's best answers, the best first.
        ledger: The account of where the logit went, None for gradient methods and with ``ledger=False``.
        unit: Of the relevance.
        notes: What a reader has to know, a sentence each.
        view: What the figure needs besides (picture, tokens, names, ...), by `kind`.
    """

    kind: str
    relevance: Tensor
    input: Any
    model: str
    method: str
    target: Any
    target_name: str | None
    logit: float
    probability: float | None
    top: tuple[Guess, ...]
    ledger: Ledger | None
    unit: str = "logit"
    notes: tuple[str, ...] = ()
    view: dict[str, Any] = field(default_factory=dict, repr=False)
    draw: Callable[..., Figure] | None = field(default=None, repr=False)

    @property
    def total(self) -> float:
        """The sum of the relevance, in `unit`."""
        return float(self.relevance.double().sum())

    @property
    def share(self) -> float | None:
        """The sum of the relevance over the logit; None for a method that conserves nothing, or a logit of 0."""
        return None if self.ledger is None or self.logit == 0 else self.total / self.logit

    @property
    def title(self) -> str:
        """What was explained, in a line."""
        name = self.target_name or (f"class {self.target}" if self.probability is not None else f"output {self.target}")
        return name if self.probability is None else f"{name}, probability {percent(self.probability)}"

    def plot(self, **options: Any) -> Figure:
        """The figure. A notebook shows it as a cell's last line, ``plt.show()`` shows it on a screen.

        Args:
            **options: Those of the figure of this `kind` (`plot_overlay`, `plot_text`, `plot_signal`, ...): ``title``,
                ``ax``, ``save_path``, for pictures also ``smooth``, ``pool``, ``alpha``, ...
        """
        assert self.draw is not None
        options.setdefault("title", f"{self.title}\n{self.model}, {self.method}")
        return self.draw(self, **options)

    def show(self, **options: Any) -> None:
        """Shows the figure now: in the notebook's cell, or in a window. Options as in `plot`."""
        from matplotlib import pyplot

        figure = self.plot(**options)
        if isinstance(figure, Picture) and _in_notebook():
            figure._ipython_display_()
        else:
            pyplot.show()

    def save(self, path: str | Path, *, replace: bool = True, **options: Any) -> Path:
        """Writes one file, whole or not at all.

        Args:
            path: The suffix decides: ``.png``, ``.pdf``, ``.svg`` the figure; ``.npy`` the relevance; ``.json`` the
                facts; ``.html`` a page with all of it.
            replace: Whether an existing file may be replaced.
            **options: Of the figure; see `plot`.

        Returns:
            The path.

        Raises:
            ValueError: Another suffix.
            OSError: The file cannot be written.
        """
        form = Path(path).suffix.lower()
        if form == ".npy":
            buffer = io.BytesIO()
            np.save(buffer, self.relevance.numpy())
            return write_atomically(path, buffer.getvalue(), replace=replace)
        if form == ".json":
            return write_json(path, self.to_dict(), replace=replace)
        if form in (".html", ".htm"):
            return write_atomically(path, self.to_html(**options).encode(), replace=replace)
        with unshown():
            return save_figure(self.plot(**options), path, replace=replace)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, JSON-ready; without the relevance itself (``save("map.npy")``)."""
        totals = None
        if self.ledger is not None:
            totals = {name: float(getattr(self.ledger, name)[0]) for name in ("output", "input", *ABSORBED, "gap")}
        return {
            "kind": self.kind, "model": self.model, "method": self.method, "target": self.target,
            "target_name": self.target_name, "logit": self.logit, "probability": self.probability, "unit": self.unit,
            "sum_of_relevance": self.total, "share_of_logit": self.share, "shape": list(self.relevance.shape),
            "top": [guess._asdict() for guess in self.top], "ledger": totals, "notes": list(self.notes),
            **{name: value for name, value in self.view.items() if name in _KEPT and value is not None},
        }  # fmt: skip

    def to_html(self, **options: Any) -> str:
        """One page that needs no other file: the figure, the answers, the account. Options as in `plot`."""
        from lrp_plugin.explain.page import page

        return page(self, **options)

    def _repr_html_(self) -> str:
        from lrp_plugin.explain.page import fragment

        return fragment(self)

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.title}", f"explained by {self.method}: logit {number(self.logit)}"]
        if self.top and self.top[0].target != self.target and self.kind in ("image", "text", "signal", "table"):
            lines.append(f"the model's own answer is {self.top[0]}")
        lines += [f"{line}" for line in self.account()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def account(self) -> list[str]:
        """Where the logit went, in lines: what reached the input, and what took the rest."""
        if self.ledger is None:
            return [f"sum of the map {number(self.total)} ({self.unit}); no account was kept"]
        lines = [f"{number(self.total)} of the logit's {number(self.logit)} reached the input"]
        for name, words in IN_WORDS.items():
            amount = float(getattr(self.ledger, name)[0])
            if abs(amount) > 1e-6 * max(abs(self.logit), 1e-30):
                lines.append(f"{number(amount)} went to {words}")
        return lines


_KEPT = ("words", "tokens", "generated", "names", "channels", "rate", "box", "preprocessing")


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def plain_html(text: str) -> str:
    """Text as HTML."""
    return html.escape(text)
