"""A run to be killed: ``python killed_archive.py SOURCE ARCHIVE WEIGHTS [CHUNK]``; says each chunk that is done."""

from __future__ import annotations

import sys

import torch

from lrp_plugin.archive import Machines, Maps, Method, ModelSource, Picture, Settings, explain_archive

METHODS = (Method("epsilon"), Method("epsilon_plus_flat"))


def settings(weights: str, chunk: int = 4, **others: object) -> Settings:
    """The reference network on small pictures."""
    given = {
        "methods": METHODS, "picture": Picture((48, 48), 1), "maps": Maps(size=(24, 24)), "batch": 2, "chunk": chunk,
    }  # fmt: skip
    return Settings(ModelSource("lrp_plugin.cxr.reference:ReferenceCNN", weights), **{**given, **others})


def main(source: str, archive: str, weights: str, chunk: str = "4") -> None:
    """Explains, on two cores of Ray's."""
    torch.set_num_threads(1)
    machines = Machines(cpus=2, store=200_000_000)
    explain_archive(
        source, archive, settings(weights, int(chunk)), machines=machines,
        report=lambda progress: print("done", progress.done, flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
