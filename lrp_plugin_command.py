"""The console script ``lrp-plugin``: a module of its own, so that Ctrl-C while torch is imported ends in one line too."""

import os
import signal
import sys
from typing import Any


def main() -> int:
    """Runs the command line; returns the exit status."""
    # A shell's background job has Ctrl-C ignored, and keeps it so.
    heeded = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    if heeded:
        signal.signal(signal.SIGINT, _stop_at_once)
    from lrp_plugin.cli import main as run

    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:  # beside what the command line itself catches
        print("\nlrp-plugin: stopped", file=sys.stderr)
        return 130
    finally:
        if heeded:  # what is left is the interpreter's end, where an interrupt prints a traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop_at_once(*_: Any) -> None:
    """While importing there is nothing to tidy, and extension modules turn an exception into errors of their own."""
    os.write(2, b"\nlrp-plugin: stopped before anything was done\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
