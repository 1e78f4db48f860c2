"""The chunks through Ray Data: readers, a pool of explainers that keep the model, writers, streaming and with retries."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from lrp_plugin.archive.settings import Settings
from lrp_plugin.archive.work import ExplainChunks, read_chunk, write_chunk

# Read when Ray is imported or its processes start, so they are set before. Nothing is sent to anyone; on one machine
# every socket is on the loopback device (Ray has that only for desktop systems, behind this name) and asks for a token
# drawn for this run. Where the caller has imported Ray already the last two come too late, and Ray listens as it does.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
# Ray runs its workers at niceness 15. Here they are the program, as polite as it was started (nice): on two cores shared with
# twelve busy processes the explainers had a tenth of a plain loop's time.
_AS_STARTED = {"RAY_worker_niceness": "0"}
_token: list[str] = []
_READER_CPUS, _WRITER_CPUS = 0.5, 0.25  # Shares of a core for Ray's accounting; unequal, or Ray would join the steps.


@dataclass(frozen=True)
class Machines:
    """Where the work is done.

    Attributes:
        address: Of a running Ray cluster (``"auto"``, ``"ray://..."``); None: this machine, set up and taken down again.
        actors: Explainers at most; None: one for each GPU, or on CPUs all cores but one, which reads.
        gpus: Of each actor, also a part of one; None: 1 where there are GPUs.
        cpus: Cores to use of this machine; None: all. Not with ``address``.
        store: Bytes of shared memory for pictures on the way, on this machine; None: a fifth of its memory, 4 GB at most.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | None = None
    cpus: int | None = None
    store: int | None = None


@contextmanager
def cluster(machines: Machines) -> Iterator[Any]:
    """Ray, up for the block: the caller's if it is up already, else a cluster's or one of our own.

    Raises:
        ImportError: Ray is not installed.
        ValueError: ``cpus`` or ``store`` together with ``address``.
        ConnectionError: No cluster answers at the address.
    """
    if machines.address is not None and (machines.cpus or machines.store):
        raise ValueError("cpus and store are this machine's; a cluster at an address has its own")
    before = {name: os.environ.get(name) for name in (*_QUIET, *_AS_STARTED, *_ALONE, "RAY_AUTH_TOKEN")}
    os.environ.update({**_QUIET, **{name: os.environ.get(name, value) for name, value in _AS_STARTED.items()}})
    if machines.address is None and (_token or "ray" not in sys.modules):
        # One token for the life of the process: Ray reads it once, also for a second cluster of its own.
        _token[:] = _token or [secrets.token_hex(32)]
        os.environ.update({**_ALONE, "RAY_AUTH_TOKEN": _token[0]})
    try:
        ray = _imported()
        started = not ray.is_initialized()
        if started:
            _start(ray, machines)
        try:
            yield ray
        finally:
            if started:
                ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _imported() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f"an archive is explained on Ray Data: pip install 'lrp-plugin[archive]' ({error})"
        ) from error
    return ray


def _start(ray: Any, machines: Machines) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if machines.address is not None:
        _refuse_silent(machines.address)
        ray.init(address=machines.address, **quiet)
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    store = machines.store or min(memory // 5, 4 * 1024**3)
    ray.init("local", num_cpus=machines.cpus, include_dashboard=False, object_store_memory=store, **quiet)


def _refuse_silent(address: str) -> None:
    """Raises ``ConnectionError`` where nothing listens at ``HOST:PORT``; Ray itself would ask for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(
                f"no Ray cluster answers at {address} ({error.strerror or error}); give another address, auto for the one "
                "of this machine, or none"
            ) from None


def _roll(ray: Any) -> Any:
    """An actor that knows a run's explainers, to end them with it.

    Ray lets go of a failed run's actors when nothing in the driver refers to them any longer: a traceback that somebody
    keeps, a log record or a thread that is slow to end holds their cores, for which the next run in that Ray would wait.
    """

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Roll:  # In here Ray sends it by value: by name its process would import torch, four seconds of a core.
        def __init__(self) -> None:
            self.actors: list[Any] = []

        def add(self, actor: Any) -> None:
            self.actors.append(actor)

        def called(self) -> list[Any]:
            return self.actors

    # Beside the driver, so that no other node's end is its own; made again where Ray kills it for memory.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    lasting = {"max_restarts": -1, "max_task_retries": -1}
    return ray.remote(num_cpus=0, scheduling_strategy=here, **lasting)(Roll).remote()


def _enrol(roll: Any) -> None:
    """Enters the explainer that this runs in; where the run has ended there is no roll, and it does not start."""
    ray = _imported()
    ray.get(roll.add.remote(ray.get_runtime_context().current_actor))


def explain_chunks(
    ray: Any, url: str, archive: str, pending: Sequence[int], settings: Settings, machines: Machines, generations: int,
    before: Any = None,
) -> Generator[dict[str, Any], None, None]:  # fmt: skip
    """Reads, explains and writes chunks; yields ``chunk``, ``items``, ``failed`` as each file comes to its place.

    A dead worker's chunk is done again by another (Ray's retries); an exception ends the run.

    Args:
        ray: The running Ray.
        url: The archive, reachable from every machine.
        archive: Its name.
        pending: The chunks to be done.
        settings: Of the archive.
        machines: Where.
        generations: Of the plan.
        before: See `ExplainChunks`.
    """
    resources, pool = _explainers(ray, machines)
    roll = _roll(ray)
    numbers = list(pending)
    rows = ray.data.range(len(numbers), override_num_blocks=len(numbers))
    rows.context.enable_progress_bars = False
    rows.context.raise_original_map_exception = True  # An OSError, say, is to be known as one.
    read = partial(_read_one, numbers=numbers, url=url, settings=settings, generations=generations)
    device = "cuda" if resources.get("num_gpus") else "cpu"
    steps = (
        rows.map(read, num_cpus=_READER_CPUS)
        .map(
            ExplainChunks, fn_constructor_args=(settings, archive, device, partial(_enrol, roll), before), **resources,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool, max_tasks_in_flight_per_actor=2),
        )
        .map(partial(write_chunk, url=url), num_cpus=_WRITER_CPUS)
    )  # fmt: skip
    try:
        yield from steps.iter_rows()
    finally:
        with suppress(ray.exceptions.RayError):  # Ray itself may be what failed.
            for explainer in ray.get(roll.called.remote(), timeout=30):
                ray.kill(explainer)
            ray.kill(roll)


def _read_one(row: dict[str, Any], *, numbers: list[int], **given: Any) -> dict[str, Any]:
    return read_chunk({"chunk": numbers[int(row["id"])]}, **given)


def _explainers(ray: Any, machines: Machines) -> tuple[dict[str, float], int]:
    """What each actor takes, and how many there are at most."""
    there = ray.cluster_resources()
    gpus = machines.gpus if machines.gpus is not None else (1.0 if there.get("GPU") else 0.0)
    if gpus:
        if not there.get("GPU"):
            raise ValueError(f"{gpus} GPUs an actor were asked for, and the cluster has none")
        return {"num_cpus": 1, "num_gpus": gpus}, machines.actors or max(1, int(there["GPU"] / gpus))
    return {"num_cpus": 1}, machines.actors or max(1, int(there.get("CPU", 1)) - 1)
