"""Plants faults, one at a time, and says which of them a test saw: ``python -m tests.mutation --help``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.copies import FAILED, Copy
from tests.mutation.fault import ROOT, Fault
from tests.mutation.faults import every_fault
from tests.mutation.page import CAUGHT, EQUIVALENT, PAGE, SURVIVED, read_page, write_page


def main(given: list[str] | None = None) -> int:
    """The command: 0 where every fault was caught or is equivalent, 1 where one survived, 2 where tests cannot tell."""
    options = _options(given)
    faults = every_fault()
    chosen = _chosen(faults, options)
    print(f"{len(chosen)} of {len(faults)} faults", flush=True)
    outcomes = read_page()
    untold = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.jobs):
            copies.put(Copy(Path(folder, str(number))))
        if chosen and not options.trust and not _green(copies, chosen):
            return 2
        with ThreadPoolExecutor(options.jobs) as pool:
            running = {pool.submit(_outcome, one, copies): one for one in chosen}
            for number, done in enumerate(as_completed(running), 1):
                fault, (outcome, said, seconds) = running[done], done.result()
                print(
                    f"{number:4d}/{len(chosen)} {outcome:10s} {seconds:5.0f} s  {fault.file}: {fault.what}", flush=True
                )
                if outcome in (CAUGHT, SURVIVED, EQUIVALENT):
                    outcomes[fault.key] = outcome
                    write_page(faults, outcomes)
                else:
                    untold += 1
                    print(said)
    survived = [one for one in faults if outcomes.get(one.key) == SURVIVED]
    for one in survived:
        print(f"survived: {one.file}: {one.what} ({', '.join(one.tests)})")
    print(f"{PAGE.relative_to(ROOT)} has {sum(one.key in outcomes for one in faults)} of {len(faults)} faults")
    return 2 if untold else int(bool(survived))


def _options(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--files", nargs="+", default=[], help="only faults in these files or folders")
    parser.add_argument(
        "--changed", nargs="?", const="HEAD", metavar="REF",
        help="only faults in files, or with tests, that differ from REF (HEAD if left out), untracked ones too",
    )  # fmt: skip
    parser.add_argument(
        "--new", action="store_true", help="only faults that the page does not call caught or equivalent"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many copies and test processes at once")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a fault first")
    return parser.parse_args(given)


def _chosen(faults: list[Fault], options: argparse.Namespace) -> list[Fault]:
    if options.files:
        asked = [Path(name).resolve() for name in options.files]
        faults = [one for one in faults if any(one.place.is_relative_to(path) for path in asked)]
    if options.changed:
        changed = _changed_since(options.changed)
        faults = [
            one
            for one in faults
            if one.file in changed or any(test.partition("::")[0] in changed for test in one.tests)
        ]
    if options.new:
        known = read_page()
        faults = [one for one in faults if known.get(one.key, SURVIVED) == SURVIVED]
    return faults


def _changed_since(reference: str) -> set[str]:
    """Files that differ from a commit in the working tree, and those that git does not track yet."""
    asked = (["diff", "--name-only", reference], ["ls-files", "--others", "--exclude-standard"])
    said = [subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True) for words in asked]
    return {line for one in said for line in one.stdout.splitlines()}


def _green(copies: SimpleQueue[Copy], faults: list[Fault]) -> bool:
    """Whether the tests pass without a fault: else they would catch anything."""
    copy = copies.get()
    tests = tuple(dict.fromkeys(test for one in faults for test in one.tests))
    print(f"{len(tests)} tests and files without a fault ...", flush=True)
    status, said = copy.status(tests)
    copies.put(copy)
    if status:
        print(f"{said}\nthe tests fail without a fault: nothing planted", file=sys.stderr)
    return status == 0


def _outcome(fault: Fault, copies: SimpleQueue[Copy]) -> tuple[str, str, float]:
    """The outcome, what pytest said at the end, seconds."""
    copy, start = copies.get(), time.monotonic()
    try:
        status, said = copy.status_with(fault)
    finally:
        copies.put(copy)
    if status in (FAILED, None):
        outcome = CAUGHT
    elif status == 0:
        outcome = EQUIVALENT if fault.equivalent else SURVIVED
    else:
        outcome = f"status {status}"
    return outcome, said, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
