"""Read the COVID-19 Radiography Database's xlsx lists."""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import BadZipFile

from .radiographs import RadiographError


def read_urls(path: Path, prefix: str) -> dict[str, str]:
    """Read the origin of each picture.

    Args:
        path: ``CLASS.metadata.xlsx`` with the columns FILE NAME, FORMAT, SIZE, URL; may be absent.
        prefix: what the stems of the files begin with. The lists disagree in case with the files
            (``NORMAL-1`` for ``Normal-1.png``); the files' case is returned.

    Returns:
        File stem to URL, empty where the list is absent.

    Raises:
        ImportError: the list exists, openpyxl does not.
        RadiographError: the list is broken or lacks a column.
    """
    if not path.is_file():
        return {}
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ImportError(f"{path} needs openpyxl: pip install 'lrp-plugin[cxr]'") from error
    try:
        workbook = load_workbook(path, read_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError, OSError) as error:
        raise RadiographError(f"metadata {path} is broken: {error}") from error
    try:
        rows = workbook.active.iter_rows(values_only=True) if workbook.active is not None else iter(())
        header = [str(cell or "").strip().upper() for cell in next(rows, ())]
        if "FILE NAME" not in header or "URL" not in header:
            raise RadiographError(f"metadata {path} has the columns {header}; FILE NAME and URL are needed")
        name, url = header.index("FILE NAME"), header.index("URL")
        return {
            re.sub(f"^{re.escape(prefix)}", prefix, str(row[name]).strip(), flags=re.IGNORECASE): str(row[url] or "")
            for row in rows
            if row[name]
        }
    finally:
        workbook.close()
