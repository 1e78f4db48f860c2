"""Transforms that move a radiograph and its masks together (``torchvision.transforms.v2``)."""

from __future__ import annotations

from torchvision.transforms import v2


def cxr_transforms(size: int | None = None, *, train: bool = False, strength: float = 1.0) -> v2.Transform:
    """Make the transform for a dataset's ``transform=``.

    Training turns, shifts and zooms a little and varies brightness and contrast. It never mirrors: a heart
    on the right is a diagnosis. Masks are resampled by nearest neighbour. Normalization is the model's
    business (:class:`lrp_plugin.cxr.CXRClassifier`), so pictures stay in [0, 1] and can be shown as they are.

    Args:
        size: side of the square output, pixels; None keeps each picture's.
        train: augment.
        strength: factor on every range of the augmentation, at least 0.

    Returns:
        A transform of samples (dictionaries), pictures or batches.

    Raises:
        ValueError: ``strength`` is negative.
    """
    if strength < 0:
        raise ValueError(f"cxr_transforms(strength={strength!r}): must be at least 0")
    steps: list[v2.Transform] = []
    if size is not None:
        steps.append(v2.Resize([size, size], antialias=True))
    if train:
        steps += [
            v2.RandomAffine(
                degrees=7.0 * strength,
                translate=(0.05 * strength, 0.05 * strength),
                scale=(max(0.1, 1.0 - 0.08 * strength), 1.0 + 0.08 * strength),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(brightness=0.15 * strength, contrast=0.15 * strength),
        ]
    return v2.Compose(steps) if steps else v2.Identity()
