"""The command line, ``lrp-plugin``: ``explain`` an image, ``demo``, ``cxr`` train, evaluate, explain, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lrp_plugin.cli.explain import add_explain
from lrp_plugin.version import __version__

# What a user can mend: bad input, an index outside the data, files, a missing extra, a training that diverged.
_NAMED = (ValueError, IndexError, OSError, RuntimeError, ImportError, FloatingPointError)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(prog="lrp-plugin", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_explain(commands)
    # The X-ray module's commands are imported here, by the command line alone: the attribution core never does.
    from lrp_plugin.cxr.cli import add_cxr, add_demo

    add_demo(commands)
    add_cxr(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (2 for bad input, named on standard error)."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except _NAMED as error:
        print(f"lrp-plugin: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
