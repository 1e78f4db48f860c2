"""``--model``: torchvision's name, ``timm:``, ``hf:``, ``xrv:``, ``package.module:function`` or ``file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lrp_plugin.cli.checkpoints import load_into, read_checkpoint
from lrp_plugin.cli.downloads import REMEDY, hub_or_cache, no_network
from lrp_plugin.errors import unknown
from lrp_plugin.explain.preprocessing import Preprocessing
from lrp_plugin.explain.refusals import refuse_empty_weights

FORMS = "a torchvision name, timm:NAME, hf:FOLDER, xrv:NAME, package.module:function or file.py:function"


@dataclass
class LoadedModel:
    """A network and what is known of it.

    Attributes:
        network: In evaluation mode.
        name: As results are named after it.
        trained: Weights were loaded. None: a function of the user's own made it, and only that knows.
        preprocess: Its own preprocessing, where its weights say it.
    """

    network: nn.Module
    name: str
    trained: bool | None
    preprocess: Preprocessing | None = None

    @property
    def caution(self) -> str | None:
        """What a reader has to know of a network that may not be trained."""
        if self.trained:
            return None
        if self.trained is None:
            return (
                f"Note: no --checkpoint was given; unless {self.name} loads weights itself, this network is UNTRAINED."
            )
        return "Note: weights are missing, so this network is UNTRAINED: what is found says nothing of a trained one."


def load_model(
    spec: str, *, weights: str | None = None, checkpoint: Path | None = None, num_classes: int | None = None
) -> LoadedModel:
    """The network that the command line names.

    Args:
        spec: One of `FORMS`.
        weights: ``DEFAULT`` or another name of torchvision's or torchxrayvision's weights, ``DEFAULT`` for timm's; or a
            file, as `checkpoint`.
        checkpoint: A file of weights; see `read_checkpoint`.
        num_classes: The number of outputs, where the network's builder takes it.

    Raises:
        ValueError: An unknown name, a function that returns no network, weights that do not fit.
        ImportError: The package that `spec` names is not installed.
    """
    if weights is not None and checkpoint is None and (Path(weights).suffix or Path(weights).is_file()):
        checkpoint, weights = Path(weights), None
    if weights is not None and checkpoint is not None:
        raise ValueError("--weights and --checkpoint are both given; give the one that is meant")
    tensors = None if checkpoint is None else read_checkpoint(checkpoint)
    torch.manual_seed(0)  # an untrained network is at least the same one each time
    kind, colon, rest = spec.partition(":")
    if colon and not (kind and rest):
        raise ValueError(f"--model {spec} is half a name; legal are {FORMS}")
    if kind in _BUILDERS and rest:
        found = _BUILDERS[kind](rest, weights, num_classes)
    elif ":" in spec:
        found = _of_users(spec, weights, num_classes)
    else:
        found = _torchvision(spec, weights, num_classes)
    if tensors is not None and checkpoint is not None:
        load_into(found.network, tensors, checkpoint)
        found.trained = True
    refuse_empty_weights(found.network)
    found.network.eval()
    return found


def _torchvision(spec: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    import torchvision

    names = torchvision.models.list_models()
    folded = {name.lower(): name for name in names}
    if spec.endswith(".py"):
        raise ValueError(f"--model {spec} names no function in it; give {spec}:FUNCTION, one that returns the network")
    if spec.lower() not in folded:
        raise ValueError(unknown("model", spec, names) + f"; or {FORMS.partition(', ')[2]}")
    name = folded[spec.lower()]
    enum = torchvision.models.get_model_weights(name)
    chosen = None
    if weights is not None:
        members = {member.upper(): member for member in (*enum.__members__, "DEFAULT")}
        if weights.upper() not in members:
            raise ValueError(unknown(f"weights of {name}", weights, enum.__members__))
        chosen = getattr(enum, members[weights.upper()])
    options: dict[str, Any] = {} if num_classes is None or chosen is not None else {"num_classes": num_classes}
    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    if chosen is None and "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if "init_weights" in parameters or name in ("googlenet", "inception_v3"):
        options["init_weights"] = chosen is None
    network = _built(name, lambda: torchvision.models.get_model(name, weights=chosen, **options))
    if chosen is not None and num_classes is not None:
        _check_classes(network, num_classes)
    return LoadedModel(network, name, chosen is not None, _of_weights(chosen or next(iter(enum), None)))


def _of_weights(chosen: Any) -> Preprocessing | None:
    """The preprocessing of torchvision's weights, where it is a classifier's."""
    transforms = chosen.transforms() if chosen is not None else None
    if transforms is None or not hasattr(transforms, "crop_size"):
        return None
    crop, size = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    return Preprocessing(crop, tuple(transforms.mean), tuple(transforms.std), 3, min(crop / size, 1.0), 1.0,
                         transforms.interpolation.value, "torchvision's weights")  # fmt: skip


def _timm(name: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    timm = _needed("timm", "timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(unknown("timm model", name, timm.list_models()))
    if weights not in (None, "DEFAULT"):
        raise ValueError(f"--weights {weights!r}: legal for timm's models is DEFAULT; a file goes to --checkpoint")
    options = {} if num_classes is None else {"num_classes": num_classes}
    with nullcontext() if weights is None else hub_or_cache():
        network = _built(name, lambda: timm.create_model(name, pretrained=weights is not None, **options))
    return LoadedModel(network, name, weights is not None)


def _hugging_face(name: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    transformers = _needed("hf", "transformers")
    if weights is not None or num_classes is not None:
        raise ValueError("hf: brings its own weights and classes; leave --weights and --num-classes away")
    transformers.utils.logging.disable_progress_bar()
    local = Path(name).exists()
    if local and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} is no Hugging Face folder: it has no config.json")
    kind, missing = transformers.AutoModelForImageClassification, []

    def build() -> nn.Module:
        network, told = kind.from_pretrained(name, local_files_only=local, output_loading_info=True)
        missing.extend(told["missing_keys"])  # as a head that the folder lacks: it was drawn at random
        return network

    with nullcontext() if local else hub_or_cache():
        network = _built(name, build)
    return LoadedModel(network, Path(name).name or name, not missing)


def _torchxrayvision(name: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    xrv = _needed("xrv", "torchxrayvision")
    kinds = {kind: getattr(xrv.models, kind) for kind in ("DenseNet", "ResNet")}
    listed = list(xrv.models.model_urls)
    if name in listed or weights is not None:
        wanted = name if name in listed else str(weights)
        if wanted not in listed:
            raise ValueError(unknown("torchxrayvision weights", wanted, listed))
        return LoadedModel(_built(wanted, lambda: xrv.models.get_model(wanted)), wanted, True)
    if name not in kinds:
        raise ValueError(unknown("torchxrayvision model", name, [*kinds, *listed]))
    if name == "ResNet":
        raise ValueError("torchxrayvision's ResNet has trained weights only: xrv:resnet50-res512-all")
    options = {} if num_classes is None else {"num_classes": num_classes}
    return LoadedModel(_built(name, lambda: kinds[name](weights=None, **options)), f"xrv-{name}", False)


def _of_users(spec: str, weights: str | None, num_classes: int | None) -> LoadedModel:
    """A function, class or module object of the user's own; its code is run."""
    place, _, name = spec.rpartition(":")
    if weights is not None:
        raise ValueError(f"--weights {weights!r}: a network of your own takes a file, --checkpoint FILE")
    module = _of_file(Path(place)) if place.endswith(".py") else _of_package(place, spec)
    if not hasattr(module, name):
        public = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise ValueError(unknown(f"function in {place}", name, public))
    maker = getattr(module, name)
    if not callable(maker):
        raise ValueError(
            f"{name} in {place} is a {type(maker).__name__}; legal is a function that returns an nn.Module"
        )
    options = {}
    if num_classes is not None and not isinstance(maker, nn.Module):
        if "num_classes" not in inspect.signature(maker).parameters:
            raise ValueError(f"{name} in {place} takes no num_classes; leave --num-classes away")
        options = {"num_classes": num_classes}
    network = maker if isinstance(maker, nn.Module) else _run(spec, lambda: maker(**options))
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"what {name} in {place} returned is no nn.Module but {type(network).__name__}; it should return an nn.Module"
        )
    return LoadedModel(network, name, place == "lrp_plugin.samples" or None)  # those of the package come trained


