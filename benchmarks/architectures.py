"""The closing table of docs/architectures.md: of every family tried its ledger gap, and its time beside Saliency.

    python -m benchmarks.architectures gap                  # float64, small networks, seconds
    python -m benchmarks.architectures ratio --rounds 9     # float32, networks of the size in use, in a quiet window
    python -m benchmarks.architectures ratio --only lstm bert

Networks are those of tests/architectures (extra ``peers``: transformers, timm; torchxrayvision); a family whose package
is missing is left out and named. Token models: ours explains the ids, Saliency the embedding's output, which it can.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from captum.attr import Saliency
from torch import Tensor, nn

from benchmarks.harness import RESULTS, choose_device, describe_machine, paired, table, write_json
from lrp_plugin import UnifiedLRP
from lrp_plugin.attribution.inputs import OUTPUT_NAMES, chosen_output

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "architectures"))
import huggingface
import networks_tried


class Case(NamedTuple):
    """One explanation: a model, its input, a target, and which output is meant (None: `UnifiedLRP`'s default)."""

    model: nn.Module
    x: Tensor
    target: Any
    output: Any = None


class Subject(NamedTuple):
    """A model of a family.

    Args:
        family, name: As printed.
        rule: What its table row names.
        small: The case of the ledger's gap, in float64, vectors randomized.
        timed: The case of the ratio, of a size in use, as built.
    """

    family: str
    name: str
    rule: str
    small: Callable[[], Case]
    timed: Callable[[], Case]


class Sequence(nn.Module):
    """A recurrent module, its outputs averaged over time, then a linear head of three scores."""

    def __init__(self, kind: str, features: int, hidden: int) -> None:
        super().__init__()
        maker = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
        self.kernel = maker(features, hidden, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 3) of ``x`` (N, T, F)."""
        return self.head(self.kernel(x)[0].mean(1))


class Translator(nn.Module):
    """nn.Transformer, reading its own source."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.inner = nn.Transformer(width, 4, layers, layers, 4 * width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, width) of ``x`` (N, T, width)."""
        return self.inner(x, x)[:, -1]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _plain(
    family: str, name: str, rule: str, make: Callable[..., nn.Module], small: tuple[Any, ...], timed: tuple[Any, ...],
    target: Any = 1, output: Any = None,
) -> Subject:  # fmt: skip
    """``small`` and ``timed``: the shape of the input, and what ``make`` is called with."""

    def case(form: tuple[Any, ...], stirred: bool) -> Case:
        torch.manual_seed(0)
        shape, *args = form
        model, x = make(*args).eval(), _noise(*shape)
        return (
            Case(networks_tried.stirred(model), x.double(), target, output)
            if stirred
            else Case(model, x, target, output)
        )

    return Subject(family, name, rule, lambda: case(small, True), lambda: case(timed, False))


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    import torchvision

    return lambda: torchvision.models.get_model(name, weights=None, **options)


def torch_s_own() -> Iterable[Subject]:
    """Recurrent kernels, nn.Transformer, torchvision's networks, and those written in the tests."""
    for kind in ("lstm", "gru", "rnn"):
        yield _plain("recurrent", kind, "signal", Sequence, ((2, 6, 3), kind, 3, 4), ((8, 200, 64), kind, 64, 128))
    yield _plain("attention", "nn.Transformer", "attnlrp", Translator, ((2, 5, 8), 8, 2), ((4, 128, 256), 256, 4))
    for name, small, timed in (("vit_b_16", 224, 224), ("swin_t", 64, 224), ("convnext_tiny", 64, 224)):
        make = _torchvision(name, num_classes=5)
        yield _plain("torchvision", name, "attnlrp", make, ((1, 3, small, small),), ((4, 3, timed, timed),))
    for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50"):
        make = _torchvision(name, weights_backbone=None, num_classes=4)
        yield _plain(
            "segmentation", name, "epsilon", make, ((1, 3, 64, 64),), ((2, 3, 224, 224),), (1, 30, 33), "out"
        )  # fmt: skip
    for name in ("r3d_18", "swin3d_t"):
        make = _torchvision(name, num_classes=5)
        yield _plain("video", name, "epsilon", make, ((1, 3, 4, 32, 32),), ((1, 3, 8, 112, 112),))
    name = networks_tried.DETECTION[0]
    options = {"weights_backbone": None, "num_classes": 4, "box_score_thresh": 0.0, "min_size": 64, "max_size": 320}
    yield _plain("detection", name, "epsilon", _torchvision(name, **options), ((1, 3, 64, 64),), ((1, 3, 320, 320),),
                 1, networks_tried.first_scores)  # fmt: skip
    for upsample in (networks_tried.transposed, networks_tried.Interpolated):
        name = f"U-Net, {upsample.__name__.lower()}"
        yield _plain("segmentation", name, "epsilon", networks_tried.UNet, ((1, 3, 16, 16), upsample),
                     ((2, 3, 256, 256), upsample), (1, 3, 4))  # fmt: skip
    yield _plain("1-d", "ECG network", "epsilon", networks_tried.one_dimensional, ((2, 2, 40),), ((16, 2, 5000),))
    yield _plain("3-d", "CT network", "epsilon", networks_tried.three_dimensional, ((2, 1, 8, 8, 8),),
                 ((1, 1, 64, 64, 64),))  # fmt: skip


def from_timm() -> Iterable[Subject]:
    """timm's smallest of each family."""
    import timm

    for family, (name, size) in networks_tried.TIMM.items():
        rule = "attnlrp" if family in ("vit", "swin", "maxvit", "eva") else "epsilon"
        form = (1, 3, size, size)
        make = lambda name=name: timm.create_model(name, num_classes=5)  # noqa: E731
        yield _plain("timm", name, rule, make, (form,), ((4, 3, max(size, 224), max(size, 224)),))


def from_torchxrayvision() -> Iterable[Subject]:
    """Its DenseNet and its autoencoder."""
    import torchxrayvision as xrv

    make = lambda: xrv.models.DenseNet(weights=None, num_classes=3)  # noqa: E731
    yield _plain("torchxrayvision", "DenseNet", "epsilon", make, ((1, 1, 64, 64),), ((4, 1, 224, 224),))
    make = lambda: xrv.autoencoders.ResNetAE(weights=None)  # noqa: E731
    yield _plain("torchxrayvision", "ResNetAE", "epsilon", make, ((1, 1, 224, 224),), ((1, 1, 224, 224),),
                 (0, 100, 120), "out")  # fmt: skip


BASE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
TEXT = {**BASE, "max_position_embeddings": 160, "vocab_size": 1000}
PICTURE = {**BASE, "image_size": 224, "patch_size": 16}
LONG = {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 4, "vocab_size": 1000}
LARGER: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert:BertForSequenceClassification", TEXT),
    "roberta": ("Roberta:RobertaForSequenceClassification", TEXT),
    "distilbert": ("DistilBert:DistilBertForSequenceClassification",
                   {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024, "vocab_size": 1000}),
    "gpt2": ("GPT2:GPT2LMHeadModel", {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 160, "vocab_size": 1000}),
    "llama": ("Llama:LlamaForCausalLM", {**TEXT, "num_key_value_heads": 2}),
    "t5_encoder": ("T5:T5EncoderModel", {**LONG, "feed_forward_proj": "gated-gelu"}),
    "t5": ("T5:T5ForSequenceClassification", {**LONG, "decoder_start_token_id": 0}),
    "vit": ("ViT:ViTForImageClassification", PICTURE), "deit": ("DeiT:DeiTForImageClassification", PICTURE),
    "swin": ("Swin:SwinForImageClassification",
             {"image_size": 224, "patch_size": 4, "embed_dim": 48, "depths": [2, 2, 2], "num_heads": [3, 6, 12]}),
}  # fmt: skip
"""The sizes timed; the gap's are those of the tests."""
WHISPER = {"mels": 80, "width": 384, "layers": 4, "heads": 6, "inner": 1536, "length": 500}  # whisper-tiny, ten seconds


