"""Two small transformers on tasks of tokens whose deciding places are known, and the sentences they are asked about.

A classifier (BERT): words without meaning, one word that may be good or bad, a negator right before it that turns it round,
negators elsewhere that do nothing. A language model (Llama): six pairs of key and value, then one of the keys; the next
token is its value. Which tokens decide is written down here, by the rule that made the answer, before any map is seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.evaluation.networks import fit, kept

MASK, START, END = 0, 1, 2
"""``MASK`` stands for a token that is not there: both networks meet it in training, where it means nothing."""
FILLERS, GOOD, BAD, NEGATORS = range(3, 37), range(37, 41), range(41, 45), range(45, 47)
WORDS, VOCABULARY = 14, 47
NEUTRAL, POSITIVE, NEGATIVE = range(3)

PAIRS = 6
KEYS, VALUES, SYMBOLS = range(1, 17), range(17, 33), 33
SILENT = -100  # of cross_entropy: no answer is asked for here


class Tokens(nn.Module):
    """A transformer that is given embeddings as a picture of one row, (N, E, 1, T): a token is a pixel of E channels.

    So a mask is (N, 1, 1, T), and patches of one pixel are tokens. Logits are those of the sentence, or of the next token.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def embedded(self, ids: Tensor) -> Tensor:
        """The input (N, E, 1, T) for ids (N, T)."""
        with torch.no_grad():
            return self.model.get_input_embeddings()(ids).transpose(1, 2)[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits = self.model(inputs_embeds=x[:, :, 0].transpose(1, 2)).logits
        return logits if logits.ndim == 2 else logits[:, -1]


def meaning(ids: Tensor) -> Tensor:
    """The class of sentences (N, T): what their good or bad word says, turned round by a negator right before it."""
    good, bad, negator = (torch.isin(ids, torch.tensor(tuple(group))) for group in (GOOD, BAD, NEGATORS))
    turned = negator.roll(1, 1)
    positive, negative = (good & ~turned) | (bad & turned), (bad & ~turned) | (good & turned)
    return torch.where(positive.any(1), POSITIVE, torch.where(negative.any(1), NEGATIVE, NEUTRAL))


def sentences(count: int, generator: torch.Generator, said: bool = False) -> tuple[Tensor, Tensor]:
    """Ids (N, T), and which tokens decide the class (N, T): the good or bad word, and the negator before it.

    Every place is as likely, a negator is as likely in every class, and every class as any other; ``said``: none is
    neutral. In a neutral sentence nothing decides.
    """

    def drawn(*among: int) -> Tensor:
        return torch.tensor(among)[torch.randint(len(among), (count,), generator=generator)]

    def chance(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share

    rows, columns = torch.arange(count), torch.arange(WORDS)
    words = torch.tensor(tuple(FILLERS))[torch.randint(len(FILLERS), (count, WORDS), generator=generator)]
    place = torch.randint(1, WORDS, (count,), generator=generator)
    spoken = torch.ones(count, dtype=torch.bool) if said else chance(2 / 3)
    negated = chance(0.5)  # also where there is nothing to turn round
    word = torch.where(chance(0.5), drawn(*GOOD), drawn(*BAD))
    # A negator that turns nothing round: anywhere but at the word and right before it.
    loose = (place + torch.randint(1, WORDS - 1, (count,), generator=generator)) % WORDS
    words[rows, loose] = torch.where(chance(0.5), drawn(*NEGATORS), words[rows, loose])
    words[rows, place] = torch.where(spoken, word, words[rows, place])
    words[rows, place - 1] = torch.where(negated, drawn(*NEGATORS), words[rows, place - 1])
    deciding = (columns == place[:, None]) | ((columns == place[:, None] - 1) & negated[:, None])
    edge = torch.ones(count, 1, dtype=torch.long)
    ids = torch.cat([START * edge, words, END * edge], 1)
    return ids, nn.functional.pad(deciding & spoken[:, None], (1, 1))


def pairs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (N, 2 PAIRS + 1), the value that comes next (N,), and which tokens decide: the asked key's pair.

    The asked key itself, which ends the sequence, decides as well; its place is always the same, so it is no answer.
    """
    keys, values = (
        torch.rand(count, len(group), generator=generator).argsort(1)[:, :PAIRS] + group[0] for group in (KEYS, VALUES)
    )
    asked = torch.randint(PAIRS, (count, 1), generator=generator)
    listed = torch.stack([keys, values], 2).flatten(1)
    deciding = (torch.arange(PAIRS) == asked).repeat_interleave(2, 1)
    ids = torch.cat([listed, keys.gather(1, asked)], 1)
    return ids, values.gather(1, asked)[:, 0], nn.functional.pad(deciding, (0, 1))


def bert(seed: int) -> Tokens:
    """A BERT of three layers, trained to say the class of sentences, some of whose words are masked."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=WORDS + 2, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = Tokens(BertForSequenceClassification(config))
    generator = torch.Generator().manual_seed(seed)

    def losses() -> Iterator[Tensor]:
        while True:
            ids = sentences(64, generator)[0]
            gone = torch.rand(ids.shape, generator=generator) < 0.5 * torch.rand(64, 1, generator=generator) ** 2
            gone[:, [0, -1]] = False
            ids = ids.masked_fill(gone, MASK)
            yield nn.functional.cross_entropy(model.model(ids).logits, meaning(ids))

    kept(f"bert-{seed}", model, lambda: fit(model, losses(), 5000, 5e-4))
    return model


def decoder(seed: int) -> Tokens:
    """A Llama of three layers, trained to say the value of every key of the pairs before, some of which are masked."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SYMBOLS, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=4 * PAIRS, tie_word_embeddings=False, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = Tokens(LlamaForCausalLM(config))
    generator = torch.Generator().manual_seed(seed)

    def losses() -> Iterator[Tensor]:
        while True:
            listed = pairs(64, generator)[0][:, :-1].view(64, PAIRS, 2)
            order = torch.rand(64, PAIRS, generator=generator).argsort(1)[..., None].expand(-1, -1, 2)
            asked = listed.gather(1, order)
            gone = torch.rand(listed.shape, generator=generator) < 0.5 * torch.rand(64, 1, 1, generator=generator) ** 2
            unknown = gone.any(2).gather(1, order[..., 0])
            ids = torch.cat([listed.masked_fill(gone, MASK), asked], 1).flatten(1)
            logits = model.model(ids).logits[:, 2 * PAIRS :: 2]
            answers = asked[..., 1].masked_fill(unknown, SILENT)
            yield nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=SILENT)

    kept(f"decoder-{seed}", model, lambda: fit(model, losses(), 4000, 2e-3))
    return model
