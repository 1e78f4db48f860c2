"""``lrp-plugin methods``: every method by name, with one line of what it does."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any


def add_methods(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("methods", help="list rules, composites and gradient methods", description=__doc__)
    parser.set_defaults(run=run_methods)


def run_methods(_: argparse.Namespace) -> None:
    """Prints the list, and what ``auto`` stands for."""
    from lrp_plugin.explain.methods import FAMILIES, described_methods

    for kind, names in described_methods().items():
        print(f"{kind}:")
        for name, line in names.items():
            text = line.replace("`", "")
            print(textwrap.fill(f"  {name:26} {text}", 118, subsequent_indent=" " * 29))
        print()
    print("auto, by the network's family:")
    for family, name in FAMILIES.items():
        print(f"  {family:26} {name}")