def _run(spec: str, make: Any) -> Any:
    """What a user's function returns; what it raises is named as its own."""
    try:
        return make()
    except (Exception, SystemExit) as error:  # the latter of a script that reads a command line of its own
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{spec} raised {told[:300]}; legal is a function without arguments (or with num_classes) that returns an nn.Module"
        ) from error


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"lrp_plugin_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))  # its neighbours, as when it is run itself
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the latter of a script that reads a command line of its own
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} fails when imported: {told[:300]}; legal is a file that only defines, with what runs behind "
            "if __name__ == '__main__'"
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _of_package(place: str, spec: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise ValueError(f"--model {spec}: {error}; legal are {FORMS}") from error
    finally:
        sys.path.remove("")


def _needed(kind: str, package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"--model {kind}: needs the package {package}: pip install {package} ({error})") from None


def _built(name: str, build: Any) -> nn.Module:
    """What the builder returns; whatever it raises becomes one line (downloads fail in many ways)."""
    try:
        return build()
    except Exception as error:
        if no_network(error):
            raise ValueError(
                f"{name}: its weights are not on this machine, and no network answers; {REMEDY}"
            ) from error
        line = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot be built: {line[:300]}; weights of your own go to --checkpoint") from error


def _check_classes(network: nn.Module, num_classes: int) -> None:
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    if last and last[0].out_features != num_classes:
        raise ValueError(
            f"--num-classes {num_classes} with --weights: these weights have {last[0].out_features} classes; leave one away"
        )


_BUILDERS = {"timm": _timm, "hf": _hugging_face, "xrv": _torchxrayvision}
