"""Radiographs in folders: one folder for each class, read when asked for, nothing ever written there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from torch import Tensor
from torchvision.transforms import v2

from lrp_plugin.images import ImageError, read_image
from lrp_plugin.images.folders import LabelledFolder
from lrp_plugin.kinds import checked

RadiographError = ImageError

#: Pictures of each class in the COVID-19 Radiography Database (version 5).
COVID19_COUNTS = {"COVID": 3616, "Lung Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345}


class CXRFolder(LabelledFolder):
    """Radiographs in ``root/CLASS/``, or in ``root/CLASS/images/`` with lung masks in ``root/CLASS/masks/``.

    Arguments and what is raised as `lrp_plugin.images.folders.LabelledFolder`.
    """

    region, mask_words = "lungs", "lung mask"


class COVID19CXRDataset(CXRFolder):
    """The COVID-19 Radiography Database as Kaggle ships it: four classes, lung masks, optional xlsx lists.

    Nothing is downloaded and nothing is written. The lists add each picture's ``url`` and are compared with
    the files; without openpyxl, or without lists, the ``images/`` folders are the truth.

    Args:
        root: ``COVID-19_Radiography_Dataset`` with ``COVID``, ``Lung_Opacity``, ``Normal``, ``Viral Pneumonia``.
        expected: pictures of each class; a difference is a warning. None does not compare (a part of the database).
        **options: as in :class:`CXRFolder`, as is what is raised.
    """

    def __init__(
        self, root: str | Path, *, expected: Mapping[str, int] | None = COVID19_COUNTS, **options: Any
    ) -> None:
        super().__init__(root, **options)
        self.name = "covid19_cxr"
        counts, wanted = self.class_counts(), expected or {}
        differing = [f"{k} {counts.get(k, 0)} instead of {n}" for k, n in wanted.items() if counts.get(k, 0) != n]
        if differing:
            self._complain(f"{self.root} does not hold the whole database: {', '.join(differing)}")

    def _class_folders(self) -> dict[str, str]:
        return {name: "Lung_Opacity" if name == "Lung Opacity" else name for name in COVID19_COUNTS}

    def _urls(self, name: str, folder: str) -> Mapping[str, str]:
        try:
            return _read_urls(self.root / f"{folder}.metadata.xlsx", folder)
        except (ImportError, RadiographError) as error:
            self._complain(f"{error}; the {name} pictures are listed from their folder")
            return {}


@checked
def read_radiograph(path: str | Path) -> Tensor:
    """Read a radiograph as grey values, float32 ``(1, H, W)`` in [0, 1]: `lrp_plugin.images.read_image` in mode "L"."""
    return read_image(path, mode="L")


def _read_urls(path: Path, prefix: str) -> dict[str, str]:
    """File stem to URL by a list with the columns FILE NAME and URL, empty where it is absent.

    The lists disagree in case with the files (``NORMAL-1`` for ``Normal-1.png``): stems get the files' ``prefix``.
    """
    if not path.is_file():
        return {}
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ImportError(f"{path} needs openpyxl: pip install 'lrp-plugin[cxr]'") from error
    try:
        sheet = load_workbook(path).active
        header, *rows = list(sheet.iter_rows(values_only=True)) if sheet is not None else [()]
    except (BadZipFile, InvalidFileException, KeyError, ValueError, OSError) as error:
        raise RadiographError(f"metadata {path} is broken: {error}") from error
    columns = [str(cell or "").strip().upper() for cell in header]
    if not {"FILE NAME", "URL"} <= set(columns):
        raise RadiographError(f"metadata {path} has the columns {columns}; FILE NAME and URL are needed")
    name, url = columns.index("FILE NAME"), columns.index("URL")
    own = re.compile(re.escape(prefix), re.IGNORECASE)
    return {own.sub(prefix, str(row[name]).strip(), count=1): str(row[url] or "") for row in rows if row[name]}


def cxr_transforms() -> v2.Transform:
    """For a training set's ``transform=``: turn, shift and zoom a little, vary brightness and contrast.

    It never mirrors: a heart on the right is a diagnosis. Masks are resampled by nearest neighbour. Pictures stay in
    [0, 1]: normalization is the model's business (:class:`lrp_plugin.cxr.CXRClassifier`).
    """
    bilinear = v2.InterpolationMode.BILINEAR
    move = v2.RandomAffine(degrees=7.0, translate=(0.05, 0.05), scale=(0.92, 1.08), interpolation=bilinear)
    return v2.Compose([move, v2.ColorJitter(brightness=0.15, contrast=0.15)])
