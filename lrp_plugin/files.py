"""Files that are whole or not there: the one writer of the package, and names that are safe to write to."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from lrp_plugin.errors import told
from lrp_plugin.kinds import checked

_LONGEST = 200  # Bytes of a stem: file systems end at 255, and suffixes come after it.

_WRITING = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENAMETOOLONG,
)


@contextmanager
def open_atomically(path: str | os.PathLike[str], *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when the block ends without an error.

    The bytes go to a neighbour with a name of its own (a crash may leave ``.HEX.tmp``, never half a file), opened
    exclusively, so two writers never share it and a symbolic link planted under it is not followed. They are flushed
    to the disk before the neighbour takes the name in one step. A symbolic link under ``path`` itself is replaced, not
    followed.

    Args:
        path: Where to; missing parent folders are made.
        replace: Whether an existing file may be replaced.

    Yields:
        The file, open for bytes.

    Raises:
        FileExistsError: ``replace`` is False and something of that name exists; it is left as it was.
        OSError: The disk is full, the folder not writable, ...; what stood there before is still there.
    """
    target = Path(path)
    if not target.name:
        raise ValueError(f"path {told(str(path))} names no file")
    if not replace and os.path.lexists(target):
        raise FileExistsError(f"{target} exists already; it is left as it was. Choose another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since os.replace is atomic only within one file system. Not tempfile: its files are
    # readable by their owner alone.
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, target)
        else:
            _take_free_name(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:  # a full disk's names no file, a folder's the neighbour
        if error.errno in _WRITING and error.filename in (None, str(temporary), temporary):
            error.filename = str(target)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@checked
def write_atomically(
    path: str | os.PathLike[str], content: bytes | bytearray | memoryview, *, replace: bool = True
) -> Path:
    """Write a file so that no reader and no crash ever meets half of it: see `open_atomically`.

    Args:
        path: Where to; missing parent folders are made.
        content: The bytes.
        replace: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        FileExistsError: ``replace`` is False and something of that name exists; it is left as it was.
        OSError: The disk is full, the folder not writable, ...; what stood there before is still there.
    """
    with open_atomically(path, replace=replace) as file:
        file.write(content)
    return Path(path)


@checked
def write_json(path: str | os.PathLike[str], value: Any, *, replace: bool = True) -> Path:
    """Write a value as JSON to be read by people too: see `write_atomically`.

    Args:
        path: Where to.
        value: Plain values; tensors and arrays become lists. NaN and infinity, which JSON has not, become null.
        replace: Whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        FileExistsError, OSError: As `write_atomically`.
        TypeError: JSON has no such value.
    """
    plain = json.loads(json.dumps(value, default=_listed), parse_constant=lambda _: None)
    return write_atomically(path, (json.dumps(plain, indent=2) + "\n").encode(), replace=replace)


def _listed(one: Any) -> Any:
    if hasattr(one, "tolist"):
        return one.tolist()
    raise TypeError(
        f"value holds a {type(one).__name__}, which JSON has not; legal: numbers, text, lists, dicts, arrays"
    )


def _take_free_name(temporary: Path, target: Path) -> None:
    """Give the file its name unless that is taken, also by somebody who came in between."""
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileExistsError:
        raise FileExistsError(f"{target} exists already; it is left as it was") from None
    except (OSError, NotImplementedError):
        # A file system without hard links: the name is reserved first, and the reservation replaced.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(temporary, target)


def _flush_folder(folder: Path) -> None:
    """Make the new name last through a power cut; file systems that cannot, do without."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_stem(name: str) -> str:
    """A name as part of a file name: letters and digits of any script stay, everything else becomes ``-``.

    A stem that would be empty, too long, or hidden is told apart by eight hexadecimal digits of the name's SHA-256.

    Args:
        name: What something is called, such as ``synthetic:17`` (``synthetic-17``) or ``A/0.png`` (``A-0-png``).

    Returns:
        The stem, at most 200 bytes, never empty.
    """
    stem = re.sub(r"[^\w]+", "-", unicodedata.normalize("NFC", name)).strip("-_")
    if stem and len(stem.encode()) <= _LONGEST:
        return stem
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = stem.encode()[: _LONGEST - 9].decode(errors="ignore")
    return f"{kept}-{digest}" if kept else digest


@checked
def file_stems(names: Sequence[str]) -> list[str]:
    """`file_stem` of each name, different for different names, also where letters' case is ignored.

    Args:
        names: Such as ``["A/0.png", "A-0.png"]``; equal names get equal stems.

    Returns:
        A stem for each, in order.
    """
    stems = {name: file_stem(name) for name in names}
    owners: dict[str, set[str]] = {}
    for name, stem in stems.items():
        owners.setdefault(stem.casefold(), set()).add(name)
    return [
        stems[name]
        if len(owners[stems[name].casefold()]) == 1
        else f"{stems[name]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        for name in names
    ]


@checked
def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV (UTF-8) that a spreadsheet shows and never runs.

    Args:
        rows: Numbers and texts. A text that a spreadsheet would take for a formula (it begins with ``=``, ``+``, ``-``,
            ``@``, a tab or a carriage return, and is no number) gets a ``'`` before it, as OWASP advises.

    Returns:
        The file's content.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_inert(cell) for cell in row] for row in rows)
    return buffer.getvalue().encode("utf-8", "replace")


def _inert(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    # csv quotes a carriage return from Python 3.13 on only.
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return "'" + text
    return text
