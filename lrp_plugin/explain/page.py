"""An explanation as HTML: a fragment for notebooks, a page for files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lrp_plugin.visualization import number, percent, text_html, unshown

if TYPE_CHECKING:
    from lrp_plugin.explain.explanation import Explanation

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; height: auto; background: #fff; }}
table {{ border-collapse: collapse; margin: .5rem 0 1rem; }}
th, td {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8886; font-weight: normal; }}
td {{ text-align: right; font-variant-numeric: tabular-nums; }}
.scroll {{ overflow-x: auto; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def fragment(explanation: Explanation, **options: Any) -> str:
    """What a notebook shows: the figure (words as words), the model's answers, the account of the logit, the notes."""
    shown = _words(explanation) or _figure(explanation, **options)
    parts = [shown, _answers(explanation), _account(explanation)]
    parts += [f"<p><strong>Note:</strong> {html.escape(note)}</p>" for note in explanation.notes]
    return "\n".join(part for part in parts if part)


def page(explanation: Explanation, **options: Any) -> str:
    """One page that needs no other file."""
    return _PAGE.format(title=html.escape(explanation.title), body=fragment(explanation, **options))


def _words(explanation: Explanation) -> str:
    if explanation.kind != "text" or "words" not in explanation.view or explanation.view.get("generated"):
        return ""
    view = explanation.view
    head = "<br>".join(html.escape(line) for line in (explanation.title, f"{explanation.model}, {explanation.method}"))
    return f"<p>{head}</p>\n{text_html(view['words'], view['word_relevance'], unit=explanation.unit)}"


def _figure(explanation: Explanation, **options: Any) -> str:
    with unshown():
        figure = explanation.plot(**options)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.05)
    data = base64.b64encode(buffer.getvalue()).decode()
    what = f"What {explanation.model} rests on for {explanation.title}, by {explanation.method}: "
    what += f"{explanation.kind} with relevance from blue (against) over white (none) to red (for)"
    return f'<p><img src="data:image/png;base64,{data}" alt="{html.escape(what)}"></p>'


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    top = "".join(f'<th scope="col" style="text-align:left">{html.escape(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row" style="text-align:left">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        for row in rows
    ]
    body = "".join(f"{line}</tr>" for line in lines)
    return f'<div class="scroll" style="margin-bottom:1em"><table><tr>{top}</tr>{body}</table></div>'


def _answers(explanation: Explanation) -> str:
    if not explanation.top:
        return ""
    rows = [
        (guess.name or f"class {guess.target}", number(guess.logit),
         "" if guess.probability is None else percent(guess.probability))
        for guess in explanation.top
    ]  # fmt: skip
    return _table(("the model's answers", "logit", "probability"), rows)


def _account(explanation: Explanation) -> str:
    from lrp_plugin.explain.explanation import IN_WORDS

    account = explanation.ledger
    if account is None:
        return f"<p>{html.escape(explanation.account()[0])}</p>"
    whole = explanation.logit or 1.0
    rows = [("reached the input", number(float(account.input[0])), percent(float(account.input[0]) / whole))]
    for name, words in IN_WORDS.items():
        amount = float(getattr(account, name)[0])
        if abs(amount) > 1e-6 * abs(whole):
            rows.append((f"went to {words}", number(amount), percent(amount / whole)))
    return _table((f"of a logit of {number(explanation.logit)}", explanation.unit, "share"), rows)
