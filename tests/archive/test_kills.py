"""SIGKILL of the driver, of actors, of everything: in the end every id once, and the bits of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from by_hand import explain_by_hand
from killed_archive import settings
from radiographs import write_radiographs

from lrp_plugin.archive import Archive, explain_archive, verify
from lrp_plugin.archive.rows import MEASURED, SCHEMA

SCRIPT = Path(__file__).with_name("killed_archive.py")
KILLS = 10


def start(source: Path, archive: Path, weights: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, str(SCRIPT), str(source), str(archive), weights]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen[str], lines: int) -> None:
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def kill_driver(process: subprocess.Popen[str]) -> None:
    """Ray's own processes end with their driver; what still writes then must do no harm."""
    process.send_signal(signal.SIGKILL)


def kill_everything(process: subprocess.Popen[str]) -> None:
    for one in [*descendants(process), psutil.Process(process.pid)]:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)


def wait_until_gone(processes: list[psutil.Process], seconds: float = 60) -> None:
    """An init that reaps nobody leaves zombies, which do nothing any more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(runs, processes)):
        time.sleep(0.1)


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def contents(archive: Path) -> list[dict[str, object]]:
    """Every row, every column but the measured times, in order."""
    names = [name for name in SCHEMA.names if name not in MEASURED]
    table = Archive(str(archive)).filter().to_arrow(names)
    return table.sort_by([("key", "ascending"), ("target", "ascending"), ("method", "ascending")]).to_pylist()


def assert_same_as_undisturbed(source: Path, archive: Path, whole: Path, weights: str) -> None:
    explain_by_hand(source, whole, settings(weights))
    result = verify(str(archive), sample=10, sources=True)
    assert result.whole, result.problems
    assert result.found == result.items
    assert result.identical == result.again > 0
    assert contents(archive) == contents(whole)
    assert not [file for file in archive.rglob("*") if file.name.endswith(".tmp")]


def command(one: psutil.Process) -> list[str]:
    try:
        return one.cmdline()
    except psutil.NoSuchProcess:  # killed just now
        return []


def kill_at_random_moments(
    source: Path, archive: Path, weights: str, kill: Callable[..., None], times: int, after: tuple[int, int]
) -> list[int]:
    """Starts and kills so many runs; how many files there were after each."""
    generator = random.SystemRandom()
    files = []
    for _ in range(times):
        process = start(source, archive, weights)
        wait_for(process, generator.randint(*after))
        time.sleep(generator.uniform(0, 0.5))
        # Ray's agents live on for a minute; they write nothing.
        children = [one for one in descendants(process) if not one.name().endswith("Agent")]
        kill(process)
        assert process.wait() == -signal.SIGKILL, "the run must have been cut off"
        wait_until_gone(children)
        files.append(len(list(archive.glob("maps/*/*.parquet"))))
    return files


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path, weights: str, ray: object) -> None:
    source, killed = write_radiographs(tmp_path / "data", 40), tmp_path / "killed"
    (files,) = kill_at_random_moments(source, killed, weights, kill_driver, 1, (2, 4))
    assert files > 0
    explain_archive(str(source), str(killed), settings(weights))
    assert_same_as_undisturbed(source, killed, tmp_path / "whole", weights)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_driver, kill_everything])
def test_killed_at_ten_random_moments(tmp_path: Path, weights: str, ray: object, kill: Callable[..., None]) -> None:
    source, killed = write_radiographs(tmp_path / "data", 400), tmp_path / "killed"
    files = kill_at_random_moments(source, killed, weights, kill, KILLS, (0, 5))
    print("files after each kill:", files)
    explain_archive(str(source), str(killed), settings(weights))
    assert_same_as_undisturbed(source, killed, tmp_path / "whole", weights)


@pytest.mark.slow
def test_ten_killed_actors_are_made_again(tmp_path: Path, weights: str, ray: object) -> None:
    source = write_radiographs(tmp_path / "data", 400)
    process, killed = start(source, tmp_path / "killed", weights), 0
    generator = random.SystemRandom()
    while killed < KILLS:
        wait_for(process, generator.randint(1, 3))
        time.sleep(generator.uniform(0, 0.3))
        assert process.poll() is None, f"the run ended after {killed} kills"
        actors = [one for one in descendants(process) if "ExplainChunks" in " ".join(command(one))]
        for one in actors[:1]:
            one.send_signal(signal.SIGKILL)
            killed += 1
    wait_for(process, 200)  # Whoever does not read a pipe stops its writer.
    assert process.wait() == 0
    assert_same_as_undisturbed(source, tmp_path / "killed", tmp_path / "whole", weights)
