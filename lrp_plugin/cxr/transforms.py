"""Variation of training pictures that moves a radiograph and its masks together (``torchvision.transforms.v2``)."""

from __future__ import annotations

from torchvision.transforms import v2


def cxr_transforms() -> v2.Transform:
    """For a training set's ``transform=``: turn, shift and zoom a little, vary brightness and contrast.

    It never mirrors: a heart on the right is a diagnosis. Masks are resampled by nearest neighbour. Normalization is the
    model's business (:class:`lrp_plugin.cxr.CXRClassifier`), so pictures stay in [0, 1] and can be shown as they are.
    """
    bilinear = v2.InterpolationMode.BILINEAR
    move = v2.RandomAffine(degrees=7.0, translate=(0.05, 0.05), scale=(0.92, 1.08), interpolation=bilinear)
    return v2.Compose([move, v2.ColorJitter(brightness=0.15, contrast=0.15)])
