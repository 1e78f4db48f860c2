"""Pictures from files: PNG, JPEG, BMP, TIFF and DICOM, told apart by their content, as tensors in [0, 1]; labelled sets."""

from lrp_plugin.images.errors import LARGEST_PICTURE, ImageError
from lrp_plugin.images.labelled import IGNORED, LabelledImages
from lrp_plugin.images.reading import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    declared_shape,
    is_image_file,
    left_out,
    pixels_of,
    read_image,
)

__all__ = [
    "DICOM_SUFFIXES",
    "IGNORED",
    "IMAGE_SUFFIXES",
    "LARGEST_PICTURE",
    "ImageError",
    "LabelledImages",
    "declared_shape",
    "is_image_file",
    "left_out",
    "pixels_of",
    "read_image",
]
