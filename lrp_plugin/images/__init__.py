"""Pictures from files: PNG, JPEG, BMP, TIFF and DICOM, told apart by their content, as tensors in [0, 1]."""

from lrp_plugin.images.errors import LARGEST_PICTURE, ImageError
from lrp_plugin.images.reading import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    declared_shape,
    is_image_file,
    read_image,
)

__all__ = [
    "DICOM_SUFFIXES",
    "IMAGE_SUFFIXES",
    "LARGEST_PICTURE",
    "ImageError",
    "declared_shape",
    "is_image_file",
    "read_image",
]
