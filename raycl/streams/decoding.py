"""Encoded images (PNG, JPEG, ...) to one array of pixels, with a count of all that was not taken as it stands."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from raycl.errors import DataError

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Whose pixels are grey or RGB already; others, such as CMYK, are converted."""
BACKGROUNDS = {"black": 0, "white": 255}
_SIXTEEN_BITS = re.compile(r";16[BLN]$")
_TURNED = 0x0112
"""The EXIF tag of a picture's orientation; 1 is upright."""


class _Lost(ValueError):
    """What a network would see of an image is not the picture."""


class ImageStack:
    """The images of one split in one array, filled as they are read: grey until the first one in colour comes.

    Args:
        rows: how many images will be added.
        background: ``black`` or ``white`` below transparent pixels; empty: their colours are taken as if opaque.
        told: counts what was converted, by what it was.
    """

    def __init__(self, rows: int, background: str, told: Counter[str]) -> None:
        self._rows = rows
        self._background = background
        self._told = told
        self._added = self._grey = 0
        self._pixels: np.ndarray | None = None

    def add(self, file: Path, first: int, encoded: Iterable[bytes]) -> None:
        """Decode the next images.

        Args:
            file: where they come from, for messages.
            first: the row of the first of them in that file.

        Raises:
            DataError: one cannot be read, is lost without its alpha channel, or has another height or width.
        """
        for row, value in enumerate(encoded, first):
            try:
                pixels = _decoded(value, self._background, self._told)
            except _Lost as error:
                raise DataError(f"{file}: row {row}: {error}") from None
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise DataError(f"{file}: row {row} is not a readable image ({error}); replace it") from error
            self._put(file, row, pixels)

    def _put(self, file: Path, row: int, pixels: np.ndarray) -> None:
        """Add one image, uint8 ``[1 or 3, height, width]``."""
        if self._pixels is None:
            self._pixels = np.empty((self._rows, *pixels.shape), dtype=np.uint8)
        if pixels.shape[1:] != self._pixels.shape[2:]:
            raise DataError(
                f"{file}: all images must have one shape (got {list(pixels.shape)} in row {row} and "
                f"{list(self._pixels.shape[1:])} before, channels first); resize them"
            )
        if len(pixels) > self._pixels.shape[1]:
            self._pixels = np.repeat(self._pixels, 3, axis=1)
        self._pixels[self._added] = pixels  # a grey image fills all three channels
        self._added += 1
        self._grey += len(pixels) == 1

    @property
    def colour(self) -> bool:
        """Whether any image has colour."""
        return self._pixels is not None and self._pixels.shape[1] == 3

    def images(self, colour: bool) -> np.ndarray:
        """uint8 ``[rows, channels, height, width]``, of three channels where ``colour`` is true."""
        assert self._pixels is not None, "no image was added"
        if colour and self._grey:
            self._told["are grey, repeated to three channels"] += self._grey
        return np.repeat(self._pixels, 3, axis=1) if colour and not self.colour else self._pixels


def _decoded(value: bytes, background: str, told: Counter[str]) -> np.ndarray:
    """One encoded image -> uint8 ``[1 or 3, height, width]``: grey ones keep one channel, all others become RGB."""
    with Image.open(io.BytesIO(value)) as image:
        if image.mode in DEEP_MODES:  # Pillow would clip, not scale, them to 8 bits
            raise ValueError(f"more than 8 bits per channel, mode {image.mode}")
        _tell(image, told)
        grey = image.mode in ("1", "L")
        if not image.has_transparency_data:
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
            return pixels[None] if grey else pixels.transpose(2, 0, 1)
        layers = np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
    colours, alpha = layers[:1] if grey else layers[:3], layers[3]
    if alpha.min() == 255:
        return colours
    if background:
        told[f"have transparent pixels, laid on {background}"] += 1
        return _laid_on(BACKGROUNDS[background], colours, alpha)
    if 8 * int(np.ptp(colours, axis=(1, 2)).max()) < int(np.ptp(alpha)):
        raise _Lost(
            "its picture is drawn in the alpha channel, which a network does not see; name the set with "
            "?background=white or ?background=black, which lays it on that ground"
        )
    told["have transparent pixels, taken as if opaque (background=white or black lays them on a ground)"] += 1
    return colours


def _laid_on(ground: int, colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 ``[channels, height, width]`` over a ground of one grey value, by their opacity ``[height, width]``."""
    opacity = alpha.astype(np.float32) / 255
    mixed: np.ndarray = np.rint(colours * opacity + ground * (1 - opacity)).astype(np.uint8)
    return mixed


def _tell(image: Image.Image, told: Counter[str]) -> None:
    """Count what decoding changes, or leaves out, of an image."""
    if image.mode not in PLAIN_MODES:
        told[f"are {image.mode}, converted to RGB"] += 1
    # Pillow keeps the high byte of 16-bit colour while it decodes; only the raw mode says so.
    arguments = [tile[3] for tile in getattr(image, "tile", [])]
    raw_modes = [part for one in arguments for part in (one if isinstance(one, tuple) else (one,))]
    if any(isinstance(part, str) and _SIXTEEN_BITS.search(part) for part in raw_modes):
        told["have 16 bits per channel, cut to 8"] += 1
    if getattr(image, "is_animated", False):
        told["have several frames, of which the first is taken"] += 1
    if "exif" in image.info and image.getexif().get(_TURNED, 1) != 1:
        told["are to be turned by their EXIF orientation, which is not done"] += 1
