"""Where an archive is explained: on one machine without a packet leaving it, and on two nodes of which one is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from radiographs import write_radiographs
from test_kills import assert_same_as_undisturbed, descendants, start, wait_for

from lrp_plugin.archive.pool import Machines, _start

TWO_NODES = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import psutil
from ray.cluster_utils import Cluster
from killed_archive import settings
from lrp_plugin.archive import Machines, explain_archive

cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 2, "object_store_memory": 150_000_000}})
lost = cluster.add_node(num_cpus=2, object_store_memory=150_000_000)
raylet = lost.all_processes["raylet"][0].process.pid
killed = []

def report(progress):
    if progress.done >= 40 and not killed:
        there = [raylet, *(child.pid for child in psutil.Process(raylet).children(recursive=True))]
        actors = [pid for pid in there if "ExplainChunks" in " ".join(psutil.Process(pid).cmdline())]
        killed.append(len(actors))
        for pid in there:
            os.kill(pid, signal.SIGKILL)
        print("killed a node with", len(actors), "explainers", flush=True)

machines = Machines(address=cluster.address, actors=2)
progress = explain_archive({source!r}, {archive!r}, settings({weights!r}), machines=machines, report=report)
assert killed and progress.left == 0, (killed, progress)
cluster.shutdown()
"""


@pytest.mark.slow
def test_of_two_nodes_one_is_killed_and_the_run_ends_complete(tmp_path: Path, weights: str, ray: object) -> None:
    source, archive = write_radiographs(tmp_path / "data", 200), tmp_path / "archive"
    code = TWO_NODES.format(tests=str(Path(__file__).parent), source=str(source), archive=str(archive), weights=weights)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed a node" in done.stdout
    assert_same_as_undisturbed(source, archive, tmp_path / "whole", weights)


@pytest.mark.slow
def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    """Ray asked it again and again, for minutes."""
    with pytest.raises(
        ConnectionError, match=r"no Ray cluster answers at localhost:1 \(Connection refused\); give another"
    ):
        _start(None, Machines(address="localhost:1"))


def test_one_process_runs_twice() -> None:
    code = """
from lrp_plugin.archive import Machines
from lrp_plugin.archive.pool import cluster
for _ in range(2):
    with cluster(Machines(cpus=1, store=100_000_000)) as ray:
        print(ray.get(ray.remote(lambda: 7).remote()))
"""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["7", "7"], done.stderr[-2000:]


@pytest.mark.slow
def test_nothing_is_heard_or_said_outside_the_machine(tmp_path: Path, weights: str) -> None:
    source = write_radiographs(tmp_path / "data", 40)
    process = start(source, tmp_path / "archive", weights)
    wait_for(process, 3)
    sockets = [
        (one.name(), connection)
        for one in [psutil.Process(process.pid), *descendants(process)]
        for connection in one.net_connections("inet")
    ]
    wait_for(process, 100)
    assert process.wait() == 0
    assert any(connection.status == psutil.CONN_LISTEN for _, connection in sockets)
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    outside = [
        entry
        for entry in sockets
        for end in (entry[1].laddr, entry[1].raddr)
        if end and end.ip not in loopback
    ]  # fmt: skip
    assert not outside
