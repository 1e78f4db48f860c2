"""Procedural chest radiographs with known lungs and known evidence: data for whoever has none at hand."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from lrp_plugin.errors import told
from lrp_plugin.images import LabelledImages
from lrp_plugin.kinds import checked
from lrp_plugin.synthetic.anatomy import Anatomy, draw_thorax
from lrp_plugin.synthetic.film import Exposure, Field, Grid, smooth_noise
from lrp_plugin.synthetic.opacities import CLASSES, Shortcut, draw_marker, draw_patches, place_patches

_GRIDS = (5, 14, 44)  # Knots per side of the layers of smooth noise: film and tissue, lumps, threads.
_PERSON, _PICTURE = 1, 2  # Keys of the two random streams of a picture.


class SyntheticCXR(LabelledImages):
    """Chest radiographs made by formula: four classes, lung mask and evidence mask, no files.

    Picture i depends on ``seed`` and ``i`` alone, whatever ``n``, ``size`` samples the same scene more
    finely, and the same picture can be had with and without its shortcut marker. Classes take turns:
    the label of patient p is ``p % 4``.

    Beside the keys of `lrp_plugin.images.LabelledImages` a sample has ``evidence`` (the opacities: about 3 % of the
    picture, nothing for Normal) and ``marker`` (the text marker), both ``tv_tensors.Mask`` uint8 ``(1, H, W)``.

    Args:
        n: number of pictures.
        seed: any non-negative integer.
        size: side of the pictures in pixels, at least 32.
        mode: "L" (one channel) or "RGB" (the same thrice).
        contrast: factor on the density of the opacities; below about 0.3 they are hard to see.
        shortcut: the planted shortcut, or None for no marker anywhere.
        images_per_patient: films of each person; they share anatomy and class, not pose and exposure.
        transform: applied to each sample (``torchvision.transforms.v2`` moves picture and masks together).

    Raises:
        ValueError: a number is out of its range.
    """

    @checked
    def __init__(
        self, n: int = 2000, seed: int = 0, *, size: int = 128, mode: str = "L", contrast: float = 1.0,
        shortcut: Shortcut | None = None, images_per_patient: int = 1,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        least_of = {"n": (n, 1), "seed": (seed, 0), "size": (size, 32), "images_per_patient": (images_per_patient, 1)}
        for name, (value, least) in least_of.items():
            if not isinstance(value, int) or value < least:
                raise ValueError(f"SyntheticCXR({name}={told(value)}): must be a whole number of at least {least}")
        if mode not in ("L", "RGB"):
            raise ValueError(f"SyntheticCXR(mode={told(mode)}): legal are 'L' (one channel) and 'RGB' (three)")
        patients = [index // images_per_patient for index in range(n)]
        labels = [patient % len(CLASSES) for patient in patients]
        super().__init__("synthetic_cxr", CLASSES, labels, [str(patient) for patient in patients])
        self.seed, self.size, self.mode, self.contrast = seed, size, mode, contrast
        self.shortcut, self.images_per_patient, self.transform = shortcut, images_per_patient, transform

    def without_shortcut(self) -> SyntheticCXR:
        """The same pictures, no marker drawn: what accuracy is worth when the shortcut is gone."""
        plain = copy.copy(self)
        plain.shortcut = None
        return plain

    def path(self, index: int) -> str:
        """Its name, ``synthetic:INDEX``: there is no file."""
        return f"synthetic:{self.position(index)}"

    def content(self, index: int) -> str:
        """SHA-256 of what decides picture ``index``, its size and its marker apart."""
        recipe = f"{self.seed}:{self.position(index)}:{self.images_per_patient}:{self.contrast}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw picture ``index``."""
        index = self.position(index)
        picture, lungs, evidence, marker = self._draw(index)
        image = torch.from_numpy(picture)[None]
        sample = {
            "image": tv_tensors.Image(image.expand(3, -1, -1).clone() if self.mode == "RGB" else image),
            "disease": torch.tensor(self.labels[index]),
            "lungs": _mask(lungs),
            "evidence": _mask(evidence),
            "marker": _mask(marker),
            "patient_id": self.patients[index],
        }
        return self.transform(sample) if self.transform else sample

    def _draw(self, index: int) -> tuple[Field, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        label, size = self.labels[index], self.size
        anatomy = Anatomy.draw(np.random.default_rng((self.seed, _PERSON, index // self.images_per_patient)))
        rng = np.random.default_rng((self.seed, _PICTURE, index))
        exposure = Exposure.draw(rng)
        patches = place_patches(label, anatomy, rng)
        lottery = rng.uniform()
        coarse, cloud, net = (smooth_noise(rng, knots, size) for knots in _GRIDS)

        thorax = draw_thorax(Grid.lay(exposure, size), anatomy)
        added, evidence = draw_patches(label, patches, thorax, cloud, net, self.contrast)
        picture = exposure.develop(thorax.attenuation + added + 0.025 * coarse + 0.02 * cloud, rng)
        marker = np.zeros((size, size), bool)
        if self.shortcut is not None and lottery < self.shortcut.probability(label):
            ink, marker = draw_marker(self.shortcut.text, size)
            picture = np.where(marker, 0.97 * ink, picture)
        # A lung's apex may reach under the label, where nobody sees it.
        return picture, (thorax.lungs > 0.5) & ~marker, evidence & ~marker, marker


def _mask(mask: NDArray[np.bool_]) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(mask.astype(np.uint8))[None])
