"""Rules of recurrent networks on silero-vad's LSTM cell: do the maps say where speech starts?

Written down before the first map was seen: each recording is a second of noise, 20 dB below the speech, then two spoken words
in the same noise (Debian's alsa-utils, spoken by a person). Speech starts in the first 32-ms chunk that is within 26 dB of the
recording's loudest. The logit of speech 2, 5 and 9 chunks after it can rest on nothing before it, so of a map's positive
relevance, summed over each chunk,

- the share at and after the start should be large (``inside``; chance is the share of time, about a sixth), and
- the chunk where a tenth of it is reached should be the start, give or take one (``found``).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.evaluation.spelling import by, gradient_x_input
from benchmarks.evaluation.tables import FOLDER
from benchmarks.harness import write_json
from lrp_plugin.composites import recurrent
from lrp_plugin.evaluation import Interval, bootstrap_mean, paired_difference

CHUNK, CONTEXT, RATE = 512, 64, 16000
LEAD = 31
AFTER = (2, 5, 9)
WORDS = (
    "Front_Center",
    "Front_Left",
    "Front_Right",
    "Rear_Center",
    "Rear_Left",
    "Rear_Right",
    "Side_Left",
    "Side_Right",
)
BASES = ("input_x_gradient", "signal, epsilon 0.001")
PRODUCTS = ("signal", "uniform", "ratio", "gradient")


class SileroVAD(nn.Module):
    """silero-vad 6 at 16 kHz, as its package's ``tinygrad_model.py`` has it (MIT), over a whole recording."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, sound: Tensor) -> Tensor:
        """Logits of speech ``(1, T)`` of a recording ``(1, 512 T)``."""
        chunks = nn.functional.pad(sound, (CONTEXT, 0)).unfold(1, CHUNK + CONTEXT, CHUNK)[0]
        x = self.stft_conv(nn.functional.pad(chunks, (0, 64), mode="reflect")[:, None])
        x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        h = c = torch.zeros(1, 128, dtype=x.dtype)
        logits = []
        for features in x[..., 0].split(1):
            h, c = self.lstm_cell(features, (h, c))
            logits.append(self.final_conv(h.relu()[..., None])[..., 0])
        return torch.cat(logits, 1)


def silero() -> SileroVAD:
    """The trained network in double precision (PyPI silero-vad 6.2.3; its package is not imported)."""
    from safetensors.torch import load_file

    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ImportError("silero-vad is not installed: pip install --no-deps silero-vad==6.2.3")
    model = SileroVAD()
    model.load_state_dict(load_file(Path(spec.origin).parent / "data" / "silero_vad_16k.safetensors"))
    return model.double().eval().requires_grad_(False)


def recordings(folder: Path) -> list[tuple[Tensor, int]]:
    """Each recording ``(1, 512 T)``, and the chunk in which its speech starts."""
    noise = _read(folder / "Noise.wav")
    found = []
    for word in WORDS:
        spoken = torch.cat([torch.zeros(LEAD * CHUNK, dtype=torch.float64), _read(folder / f"{word}.wav")])
        spoken = spoken[: len(spoken) // CHUNK * CHUNK]
        loudness = spoken.view(-1, CHUNK).square().mean(1).sqrt()
        level = 0.1 * loudness[loudness > 0.05 * loudness.max()].square().mean().sqrt()
        hiss = noise.repeat(math.ceil(len(spoken) / len(noise)))[: len(spoken)]
        start = int((loudness > 0.05 * loudness.max()).nonzero()[0])
        found.append(((spoken + level * hiss / hiss.square().mean().sqrt())[None], start))
    return found


def _read(path: Path) -> Tensor:
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    rate, sound = wavfile.read(path)
    return torch.tensor(resample_poly(sound.astype(np.float64) / 2**15, RATE, rate))


def methods(model: nn.Module) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """The four rules of gate times signal at three epsilons, and gradient times input."""
    found: dict[str, Callable[[Tensor, int], Tensor]] = {"input_x_gradient": gradient_x_input(model)}
    for products in PRODUCTS:
        for epsilon in (0.001, 0.1, 1.0):
            found[f"{products}, epsilon {epsilon:g}"] = by(model, recurrent(products, epsilon))
    return found


def scores(relevance: Tensor, start: int) -> tuple[float, float]:
    """The share of positive relevance at and after the start, and whether the start is found."""
    by_chunk = relevance.view(-1, CHUNK).sum(1).clamp(min=0)
    if not bool(by_chunk.any()):
        return math.nan, 0.0
    reached = int((by_chunk.cumsum(0) >= 0.1 * by_chunk.sum()).nonzero()[0])
    return float(by_chunk[start:].sum() / by_chunk.sum()), float(abs(reached - start) <= 1)


def measure(folder: Path) -> dict[str, Any]:
    """For each method both scores with intervals over recordings and moments."""
    model, asked = silero(), []
    for sound, start in recordings(folder):
        chances = model(sound).sigmoid()[0]
        print(f"speech from chunk {start}: before {float(chances[:start].max()):.2f}, "
              + ", ".join(f"{k} after {float(chances[start + k]):.2f}" for k in AFTER), flush=True)  # fmt: skip
        asked += [(sound[:, : (start + after + 1) * CHUNK], start, start + after) for after in AFTER]
    rows, chosen = [], {}
    for name, explain in methods(model).items():
        each = torch.tensor([scores(explain(sound, last).detach(), start) for sound, start, last in asked])
        # The moments of one recording are no examples of their own.
        chosen[name] = each.view(len(WORDS), len(AFTER), 2).mean(1)
        row: dict[str, Any] = {"method": name}
        for place, score in enumerate(("inside", "found")):
            row[score] = _ends(bootstrap_mean(chosen[name][:, place]))
            for base in BASES:
                if base in chosen:
                    row[f"{score} above {base}"] = _ends(
                        paired_difference(chosen[name][:, place], chosen[base][:, place])
                    )
        rows.append(row)
        print(row, flush=True)
    chance = sum((last - start + 1) / (last + 1) for _, start, last in asked) / len(asked)
    result = {"recordings": len(WORDS), "moments of each": len(AFTER), "chance inside": chance, "rows": rows}
    write_json(FOLDER / "silero.json", result)
    return result


def _ends(interval: Interval) -> list[float]:
    return [interval.mean, interval.low, interval.high]
