"""Train and evaluate in as many processes as ``torchrun`` starts: ``two_processes.py OUTPUT KIND``.

KIND is ``plain`` (no BatchNorm: must equal one process), ``reference`` (BatchNorm: each process's own batch) or
``best`` (nothing is written, the best epoch's weights come back).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from lrp_plugin.cxr import SyntheticCXR, Trainer, build_model, get_dataloader, join_processes

BATCH = 16


def main(output: Path, kind: str) -> dict[str, Any]:
    """Train on 46 pictures (uneven last batch), evaluate on 21 (uneven shares); all that is compared."""
    torch.set_num_threads(1)
    rank, world = join_processes()
    torch.manual_seed(3)
    if kind == "reference":
        net: nn.Module = build_model("reference_cnn")
    else:
        net = nn.Sequential(nn.Conv2d(1, 6, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(294, 4))
    # Spoils the weights of all but the first process: they must be brought in line.
    with torch.no_grad():
        next(net.parameters()).add_(0.1 * rank)
    train = get_dataloader(SyntheticCXR(46, size=32), BATCH // world, True)
    val = get_dataloader(SyntheticCXR(21, seed=1, size=32), 8)
    best = kind == "best"
    trainer = Trainer(net, device="cpu", output=None if best else output / f"run{world}", progress=False)
    history = trainer.train(
        train, val, epochs=3, learning_rate=0.5 if best else 0.01, class_weights=[1.0, 2.0, 1.0, 0.5], load_best=best
    )
    weights = torch.cat([v.flatten().double() for v in net.state_dict().values()]).tolist()
    figures = trainer.evaluate(val)  # gives every process the first one's weights
    figures["confusion_matrix"] = figures["confusion_matrix"].tolist()
    y_true, y_prob, loss = trainer.inference(val)
    own = {
        "rows": history.rows,
        "best_epoch": history.best_epoch,
        "figures": figures,
        "y_true": y_true.tolist(),
        "y_prob": y_prob.tolist(),
        "loss": loss,
        "weights": weights,
    }
    everyone: list[Any] = [None] * world
    if world > 1:
        distributed.all_gather_object(everyone, own)
        distributed.destroy_process_group()
    else:
        everyone = [own]
    if rank == 0:
        (output / f"{world}.json").write_text(json.dumps(everyone))
    return own


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