def from_transformers() -> Iterable[Subject]:
    """Hugging Face's families, in fused attention."""
    import transformers  # noqa: F401  (its absence is told by the name)

    for name, (make, inputs, target) in huggingface.MODELS.items():

        def small(make: Any = make, inputs: Any = inputs, target: Any = target) -> Case:
            return Case(huggingface.randomized(make("sdpa")), inputs()[0], target)

        def timed(name: str = name, target: Any = target) -> Case:
            torch.manual_seed(0)
            if name == "whisper_encoder":
                return Case(huggingface.whisper_encoder("sdpa", **WHISPER).eval(), _noise(2, 80, 1000), target)
            model = huggingface.built(LARGER[name][0], "sdpa", **LARGER[name][1]).eval()
            if name in ("vit", "deit", "swin"):
                return Case(model, _noise(4, 3, 224, 224), target)
            ids = torch.randint(3, 1000, (4, 128), generator=torch.Generator().manual_seed(1))
            ids[:, -1] = 2  # the end token that T5's classifier reads
            return Case(model, ids, target)

        yield Subject("Hugging Face", name, "attnlrp", small, timed)


def subjects(only: list[str]) -> Iterable[Subject]:
    """Everything whose package is there, or what ``only`` names."""
    for source in (torch_s_own, from_timm, from_torchxrayvision, from_transformers):
        try:
            found = list(source())
        except ImportError as error:
            print(f"left out, {source.__name__}: {error}", file=sys.stderr)
            continue
        yield from (subject for subject in found if not only or {subject.family, subject.name} & set(only))


