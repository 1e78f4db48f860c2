"""Scratch copies of the repository, in which faults are planted: the checkout is never written to."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.mutation.fault import ROOT, Fault

LIMIT = 300  # Seconds; a fault may make a loop endless.
FAILED = 1  # pytest's exit status where tests failed; 2 to 5 say that it could not run them.
# What most tests import, and this package not: loaded once, in a process that is forked for each run. 12 s a fault become 3.
_HEAVY = (
    "pytest", "hypothesis", "torch", "torch._dynamo", "torchvision", "captum.attr", "matplotlib.figure", "scipy.stats",
    "lightning.pytorch", "torchmetrics", "pyarrow.parquet",
)  # fmt: skip


class Copy:
    """A copy of what git tracks or would track, with its faults one at a time.

    Args:
        folder: Where it is made; it must not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(
            [name for name in _HEAVY if importlib.util.find_spec(name.partition(".")[0])]
        )

    def status_with(self, fault: Fault) -> tuple[int | None, str]:
        """What pytest says of the fault's tests while it is planted; see `status`."""
        path = self.folder / fault.file
        source = path.read_text()
        path.write_text(fault.planted_in(source))
        _forget_compiled(path)
        try:
            return self.status(fault.tests)
        finally:
            path.write_text(source)
            _forget_compiled(path)

    def status(self, tests: tuple[str, ...]) -> tuple[int | None, str]:
        """The tests' exit status in the copy (None: they took longer than `LIMIT`), and the end of what they said."""
        said = self.folder.with_suffix(".txt")
        running = self._processes.Process(target=_tested, args=(self.folder, tests, said))
        running.start()
        running.join(LIMIT)
        if running.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid or 0, signal.SIGKILL)  # its workers too
            running.join()
            return None, f"longer than {LIMIT} s"
        return running.exitcode, said.read_text(errors="replace")[-3000:]


def _forget_compiled(path: Path) -> None:
    """Python takes a compiled file for current by its size and second: both may be the other text's."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _tested(folder: Path, tests: tuple[str, ...], said: Path) -> None:
    """Runs in a process of its own."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
    sys.path.insert(0, str(folder))
    with said.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    import pytest

    status = pytest.main(["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *tests])
    sys.stdout.flush()
    os._exit(int(status))  # the forked process's own end would wait for what the tests left behind
