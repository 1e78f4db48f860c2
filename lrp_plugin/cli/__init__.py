"""The command line, ``lrp-plugin``: ``explain`` images with any network, ``methods``, ``archive``, ``demo``, ``cxr``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lrp_plugin.cli.archive import add_archive
from lrp_plugin.cli.compare import add_compare
from lrp_plugin.cli.explain import add_explain
from lrp_plugin.cli.methods import add_methods
from lrp_plugin.version import __version__

# What a user can mend: bad input, an index outside the data, files, a missing extra, a training that diverged.
_NAMED = (ValueError, IndexError, OSError, RuntimeError, ImportError, FloatingPointError, TypeError)
_XRAY = {
    "demo": "train a small model on synthetic radiographs and explain it",
    "cxr": "chest X-ray models: train, evaluate, explain, report",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the words given in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lrp-plugin: {message}; see {self.prog} --help\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser.

    Args:
        command: The command that will run; the X-ray module is imported for its own alone. None: for all.
    """
    parser = _Parser(prog="lrp-plugin", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_explain(commands)
    add_compare(commands)
    add_methods(commands)
    add_archive(commands)
    if command is None or command in _XRAY:
        _add_xray(commands)
    else:
        for name, text in _XRAY.items():
            commands.add_parser(name, help=text)
    return parser


def _add_xray(commands: Any) -> None:
    """The X-ray module's commands; without its extra they say what is missing."""
    try:
        from lrp_plugin.cxr.cli import add_cxr, add_demo
    except ModuleNotFoundError as error:
        missing = error.name
        if missing is None or missing.startswith("lrp_plugin"):
            raise
        for name, text in _XRAY.items():
            commands.add_parser(name, help=f"{text} (needs the extra cxr)", add_help=False).set_defaults(
                missing=missing
            )
        return
    add_demo(commands)
    add_cxr(commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (2 for bad input, named on standard error, 130 for Ctrl-C)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows no minus sign shows "?" rather than nothing
            stream.reconfigure(errors="replace")
    parsed = None
    try:
        import matplotlib

        matplotlib.use("agg")  # files only: no window opens
        parsed, rest = build_parser(given[0] if given else None).parse_known_args(given)
        if getattr(parsed, "missing", None):
            raise ImportError(f'{parsed.command} needs the package {parsed.missing}: pip install "lrp-plugin[cxr]"')
        if rest:
            build_parser(given[0]).parse_args(given)
        return parsed.run(parsed) or 0
    except KeyboardInterrupt:
        print("\nlrp-plugin: stopped; every file written so far is whole", file=sys.stderr)
        return 130
    except _NAMED as error:
        said = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:  # without Python's "[Errno 13]"
            said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"lrp-plugin: {_in_the_shells_words(said, parsed)}", file=sys.stderr)
        return 2


def _in_the_shells_words(message: str, options: argparse.Namespace | None) -> str:
    """One line; options are called what the command calls them: ``resume=True`` becomes ``--resume``."""
    known = vars(options) if options is not None else {}

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2].strip("\"'")
        if name not in known:
            return found[0]
        option = f"--{name.replace('_', '-')}"
        return option if value == "True" else f"{option} {value}"

    line = " ".join(message.split())
    return re.sub(r"\b([a-z_]+)=(\"[^\"]*\"|'[^']*'|[\w.]+)", flag, line)


if __name__ == "__main__":
    sys.exit(main())
