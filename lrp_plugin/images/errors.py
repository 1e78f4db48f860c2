"""What reading a picture may raise."""

from __future__ import annotations


class ImageError(ValueError):
    """A picture or a mask cannot be used; the message names the file and the remedy."""


class DataWarning(UserWarning):
    """Something about the data is not as it should be; the message names the file or folder."""


LARGEST_PICTURE = 178_956_970
"""Pixels. A file that declares more is refused before anything is unpacked (a decompression bomb); the largest digital
radiographs have about 20 million; Pillow refuses from the same size on."""


def refuse_bomb(what: str, width: int, height: int) -> None:
    """Refuse a picture of more than `LARGEST_PICTURE` pixels.

    Raises:
        ImageError: It has more.
    """
    if width * height > LARGEST_PICTURE:
        raise ImageError(
            f"{what} has {width} x {height} pixels, more than {LARGEST_PICTURE:,}: too large to be unpacked safely. "
            "Reduce it with an image editor first"
        )
