"""A command line's words: kinds of what its options take, and errors said as the shell's user says them."""

from __future__ import annotations

import json
import math
import os
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST = 2**31 - 1
"""Of what is counted: more fits no index of the libraries below."""


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """Whole numbers from ``least`` to ``most``, in digits."""
    legal = "a whole number" if least == -MOST else f"a whole number, {least} or more"
    legal = legal if most == MOST else f"a whole number, {least} to {most}"

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r}: give {legal}")
        return int(text)

    return read


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r}: give a number, as 0.5 or 1e-3")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def no_file(text: str) -> str:
    """A folder's path or a URL, as it came."""
    if not text:
        raise ArgumentTypeError("an empty name; give a folder")
    if Path(text).exists() and not Path(text).is_dir():
        raise ArgumentTypeError(f"{text} is a file; give a folder, which is made where it is missing")
    return text


def folder(text: str) -> Path:
    """A folder that can be written to, or made: said before the work, not after it."""
    path = Path(no_file(text))
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written to" if there.is_dir() else "is a file"
        raise ArgumentTypeError(f"{text}: {there} {why}; give a folder that is yours to write to")
    return path


def json_object(text: str) -> dict[str, Any]:
    """Names and values in JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"""{text!r}: give names and values in JSON, as '{{"depth": 3}}'""")
    return value


def said(error: BaseException, options: Namespace | None) -> str:
    """An error in one line, without Python's and the allocator's own words."""
    line = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in line:
        return "there is not enough memory for this; fewer or smaller pictures, networks or batches need less"
    if isinstance(error, OSError) and error.strerror:  # without "[Errno 13]"
        line = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return in_the_shells_words(line, options)


def in_the_shells_words(message: str, options: Namespace | None) -> str:
    """One line; options are called what the command calls them: ``resume=True`` becomes ``--resume``."""
    known = vars(options) if options is not None else {}

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], found[2].strip("\"'")
        if name not in known:
            return found[0]
        option = f"--{name.replace('_', '-')}"
        return option if value == "True" else f"{option} {value}"

    line = " ".join(message.split())
    if "gray" in known:  # what one argument of the library's says, several options say
        line = line.replace("give preprocess=", "give --size, --mean, --std, --gray")
    if "patch" in known:  # a folder of pictures has no masks; a run has
        line = line.replace(
            "give data as (inputs, target, mask)", "give a run folder of 'cxr train', or another metric"
        )
        line = re.sub(
            r"say which tensor is explained by output=.*", "give a network that returns its scores alone", line
        )
        line = re.sub(r"\bpatches\((\d+)\)", r"--patch \1", line)
    value = r"(\"[^\"]*\"|'[^']*'|[-+\w.]+)"
    line = re.sub(
        rf"\b[A-Za-z]\w*\(([a-z_]+)={value}\)", lambda found: flag(found) if found[1] in known else found[0], line
    )
    line = re.sub(rf"\b([a-z_]+)={value}", flag, line)
    line = re.sub(r"\b([a-z_]+)=()(?=[ ,;:]|$)", lambda found: flag(found).rstrip(), line)
    return re.sub(r"(--[a-z-]+ \w+) \(\1\)", r"\1", line)  # the library's messages name the option beside its argument