def gap(subject: Subject) -> dict[str, Any]:
    """The ledger's gap, its output, and the relevance that reaches the input."""
    double = huggingface.steps_in_double() if subject.family == "Hugging Face" else nullcontext()
    with double:
        case = subject.small()
        lrp = UnifiedLRP(case.model, output=case.output, strict=True)
        ledger = lrp.ledger(case.x, target=case.target)
        reached = float(lrp.attribute(case.x, target=case.target).abs().sum())
    return {"gap": float(ledger.gap.abs().max()), "output": float(ledger.output[0]), "sum |R|": reached}


def _tensor(returned: Any, output: Any) -> Tensor:
    if isinstance(returned, Tensor):
        return returned
    if output is not None:
        return chosen_output(returned, output)
    held = next((name for name in OUTPUT_NAMES if hasattr(returned, name)), 0)
    return chosen_output(returned, held)


def saliency(case: Case) -> Callable[[], Any]:
    """Captum's Saliency of the same number; of a token model at its embedding's output."""
    model, x = case.model, case.x

    def plain(given: Tensor) -> Tensor:
        return _tensor(model(given), case.output)

    if x.is_floating_point():
        given = x.clone().requires_grad_()
        return lambda: Saliency(plain).attribute(given, target=case.target)
    words = model.get_input_embeddings()
    vectors = words(x).detach().requires_grad_()
    # T5's encoder and decoder hold the vocabulary each in a module of its own.
    shared = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == words.num_embeddings]

    def from_vectors(given: Tensor) -> Tensor:
        handles = [module.register_forward_hook(lambda *_: given) for module in shared]
        try:
            return plain(x)
        finally:
            for handle in handles:
                handle.remove()

    return lambda: Saliency(from_vectors).attribute(vectors, target=case.target)


def ratio(subject: Subject, rounds: int, cpu_time: bool) -> dict[str, Any]:
    """Time of ``attribute``, default rules, over Saliency's, paired in one process."""
    case = subject.timed()
    case.model.requires_grad_(False)
    lrp = UnifiedLRP(case.model, output=case.output)
    calls = {"lrp": lambda: lrp.attribute(case.x, target=case.target)}
    base, ours = paired(saliency(case), calls, torch.device("cpu"), rounds, 1, cpu_time=cpu_time)
    return {
        "input": str(tuple(case.x.shape)), "saliency ms": base.seconds * 1e3, "ratio": ours.ratio,
        "low": ours.ratio_low, "high": ours.ratio_high,
    }  # fmt: skip


def main() -> None:
    """Measures, prints a table; a run of everything writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("column", choices=("gap", "ratio"))
    parser.add_argument("--only", nargs="+", default=[], help="families or names, as printed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true", help="one thread's own time, for a machine others use")
    options = parser.parse_args()
    if options.cpu_time:
        torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for subject in subjects(options.only):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = gap(subject) if options.column == "gap" else ratio(subject, options.rounds, options.cpu_time)
        rows.append({"family": subject.family, "model": subject.name, "rule": subject.rule, **found})
        print(table(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    print(table(rows, list(rows[0])) if rows else f"nothing is named {' '.join(options.only)}")
    if not options.only:
        content = {"machine": describe_machine(choose_device("cpu")), "rows": rows}
        write_json(RESULTS / f"architectures_{options.column}.json", content)


if __name__ == "__main__":
    main()
