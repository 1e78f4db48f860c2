"""Files by path or URL: local ones through the package's atomic writer, all others through pyarrow or fsspec."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from pyarrow import ArrowInvalid, fs

from lrp_plugin.files import write_atomically

Result = TypeVar("Result")


@lru_cache(maxsize=64)
def _filesystem(start: str) -> fs.FileSystem:
    try:
        return fs.FileSystem.from_uri(start)[0]
    except ArrowInvalid:  # A scheme that Arrow does not know: fsspec's turn.
        return _through_fsspec(start)


def _through_fsspec(start: str) -> fs.FileSystem:
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{start} needs fsspec: pip install fsspec") from error
    try:
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.core.url_to_fs(start)[0]))
    except (ValueError, ImportError) as error:  # unknown protocol; a known one whose package is missing
        raise ValueError(f"{start} can be opened by neither pyarrow nor fsspec: {error}") from error


def is_local(url: str) -> bool:
    """Whether this is a path of the machine's own file system (also as ``file://``)."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a local place, absolute."""
    return Path(os.path.abspath(url.removeprefix("file://")))


def locate(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URL, and the path inside it.

    Raises:
        ValueError: The scheme is known to neither pyarrow nor fsspec.
        ImportError: fsspec, or its package for the scheme, is missing.
    """
    if is_local(url):
        return fs.LocalFileSystem(), str(local_path(url))
    scheme, _, rest = url.partition("://")
    bucket = rest.partition("/")[0]
    system = _filesystem(f"{scheme}://{bucket}")
    try:
        return system, fs.FileSystem.from_uri(url)[1]
    except ArrowInvalid:
        return system, system.handler.fs._strip_protocol(url)


def join(url: str, *parts: str) -> str:
    """A path below a folder, with ``/`` in a URL."""
    return posixpath.join(url.rstrip("/") or "/", *parts)


def _named(url: str, action: Callable[[fs.FileSystem, str], Result]) -> Result:
    """Do it; a file that is not there is named by the path the user knows."""
    system, path = locate(url)
    try:
        return action(system, path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{url} does not exist") from None


def read_bytes(url: str) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError: It does not exist.
        OSError: It cannot be read.
    """

    def read(system: fs.FileSystem, path: str) -> bytes:
        with system.open_input_stream(path, compression=None) as stream:
            return stream.read()

    return _named(url, read)


def write_bytes(url: str, content: bytes) -> None:
    """Write a whole file, or leave what was there: a rename on a local disk, one upload on an object store.

    Raises:
        OSError: The disk is full, the place cannot be written.
    """
    if is_local(url):
        write_atomically(local_path(url), content)
        return
    system, path = locate(url)
    with system.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def delete(url: str) -> None:
    """Delete a file.

    Raises:
        FileNotFoundError: It does not exist.
    """
    _named(url, lambda system, path: system.delete_file(path))


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    system, path = locate(url)
    return system.get_file_info(path).type != fs.FileType.NotFound


def is_folder(url: str) -> bool:
    """Whether a folder is there (on an object store: whether anything lies below)."""
    system, path = locate(url)
    return system.get_file_info(path).type == fs.FileType.Directory


def files_below(url: str) -> dict[str, int]:
    """Every file below a folder, by its path from there (with ``/``), and its size in bytes; {} where there is none."""
    system, path = locate(url)
    start = len(path.rstrip("/")) + 1
    try:
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}
    except UnicodeDecodeError as error:
        raise ValueError(f"{url} holds a file whose name is no text in UTF-8, {error.object!r}; rename it") from None
