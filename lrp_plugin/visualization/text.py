"""Words coloured by their relevance, in HTML and in matplotlib, and what each generated word rests on."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lrp_plugin.kinds import checked
from lrp_plugin.visualization.arrays import Array, ArrayLike, _as_array
from lrp_plugin.visualization.style import (
    PAGE,
    RELEVANCE,
    ColourScale,
    axes_for,
    colour_bar,
    colour_scale,
    figure_style,
    finish,
    number,
)

SPECIAL = frozenset({"[CLS]", "[SEP]", "[PAD]", "<s>", "</s>", "<pad>", "<bos>", "<eos>", "<|endoftext|>"})


@checked
def whole_words(
    tokens: Sequence[str], relevance: ArrayLike, words: Sequence[int | None] | None = None
) -> tuple[list[str], Array]:
    """Tokens joined to the words they are pieces of, their relevance added up.

    Args:
        tokens: T pieces as a tokenizer writes them: ``##ing`` (WordPiece) goes on with the word before; ``Ġ`` or ``▁``
            (byte pairs, SentencePiece) begins one.
        relevance: ``(T,)``, any unit.
        words: The word each token belongs to, as ``BatchEncoding.word_ids()`` says; None (special tokens) stands
            alone. Without it the marks in the tokens decide.

    Returns:
        The words, and their relevance ``(W,)``, float64, with the same sum.

    Raises:
        ValueError: The lengths differ.
    """
    values = _vector(tokens, relevance)
    if words is not None and len(words) != len(tokens):
        raise ValueError(f"{len(words)} words for {len(tokens)} tokens; give the word of each, or None for it")
    marked = any(token.startswith(("Ġ", "▁")) for token in tokens)
    found: list[str] = []
    sums: list[float] = []
    before: int | None = None
    for place, (token, value) in enumerate(zip(tokens, values, strict=True)):
        text = token.removeprefix("##").lstrip("Ġ▁").replace("Ċ", "\u21b5").replace("</w>", "")
        if words is not None:
            joins = words[place] is not None and words[place] == before
            before = words[place]
        else:
            begins = token.startswith(("Ġ", "▁")) or token in SPECIAL or (found and found[-1] in SPECIAL)
            joins = bool(found) and (token.startswith("##") or (marked and not begins))
        if joins:
            found[-1] += text
            sums[-1] += float(value)
        else:
            found.append(text or "\u2423")
            sums.append(float(value))
    return found, np.array(sums)


def _vector(tokens: Sequence[str], relevance: ArrayLike) -> Array:
    values = _as_array("relevance", relevance).astype(np.float64)
    if values.shape != (len(tokens),):
        raise ValueError(f"relevance has shape {values.shape} for {len(tokens)} tokens; give ({len(tokens)},)")
    if not np.isfinite(values).all():
        raise ValueError(f"relevance holds {np.count_nonzero(~np.isfinite(values))} NaN or infinite values")
    return values


def _scale(values: Array, unit: str) -> ColourScale:
    return colour_scale([values], limit=None, percentile=100, unit=unit, normalize=False)


@checked
def text_html(tokens: Sequence[str], relevance: ArrayLike, *, unit: str = "logit") -> str:
    """The words as an HTML paragraph, each on its colour, its value shown on hovering; the colours' scale below.

    Args:
        tokens: T words (see `whole_words`).
        relevance: ``(T,)``, in `unit`.
        unit: Of the relevance.

    Raises:
        ValueError: The lengths differ, or a value is not finite.
    """
    values = _vector(tokens, relevance)
    scale = _scale(values, unit)
    # Half of the scale: dark print stays readable (contrast at least 4.5) on the strongest colour.
    parts = []
    for token, value in zip(tokens, values, strict=True):
        colour = to_hex(RELEVANCE(scale.norm(0.55 * value)))
        label = f"{number(float(value))} {unit}"
        parts.append(
            f'<span style="background:{colour};color:#111;padding:.1em .25em;border-radius:.25em" '
            f'title="{html.escape(label)}">{html.escape(token)}</span>'
        )
    ends = ", ".join(to_hex(RELEVANCE(scale.norm(share * scale.limit))) for share in (-0.55, -0.275, 0, 0.275, 0.55))
    ramp = "display:inline-block;width:9em;height:.8em;vertical-align:middle;background:linear-gradient(90deg, " + ends
    return (
        f'<p style="line-height:2;font-size:1.05em">{" ".join(parts)}</p>\n'
        f'<p style="font-size:.85em">against, {number(-scale.limit)} <span style="{ramp})"></span> {number(scale.limit)}, '
        f"for: relevance ({html.escape(unit)})</p>"
    )


@checked
def plot_text(
    tokens: Sequence[str],
    relevance: ArrayLike,
    *,
    unit: str = "logit",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The words in lines, each on its colour: red speaks for the class, blue against it.

    Args:
        tokens: T words (see `whole_words`).
        relevance: ``(T,)``, in `unit`.
        unit: Of the relevance.
        title: Above the text.
        ax: Where to draw; None makes a new figure.
        save_path: Where to save.

    Returns:
        The figure.

    Raises:
        ValueError: The lengths differ, or a value is not finite.
    """
    values = _vector(tokens, relevance)
    scale = _scale(values, unit)
    letters = 78  # of 8 points fit a page's width
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for token, value in zip(tokens, values, strict=True):
        if lines[-1] and used + len(token) + 2 > letters:
            lines.append([])
            used = 0
        lines[-1].append((token, float(value)))
        used += len(token) + 2
    with figure_style():
        panel = axes_for(ax, PAGE, 0.24 * len(lines) + (0.85 if title else 0.65))
        panel.set(xlim=(0, letters), ylim=(len(lines), 0))
        panel.set_axis_off()
        for row, line in enumerate(lines):
            column = 0.5
            for token, value in line:
                box = {"boxstyle": "round,pad=0.22", "fc": RELEVANCE(scale.norm(0.55 * value)), "ec": "none"}
                panel.text(column, row + 0.5, token, va="center", family="monospace", fontsize=8, bbox=box,
                           parse_math=False)  # fmt: skip
                column += len(token) + 2
        side = panel.inset_axes((0.0, -0.32 / max(len(lines), 1) - 0.02, 0.35, 0.16 / max(len(lines), 1)))
        _legend(side, scale, unit)
        panel.set_title(title or "", loc="left")
        return finish(panel.figure, save_path)


