"""Pictures in folders: one folder for each class, with masks where there are some; read when asked for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.datasets.folder import make_dataset
from torchvision.transforms.v2 import functional as TF

from lrp_plugin.errors import told
from lrp_plugin.images.errors import DataWarning, ImageError
from lrp_plugin.images.labelled import IGNORED, LabelledImages
from lrp_plugin.images.reading import DICOM_SUFFIXES, IMAGE_SUFFIXES, declared_shape, is_image_file, read_image
from lrp_plugin.kinds import checked

_USUAL_SHAPE = (299, 299)  # For a picture whose header is lost; the COVID-19 Radiography Database's.


class LabelledFolder(LabelledImages):
    """Pictures in ``root/CLASS/``, or in ``root/CLASS/images/`` with masks of `region` in ``root/CLASS/masks/``.

    Files are found at construction (torchvision's ``make_dataset``) and read one at a time when indexed; PNG, JPEG, BMP,
    TIFF and DICOM may be mixed. A broken picture gives a warning that names it and a black sample labelled
    `IGNORED` (which training and metrics leave out); a broken or ill-fitting mask gives a warning and an empty mask.

    Attributes:
        region: what a sample calls its mask.
        mask_words: what messages call it.

    Args:
        root: folder with one subfolder per class.
        size: side pictures and masks are resized to, pixels; None keeps each file's own.
        mode: "L" (one channel) or "RGB" (the same thrice).
        transform: applied to each sample; ``torchvision.transforms.v2`` moves picture and mask together.
        patient_of: path relative to root -> patient id; by default each picture is a patient of their own.
        strict: raise `ImageError` instead of every warning.

    Raises:
        FileNotFoundError: ``root`` is no folder.
        ImageError: no picture at all was found, or (strict) something is amiss.
    """

    region, mask_words = "region", "mask"

    def __init__(
        self, root: str | Path, *, size: int | None = None, mode: str = "L",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        patient_of: Callable[[Path], str] | None = None, strict: bool = False,
    ) -> None:  # fmt: skip
        if mode not in ("L", "RGB"):
            raise ValueError(f"{type(self).__name__}(mode={told(mode)}): legal are 'L' (grey) and 'RGB'")
        if size is not None and (not isinstance(size, int) or size < 8):
            raise ValueError(f"{type(self).__name__}(size={told(size)}): must be None or an integer of at least 8")
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root} is no folder; give the one that holds a subfolder for each class")
        self.size, self.mode, self.transform, self.strict = size, mode, transform, strict
        folders = dict(sorted(self._class_folders().items()))
        found = [self._scan(name, folder) for name, folder in folders.items()]
        self._origins = {file: url for files in found for file, url in files.items()}
        self._files = list(self._origins)
        if not self._files:
            raise ImageError(
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
            raise ImageError(message)
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
        """Read picture ``index`` and its mask."""
        index = self.position(index)
        path, label = Path(self.path(index)), self.labels[index]
        try:
            image = read_image(path, mode="L")
        except ImageError as error:
            self._complain(f"{error}. It is left out (label {IGNORED}); strict=True makes this an error")
            image, label = torch.zeros(1, *(declared_shape(path) or _USUAL_SHAPE)), IGNORED
        mask = self._read_mask(self._files[index], (image.shape[1], image.shape[2]))
        if self.size is not None:
            image = TF.resize_image(image, [self.size, self.size], antialias=True).clamp(0.0, 1.0)
            mask = TF.resize_mask(mask, [self.size, self.size])
        sample = {
            "image": tv_tensors.Image(image.repeat(3, 1, 1) if self.mode == "RGB" else image),
            "disease": torch.tensor(label),
            self.region: tv_tensors.Mask(mask),
            "patient_id": self.patients[index],
        }
        return self.transform(sample) if self.transform else sample

    def _read_mask(self, file: str, shape: tuple[int, int]) -> Tensor:
        folder, *inner = Path(file).parts
        masks = self.root / folder / "masks"
        if masks.is_dir():
            try:
                inside = inner[1:] if inner[0] == "images" else inner
                return read_mask(masks.joinpath(*inside).with_suffix(".png"), shape, what=self.mask_words)
            except ImageError as error:
                self._complain(f"{error}. The picture is used without it; strict=True makes this an error")
        return torch.zeros(1, *shape, dtype=torch.uint8)


@checked
def read_mask(
    path: str | Path, shape: tuple[int, int], aspect_tolerance: float = 0.02, *, what: str = "mask"
) -> Tensor:
    """Read a mask, uint8 0 or 1 ``(1, H, W)``, brought to the picture's size (nearest neighbour).

    The COVID-19 Radiography Database has masks of 256 x 256 for pictures of 299 x 299: another size is
    legal, another aspect ratio is the mask of some other picture.

    Args:
        path: picture file; a pixel of at least half of full scale is inside.
        shape: height and width of the picture, pixels.
        aspect_tolerance: relative difference of the aspect ratios that is still taken for rounding.
        what: what messages call it.

    Raises:
        ImageError: the file is missing or broken, or its aspect ratio is not the picture's.
    """
    mask = read_image(path, mode="L", what=what)[0] >= 0.5
    height, width = mask.shape
    if abs(height * shape[1] / (width * shape[0]) - 1.0) > aspect_tolerance:
        raise ImageError(
            f"{what} {path} has the wrong size: {height} x {width} pixels (height x width), the picture "
            f"{shape[0]} x {shape[1]}. Masks are scaled where the aspect ratio agrees; is it this one's?"
        )
    return F.interpolate(mask[None, None].to(torch.float32), shape, mode="nearest-exact")[0].to(torch.uint8)


def _natural_order(path: Path) -> list[Any]:
    """``COVID-2`` before ``COVID-10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]
