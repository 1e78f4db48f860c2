"""The command line, ``lrp-plugin``: ``explain`` images with any network, ``methods``, ``archive``, ``demo``, ``cxr``."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from lrp_plugin.cli.archive import add_archive
from lrp_plugin.cli.compare import add_compare
from lrp_plugin.cli.explain import add_explain
from lrp_plugin.cli.methods import add_methods
from lrp_plugin.options import said
from lrp_plugin.version import __version__

# What a user can mend: bad input, an index outside the data, files, a missing extra, a training that diverged, no memory.
_NAMED = (ValueError, IndexError, OSError, RuntimeError, ImportError, ArithmeticError, TypeError, MemoryError)
_XRAY = {
    "demo": "train a small model on synthetic radiographs and explain it",
    "cxr": "chest X-ray models: train, evaluate, explain, report",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the words given in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lrp-plugin: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses unknown words where they stand: the command's own help and nearest option are named, not the root's."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest and not getattr(parsed, "missing", None):
            near = [
                one
                for word in rest
                if word.startswith("--")
                for one in difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, 1, 0.75)
            ]
            hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return parsed, rest


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


def _one_line(message: Warning | str, *_: Any) -> str:
    """A warning as the command says everything else: no file, no line of code."""
    return f"lrp-plugin: note: {' '.join(str(message).split())}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (2 for bad input, named on standard error, 130 for Ctrl-C)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows no minus sign shows "?" rather than nothing
            stream.reconfigure(errors="replace")
    parsed, format_of_warnings = None, warnings.formatwarning
    warnings.formatwarning = _one_line  # type: ignore[assignment]  # it leaves file and line out
    try:
        import matplotlib

        matplotlib.use("agg")  # files only: no window opens
        parsed, _ = build_parser(given[0] if given else None).parse_known_args(given)
        if getattr(parsed, "missing", None):
            raise ImportError(f'{parsed.command} needs the package {parsed.missing}: pip install "lrp-plugin[cxr]"')
        return parsed.run(parsed) or 0
    except KeyboardInterrupt:
        print("\nlrp-plugin: stopped; every file written so far is whole", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes nowhere
        return 141
    except _NAMED as error:
        print(f"lrp-plugin: {said(error, parsed)}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = format_of_warnings


if __name__ == "__main__":
    sys.exit(main())
