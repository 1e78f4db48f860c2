"""Weights from the internet: whether it answers is asked once, before libraries try again and again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

REMEDY = "download them where there is a network and give the file by --checkpoint FILE (for hf: the folder, hf:FOLDER)"


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Where Hugging Face's hub does not answer, its libraries look into this machine's cache alone.

    Left to themselves they ask each file six times, with pauses that add up to half a minute.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            get_session().head(constants.ENDPOINT, timeout=5)
        except Exception:  # of whichever client it uses, and through whichever proxy
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def no_network(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that the network does not answer."""
    while error is not None:
        # The last is the hub's own, which says so of its cache where it was told not to ask.
        if isinstance(error, (socket.gaierror, ConnectionError, TimeoutError)) or (
            type(error).__name__ == "LocalEntryNotFoundError"
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
