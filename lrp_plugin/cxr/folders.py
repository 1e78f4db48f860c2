"""Radiographs in folders: one folder for each class, read when asked for, nothing ever written there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.datasets.folder import make_dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from lrp_plugin.images import (
    DICOM_SUFFIXES,
    IGNORED,
    IMAGE_SUFFIXES,
    ImageError,
    LabelledImages,
    declared_shape,
    is_image_file,
    read_image,
)
from lrp_plugin.images.errors import DataWarning
from lrp_plugin.kinds import checked

RadiographError = ImageError

#: Pictures of each class in the COVID-19 Radiography Database (version 5).
COVID19_COUNTS = {"COVID": 3616, "Lung Opacity": 6012, "Normal": 10192, "Viral Pneumonia": 1345}
_USUAL_SHAPE = (299, 299)  # The database's, for a picture whose header is lost.


class CXRFolder(LabelledImages):
    """Radiographs in ``root/CLASS/``, or in ``root/CLASS/images/`` with lung masks in ``root/CLASS/masks/``.

    Files are found at construction (torchvision's ``make_dataset``) and read one at a time when indexed; PNG, JPEG, BMP,
    TIFF and DICOM may be mixed. A broken picture gives a warning that names it and a black sample labelled
    :data:`IGNORED` (which training and metrics leave out); a broken or ill-fitting mask gives a warning and an empty mask.

    Args:
        root: folder with one subfolder per class.
        size: side pictures and masks are resized to, pixels; None keeps each file's own.
        mode: "L" (one channel) or "RGB" (the same thrice).
        transform: applied to each sample; ``torchvision.transforms.v2`` moves picture and mask together.
        patient_of: path relative to root -> patient id; by default each picture is a patient of their own.
        strict: raise :class:`RadiographError` instead of every warning.

    Raises:
        FileNotFoundError: ``root`` is no folder.
        RadiographError: no picture at all was found, or (strict) something is amiss.
    """

    def __init__(
        self, root: str | Path, *, size: int | None = None, mode: str = "L",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        patient_of: Callable[[Path], str] | None = None, strict: bool = False,
    ) -> None:  # fmt: skip
        if mode not in ("L", "RGB"):
            raise ValueError(f"{type(self).__name__}(mode={mode!r}): legal are 'L' (grey) and 'RGB'")
        if size is not None and (not isinstance(size, int) or size < 8):
            raise ValueError(f"{type(self).__name__}(size={size!r}): must be None or an integer of at least 8")
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder; give the one that holds a subfolder for each class")
        self.size, self.mode, self.transform, self.strict = size, mode, transform, strict
        folders = dict(sorted(self._class_folders().items()))
        found = [self._scan(name, folder) for name, folder in folders.items()]
        self._origins = {file: url for files in found for file, url in files.items()}
        self._files = list(self._origins)
        if not self._files:
            raise RadiographError(
                f"no pictures under {self.root}: looked for {', '.join(IMAGE_SUFFIXES + DICOM_SUFFIXES)} in "
                f"{', '.join(map(repr, folders.values())) or 'its subfolders (there are none)'}"
            )
        labels = [label for label, files in enumerate(found) for _ in files]
        patients = [patient_of(Path(file)) if patient_of else str(i) for i, file in enumerate(self._files)]
        super().__init__(self.root.name, list(folders), labels, patients)

    def _class_folders(self) -> dict[str, str]:
        """Class name to folder name."""
        folders = [path.name for path in self.root.iterdir() if path.is_dir()]
        return {name: name for name in folders if not name.startswith((".", "__"))}

    def _urls(self, name: str, folder: str) -> Mapping[str, str]:
        """File stem to origin, for the files the class should have; empty where no list exists."""
        return {}

    def _scan(self, name: str, folder: str) -> dict[str, str]:
        """The class's files, relative to the root (which may move), in natural order, with where each came from."""
        base = self.root / folder
        if not base.is_dir():
            self._complain(f"class folder {base} is missing: the dataset has no {name} pictures")
            return {}
        images = base / "images" if (base / "images").is_dir() else base

        def counts(file: str) -> bool:
            path = Path(file)
            return not (path.name.startswith(".") or path.is_relative_to(base / "masks")) and is_image_file(path)

        listed = make_dataset(images.parent, {images.name: 0}, is_valid_file=counts, allow_empty=True)
        files = sorted((Path(file) for file, _ in listed), key=_natural_order)
        if not files:
            self._complain(f"class folder {images} is empty: the dataset has no {name} pictures")
        urls = self._urls(name, folder)
        missing = sorted(set(urls) - {path.stem for path in files})
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            self._complain(f"{len(missing)} pictures that the metadata of {base} lists are missing: {some}")
        return {path.relative_to(self.root).as_posix(): urls.get(path.stem, "") for path in files}

    def _complain(self, message: str) -> None:
        if self.strict:
            raise RadiographError(message)
        warnings.warn(message, DataWarning, stacklevel=4)

    def picture_name(self, index: int) -> str:
        """The path of picture ``index`` below the root."""
        return self._files[self.position(index)]

    def path(self, index: int) -> str:
        """The file of picture ``index``."""
        return str(self.root / self.picture_name(index))

    def url(self, index: int) -> str:
        """Where picture ``index`` came from, as the lists say."""
        return self._origins[self.picture_name(index)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read picture ``index`` and its lung mask."""
        index = self.position(index)
        path, label = Path(self.path(index)), self.labels[index]
        try:
            image = read_radiograph(path)
        except RadiographError as error:
            self._complain(f"{error}. It is left out (label {IGNORED}); strict=True makes this an error")
            image, label = torch.zeros(1, *(declared_shape(path) or _USUAL_SHAPE)), IGNORED
        lungs = self._read_mask(self._files[index], (image.shape[1], image.shape[2]))
        if self.size is not None:
            image = TF.resize_image(image, [self.size, self.size], antialias=True).clamp(0.0, 1.0)
            lungs = TF.resize_mask(lungs, [self.size, self.size])
        sample = {
            "image": tv_tensors.Image(image.repeat(3, 1, 1) if self.mode == "RGB" else image),
            "disease": torch.tensor(label),
            "lungs": tv_tensors.Mask(lungs),
            "patient_id": self.patients[index],
        }
        return self.transform(sample) if self.transform else sample

    def _read_mask(self, file: str, shape: tuple[int, int]) -> Tensor:
        folder, *inner = Path(file).parts
        masks = self.root / folder / "masks"
        if masks.is_dir():
            try:
                inside = inner[1:] if inner[0] == "images" else inner
                return read_lung_mask(masks.joinpath(*inside).with_suffix(".png"), shape)
            except RadiographError as error:
                self._complain(f"{error}. The picture is used without it; strict=True makes this an error")
        return torch.zeros(1, *shape, dtype=torch.uint8)


class COVID19CXRDataset(CXRFolder):
    """The COVID-19 Radiography Database as Kaggle ships it: four classes, lung masks, optional xlsx lists.

    Nothing is downloaded and nothing is written. The lists add each picture's ``url`` and are compared with
    the files; without openpyxl, or without lists, the ``images/`` folders are the truth.

    Args:
        root: ``COVID-19_Radiography_Dataset`` with ``COVID``, ``Lung_Opacity``, ``Normal``, ``Viral Pneumonia``.
        expected: pictures of each class; a difference is a warning. None does not compare (a part of the database).
        **options: as in :class:`CXRFolder`.

    Raises:
        FileNotFoundError, RadiographError: as :class:`CXRFolder`.
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
    """Read a radiograph as grey values, float32 ``(1, H, W)`` in [0, 1]: `lrp_plugin.images.read_image` in mode "L".

    Raises:
        RadiographError, ImportError: as there.
    """
    return read_image(path, mode="L")


@checked
def read_lung_mask(path: str | Path, shape: tuple[int, int], aspect_tolerance: float = 0.02) -> Tensor:
    """Read a lung mask, uint8 0 or 1 ``(1, H, W)``, brought to the picture's size (nearest neighbour).

    The COVID-19 Radiography Database has masks of 256 x 256 for pictures of 299 x 299: another size is
    legal, another aspect ratio is the mask of some other picture.

    Args:
        path: picture file; a pixel of at least half of full scale is lung.
        shape: height and width of the radiograph, pixels.
        aspect_tolerance: relative difference of the aspect ratios that is still taken for rounding.

    Raises:
        RadiographError: the file is missing or broken, or its aspect ratio is not the picture's.
    """
    mask = read_image(path, mode="L", what="lung mask")[0] >= 0.5
    height, width = mask.shape
    if abs(height * shape[1] / (width * shape[0]) - 1.0) > aspect_tolerance:
        raise RadiographError(
            f"lung mask {path} has the wrong size: {height} x {width} pixels (height x width), the picture "
            f"{shape[0]} x {shape[1]}. Masks are scaled where the aspect ratio agrees; is it this one's?"
        )
    return F.interpolate(mask[None, None].to(torch.float32), shape, mode="nearest-exact")[0].to(torch.uint8)


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


def _natural_order(path: Path) -> list[Any]:
    """``COVID-2`` before ``COVID-10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]


def cxr_transforms() -> v2.Transform:
    """For a training set's ``transform=``: turn, shift and zoom a little, vary brightness and contrast.

    It never mirrors: a heart on the right is a diagnosis. Masks are resampled by nearest neighbour. Pictures stay in
    [0, 1]: normalization is the model's business (:class:`lrp_plugin.cxr.CXRClassifier`).
    """
    bilinear = v2.InterpolationMode.BILINEAR
    move = v2.RandomAffine(degrees=7.0, translate=(0.05, 0.05), scale=(0.92, 1.08), interpolation=bilinear)
    return v2.Compose([move, v2.ColorJitter(brightness=0.15, contrast=0.15)])
