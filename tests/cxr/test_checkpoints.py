from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrp_plugin.cxr import CheckpointError, build_model, load_model, load_weights, save_weights
from lrp_plugin.cxr.module import WholeFiles


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_full_disk_keeps_the_old_file_and_says_so(tmp_path: Path, full_disk: Any) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, path)
    with (
        full_disk(),
        pytest.raises(CheckpointError, match=r"last\.ckpt .*No space left.*previous last\.ckpt is intact"),
    ):
        WholeFiles().save_checkpoint({"epoch": 2}, path)
    assert WholeFiles().load_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"], "no rubbish left"
    WholeFiles().save_checkpoint({"epoch": 3}, path)
    assert WholeFiles().load_checkpoint(path) == {"epoch": 3}


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/last\.ckpt.*there was no earlier one"):
        WholeFiles().save_checkpoint({}, tmp_path / "file" / "last.ckpt")


def test_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.system, ("true",)

    torch.save({"x": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(CheckpointError, match=r"trap\.ckpt is no training state"):
        WholeFiles().load_checkpoint(tmp_path / "trap.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match=r"cut\.ckpt"):
        WholeFiles().load_checkpoint(tmp_path / "cut.ckpt")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        WholeFiles().load_checkpoint(tmp_path / "nowhere.ckpt")
    with open(tmp_path / "plain.ckpt", "wb") as file:
        pickle.dump(Trap(), file)
    with pytest.raises(CheckpointError, match=r"plain\.ckpt"):
        WholeFiles().load_checkpoint(tmp_path / "plain.ckpt")


def test_model_comes_back_from_its_weights_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("squeezenet1_1", 3, input_size=64).eval()
    save_weights(tmp_path / "best.safetensors", model, {"classes": ["a", "b", "c"], "epoch": 2})
    again, facts = load_model(tmp_path / "best.safetensors")
    picture = torch.rand(2, 1, 100, 100)
    assert torch.equal(model(picture), again(picture))
    assert facts == {"classes": ["a", "b", "c"], "epoch": 2}
    assert again.recipe == model.recipe


def test_normalization_comes_back_too(tmp_path: Path) -> None:
    model = build_model("reference_cnn", 2)
    model.mean, model.std = torch.full((1, 1, 1, 1), 0.4), torch.full((1, 1, 1, 1), 0.2)
    save_weights(tmp_path / "w.safetensors", model.eval(), {})
    again, _ = load_model(tmp_path / "w.safetensors")
    picture = torch.rand(1, 1, 32, 32)
    assert torch.equal(model(picture), again(picture))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    save_weights(tmp_path / "w.safetensors", net, {})
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(tmp_path / "w.safetensors", other)
    assert torch.equal(other[1].weight, net[0].weight)


def test_wrong_and_broken_weights_are_named(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2), {})
    with pytest.raises(CheckpointError, match="another model"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="no recipe"):
        load_model(tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is broken"):
        load_weights(tmp_path / "cut.safetensors", nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="no weights at"):
        load_weights(tmp_path / "none.safetensors", nn.Linear(2, 2))


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, nn.Linear(3, 2), {"epoch": 1})
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            facts = load_weights(path, nn.Linear(3, 2))
        except CheckpointError:
            continue
        # Only the name of the checksum itself may change unseen.
        assert facts == {"epoch": 1} and b"sha256" not in path.read_bytes(), place
