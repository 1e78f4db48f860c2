"""Tiny Hugging Face models built from their configuration classes, in float64, small parameters randomized."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, so that no bias is zero and no scale is one; float64, evaluating."""
    torch.manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.2
            parameter.copy_(torch.randn_like(parameter) * spread + (parameter.dim() == 1) * 0.5)
    return model


FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit", "deit", "swin", "whisper")


class Doubled:
    """torch, except that its float32 is float64: several of the models compute a softmax or a norm in float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def steps_in_double() -> Iterator[None]:
    """The models' own float32 steps in float64."""
    with ExitStack() as stack:
        for family in FAMILIES:
            module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
            stack.enter_context(mock.patch.object(module, "torch", Doubled()))
        yield


def built(kind: str, attention: str, **config: Any) -> nn.Module:
    """A model by ``"Family:Class"`` from its configuration, 40 words and three labels unless told."""
    import transformers

    settings = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 3, **config}
    made = getattr(transformers, f"{kind.split(':')[0]}Config")(**settings)
    made._attn_implementation = attention
    return getattr(transformers, kind.split(":")[1])(made)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 20}  # fmt: skip
IMAGE = {**{key: value for key, value in SMALL.items() if key != "max_position_embeddings"}, "image_size": 16,
         "patch_size": 8, "num_labels": 3}  # fmt: skip


def ids() -> tuple[Tensor, ...]:
    """Two sentences, the second padded."""
    tokens = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    tokens[1, 5:] = 0
    return (tokens,)


def sentences_with_one_end() -> tuple[Tensor, ...]:
    """Two sentences of one end token each, which T5's classifier reads."""
    tokens = ids()[0].clone()
    tokens[tokens == 2] = 3
    tokens[:, 4] = 2
    return (tokens,)


def image() -> tuple[Tensor, ...]:
    """Two images."""
    return (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)


def swin_image() -> tuple[Tensor, ...]:
    """Two images of Swin's size."""
    return (torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)


def spectrogram() -> tuple[Tensor, ...]:
    """Two log-mel spectrograms."""
    return (torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)


def whisper_encoder(
    attention: str, mels: int = 8, width: int = 16, layers: int = 2, heads: int = 2, inner: int = 24, length: int = 20
) -> nn.Module:
    """Whisper's encoder, which returns its last hidden state (N, length, width), of spectrograms (N, mels, 2 length)."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    made = WhisperConfig(num_mel_bins=mels, d_model=width, encoder_layers=layers, encoder_attention_heads=heads,
                         encoder_ffn_dim=inner, max_source_positions=length)  # fmt: skip
    made._attn_implementation = attention
    return WhisperEncoder(made)


Case = tuple[Callable[[str], nn.Module], Callable[[], tuple[Tensor, ...]], Any]
MODELS: dict[str, Case] = {
    "bert": (lambda a: built("Bert:BertForSequenceClassification", a, **SMALL), ids, 1),
    "roberta": (lambda a: built("Roberta:RobertaForSequenceClassification", a, **{**SMALL, "pad_token_id": 0}), ids, 1),
    "distilbert": (lambda a: built("DistilBert:DistilBertForSequenceClassification", a, dim=16, n_layers=2, n_heads=2,
                                   hidden_dim=24, max_position_embeddings=20), ids, 1),
    "gpt2": (lambda a: built("GPT2:GPT2LMHeadModel", a, n_embd=16, n_layer=2, n_head=2, n_positions=20), ids, (3, 5)),
    "llama": (lambda a: built("Llama:LlamaForCausalLM", a, **{**SMALL, "num_attention_heads": 4,
                                                               "num_key_value_heads": 2}), ids, (3, 5)),
    "t5_encoder": (lambda a: built("T5:T5EncoderModel", a, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                                   feed_forward_proj="gated-gelu"), ids, (3, 5)),
    "t5": (lambda a: built("T5:T5ForSequenceClassification", a, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
                           decoder_start_token_id=0), sentences_with_one_end, 1),
    "vit": (lambda a: built("ViT:ViTForImageClassification", a, **IMAGE), image, 1),
    "deit": (lambda a: built("DeiT:DeiTForImageClassification", a, **IMAGE), image, 1),
    "swin": (lambda a: built("Swin:SwinForImageClassification", a, image_size=32, patch_size=4, embed_dim=8,
                             depths=[2, 2], num_heads=[2, 2], window_size=2), swin_image, 1),
    "whisper_encoder": (whisper_encoder, spectrogram, (3, 5)),
}  # fmt: skip