def _legend(side: Axes, scale: ColourScale, unit: str) -> None:
    ramp = np.linspace(-0.55, 0.55, 111)
    side.imshow(RELEVANCE((ramp + 1) / 2)[None], aspect="auto", extent=(-scale.limit, scale.limit, 0, 1))
    side.set_yticks([])
    side.set_xticks([-scale.limit, 0, scale.limit], [number(-scale.limit), "0", number(scale.limit)])
    side.tick_params(labelsize=6.5, length=2)
    side.set_xlabel(f"against \u2190 relevance ({unit}) \u2192 for", fontsize=6.5, labelpad=1)


@checked
def plot_token_matrix(
    sources: Sequence[str],
    generated: Sequence[str],
    relevance: ArrayLike,
    *,
    unit: str = "logit",
    title: str | None = None,
    ax: Axes | None = None,
    save_path: str | os.PathLike[str] | None = None,
) -> Figure:
    """What each generated token rests on: a row for each of them, a column for each token it could read.

    Args:
        sources: S tokens, prompt first, then those generated before.
        generated: G tokens.
        relevance: ``(G, S)``, in `unit`; entries of tokens that come later are 0.
        unit: Of the relevance.
        title: Above the matrix.
        ax: Where to draw; None makes a new figure.
        save_path: Where to save.

    Returns:
        The figure.

    Raises:
        ValueError: The shape does not fit the tokens.
    """
    values = _as_array("relevance", relevance).astype(np.float64)
    if values.shape != (len(generated), len(sources)):
        raise ValueError(
            f"relevance has shape {values.shape}; give ({len(generated)}, {len(sources)}): generated by sources"
        )
    scale = _scale(values, unit)
    with figure_style():
        panel = axes_for(ax, min(1.6 + 0.3 * len(sources), 2 * PAGE), 1.3 + 0.26 * len(generated))
        panel.imshow(values, cmap=RELEVANCE, norm=scale.norm, aspect="auto")
        panel.set_xticks(range(len(sources)), sources, rotation=60, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(generated)), generated)
        for label in (*panel.get_xticklabels(), *panel.get_yticklabels()):
            label.set(family="monospace", parse_math=False)
        panel.set_ylabel("generated")
        panel.set_xlabel("rests on")
        panel.set_xticks(np.arange(len(sources) + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(len(generated) + 1) - 0.5, minor=True)
        panel.grid(which="minor", color="#dfe3e8", lw=0.4)
        panel.tick_params(which="minor", length=0)
        colour_bar(panel, scale, RELEVANCE, normalize=False)
        panel.set_title(title or "", loc="left")
        return finish(panel.figure, save_path)
