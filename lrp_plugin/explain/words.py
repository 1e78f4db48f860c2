"""``explain_text``: which words an answer rests on, and which tokens each generated token rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrp_plugin.composites import Composite
from lrp_plugin.errors import told
from lrp_plugin.explain import figures
from lrp_plugin.explain.core import (
    device_of,
    forward,
    guesses,
    kind_of_probabilities,
    named,
    noted,
    relevance_of,
    scores_of,
    whole_call,
)
from lrp_plugin.explain.explanation import Explanation
from lrp_plugin.explain.methods import GRADIENTS, automatic, lrp_for
from lrp_plugin.explain.names import Labels, names_of, read_labels, target_number
from lrp_plugin.kinds import checked
from lrp_plugin.visualization import whole_words

REMEDY = "give a tokenizer whose ids the model knows, and a text of a length that it takes"


@whole_call
@checked
def explain_text(
    model: nn.Module | Callable[..., Any],
    tokenizer: Callable[..., Any],
    text: str | Sequence[str],
    target: int | str | Tensor | None = None,
    method: str | Composite = "auto",
    *,
    generate: int = 0,
    labels: Labels = None,
    bias: str = "absorb",
    output: Any = None,
    probabilities: str | None = None,
    topk: int = 5,
    ledger: bool = True,
    name: str | None = None,
    **options: Any,
) -> Explanation:
    """Explains one answer of a text network, or the tokens that a language model goes on with.

    Args:
        model: Takes ``input_ids`` by name (as Hugging Face's do), or ids ``(1, T)`` as its first argument; returns
            logits ``(1, K)`` of classes, or ``(1, T, V)`` of next tokens.
        tokenizer: A Hugging Face tokenizer, or a function from the text to ids (a list, or a tensor ``(T,)``).
        text: The text, or a list of words for a tokenizer that takes words.
        target: The class by number or name, or the next token by number or as text; the best one if None.
        method: As in `explain_image`; ``"auto"`` is AttnLRP for transformers, ``recurrent`` for recurrent networks.
        generate: Let a language model go on by so many tokens (the likeliest each time) and explain each of them;
            relevance then is a matrix ``(generated, prompt and generated)``.
        labels, bias, output, probabilities, topk, ledger, name: See `lrp_plugin.explain`, as for further options.

    Returns:
        The explanation; ``relevance`` has one number a token, in logits, and its figure shows whole words.

    Raises:
        TypeError: `tokenizer` cannot be called.
        ValueError: The model cannot be called, the text is empty, the target does not exist, or a name is unknown.
    """
    read = _tokenized(tokenizer, text)
    facts: dict[str, Any] = {"model": name or named(model), "draw": figures.draw_text}
    request = {"method": method, "bias": bias, "output": output, **options}
    if generate:
        return _generated(model, tokenizer, read[0].to(device_of(model)), read[2], generate, facts, **request)
    request |= {"ledger": ledger}
    return noted(
        _one_answer(model, tokenizer, read, target, read_labels(labels), (probabilities, topk), request, facts), bias
    )


def _one_answer(
    model: Any, tokenizer: Any, read: Any, target: Any, labels: list[str] | None, shown: tuple[str | None, int],
    request: dict[str, Any], facts: dict[str, Any],
) -> Explanation:  # fmt: skip
    """A class ``(1, K)``, or the next token ``(1, T, V)``."""
    ids, extra, tokens, words = read
    ids = ids.to(device_of(model))
    inputs: Any = {"input_ids": ids} if _by_name(model) else ids
    kwargs = {key: value.to(ids.device) for key, value in extra.items()} if isinstance(inputs, dict) else None
    scores = scores_of(forward(model, inputs, kwargs, remedy=REMEDY), request["output"])
    last = scores.dim() == 3
    flat = scores[0, -1] if last else scores.reshape(-1)
    names = None if last else labels or names_of(model, len(flat))
    if names is not None and len(names) != len(flat):
        raise ValueError(f"{len(names)} names for {len(flat)} outputs; give one for each")
    number = _next_token(tokenizer, target, len(flat)) if last else target_number(target, names, len(flat))
    how = shown[0] or ("softmax" if last else kind_of_probabilities(model, flat))
    top, shares = guesses(flat, names, how, shown[1])
    if last:
        top = [guess._replace(name=_piece(tokenizer, guess.target)) for guess in top]
    number = top[0].target if number is None else number
    wanted: Any = (ids.shape[1] - 1, number) if last else number if scores.dim() == 2 else None
    found, account, used, unit = relevance_of(model, inputs, wanted, forward_kwargs=kwargs, **request)
    relevance = (found["input_ids"] if isinstance(found, dict) else found)[0].detach().cpu()
    joined, summed = whole_words(tokens, relevance, words)
    title = _piece(tokenizer, number) if last else names[number] if names else None
    return Explanation(
        "text", relevance, ids[0].cpu(), method=used, target=wanted if last else number, target_name=title,
        logit=float(flat[number]), probability=None if shares is None else shares[number], top=tuple(top),
        ledger=account, unit=unit, view={"tokens": tokens, "words": joined, "word_relevance": summed}, **facts,
    )  # fmt: skip


def _by_name(model: Any) -> bool:
    import inspect

    call = model.forward if isinstance(model, nn.Module) else model
    try:
        return "input_ids" in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False


def _tokenized(tokenizer: Any, text: Any) -> tuple[Tensor, dict[str, Tensor], list[str], list[int | None] | None]:
    """Ids ``(1, T)``, further arguments by name, the tokens as text, the word each belongs to."""
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        returned = tokenizer(text)
        try:
            ids = torch.as_tensor(returned).reshape(1, -1).long()
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(
                f"tokenizer returned {told(returned)}; it should return ids, a list or a tensor (T,)"
            ) from None
        pieces = text.split() if isinstance(text, str) else list(text)
        tokens = pieces if len(pieces) == ids.shape[1] else [_piece(tokenizer, int(one)) for one in ids[0]]
        places: list[int | None] = list(range(len(tokens)))
        found: tuple[Tensor, dict[str, Tensor], list[str], list[int | None] | None] = (ids, {}, tokens, places)
    else:
        options = {} if isinstance(text, str) else {"is_split_into_words": True}
        encoded = tokenizer(text, return_tensors="pt", truncation=True, **options)
        ids = encoded["input_ids"]
        extra = {key: value for key, value in encoded.items() if key != "input_ids"}
        tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(ids[0].tolist())]
        words = encoded.word_ids(0) if getattr(tokenizer, "is_fast", False) else None
        found = (ids, extra, tokens, words)
    if ids.shape[1] == 0:
        raise ValueError("the text has no tokens: give one that is not empty")
    return found


def _piece(tokenizer: Any, number: int) -> str:
    """One token as text."""
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return whole_words([str(tokenizer.convert_ids_to_tokens([number])[0])], torch.zeros(1))[0][0]
    decode = getattr(tokenizer, "decode", None)
    return str(decode([number])) if decode is not None else str(number)


def _next_token(tokenizer: Any, target: int | str | Tensor | None, outputs: int) -> int | None:
    if not isinstance(target, str) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        return target_number(target, None, outputs)
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"target {told(target)} is {len(ids)} tokens; give one that is a single token, or its number")
    return int(ids[0])


def _generated(
    model: Any, tokenizer: Any, ids: Tensor, tokens: list[str], count: int, facts: Mapping[str, Any], *, method: Any,
    bias: str, output: Any, **options: Any,
) -> Explanation:  # fmt: skip
    """Each generated token's row: one forward pass over the whole text, one backward pass a token."""
    if method in GRADIENTS:
        raise ValueError(f"generate={count} needs an LRP method, not {method}")
    prompt = ids.shape[1]
    for _ in range(count):
        inputs: Any = {"input_ids": ids} if _by_name(model) else ids
        scores = scores_of(forward(model, inputs, remedy=REMEDY), output)
        if scores.dim() != 3:
            raise ValueError(f"generate={count} needs next tokens' logits (1, T, V); these are {tuple(scores.shape)}")
        ids = torch.cat([ids, scores[:, -1].argmax(-1, keepdim=True)], 1)
    read = ids[:, :-1]  # the last generated token is explained, and read by nobody
    inputs = {"input_ids": read} if _by_name(model) else read
    used = automatic(model, inputs, output=output) if method == "auto" else method
    lrp = lrp_for(model, used, bias=bias, output=output, **options)
    targets = [(prompt - 1 + k, int(ids[0, prompt + k])) for k in range(count)]
    found = lrp.attribute_targets(inputs, targets)
    matrix = (found["input_ids"] if isinstance(found, dict) else found)[:, 0].detach().cpu()
    final = scores_of(forward(model, inputs), output)[0]
    new = [_piece(tokenizer, int(one)) for one in ids[0, prompt:]]
    place, number = targets[-1]
    shown = [whole_words([token], torch.zeros(1))[0][0] for token in tokens]
    return Explanation(
        "text", matrix, read[0].cpu(), method=used if isinstance(used, str) else used.name, target=targets,
        target_name=" ".join(new), logit=float(final[place, number]), probability=None, top=(), ledger=None,
        view={"tokens": [*shown, *new[:-1]], "generated": new}, **facts,
    )  # fmt: skip
