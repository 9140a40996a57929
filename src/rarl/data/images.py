"""The only place that opens an image file. What comes back is always a plain RGB image, upright and detached from its
file; what can't be read is a `DataError` that names the file. Nothing is resized here: that is the processor's work."""

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from rarl.errors import DataError

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
MAX_PIXELS = 64_000_000

_KINDS = "JPEG, PNG, WebP, BMP or GIF image"
# What Pillow's readers of these five formats raise for a malformed file (seen with bad files and with random damage).
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image of a JPEG, PNG, WebP, BMP or GIF file (its first frame) as RGB, height x width as it is meant to be seen.

    EXIF orientation is applied; transparency lies on white; 16-bit grey is scaled to 8 bits.

    Raises:
        DataError: if the file is missing, is no such image, is damaged or cut off, or has more than `MAX_PIXELS` pixels.
    """
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path}: not a file; an image file is needed here")
        with open(path, "rb") as file:
            return _read(file, os.fspath(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; check the path") from None
    except OSError as error:
        raise DataError(
            f"{path}: the image can't be read ({error.strerror or error}); check the file"
        ) from error
    except ValueError as error:
        raise DataError(f"{str(path)!r}: not a path ({error})") from error


def image_suffix(data: bytes, where: str) -> str:
    """The file suffix (".png") that fits an encoded image; only its header is read.

    Raises:
        DataError: if `data` is no image that `open_image` would open; the message begins with `where`.
    """
    with _quiet():
        try:
            with Image.open(BytesIO(data), formats=list(SUFFIXES)) as image:
                # A JPEG with more than one picture calls itself MPO.
                return SUFFIXES.get(str(image.format), ".jpg")
        except _DAMAGE as error:
            raise DataError(f"{where}: not a {_KINDS}; convert it or leave it out") from error


def _read(file: IO[bytes], name: str) -> Image.Image:
    with _quiet():
        try:
            with Image.open(file, formats=list(SUFFIXES)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS // 10**6} megapixels "
                        "allowed; make it smaller"
                    )
                image.load()
                orientation = _orientation(image)
                rgb = _rgb(image)
        except UnidentifiedImageError as error:
            raise DataError(f"{name}: not a {_KINDS}; convert it or leave it out") from error
        except _DAMAGE as error:
            raise DataError(f"{name}: the image is damaged ({error}); replace it or leave it out") from error
    # Whatever still stood in `info` could turn the image a second time further on.
    rgb.info = {}
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation, 1-8; 1 where the EXIF data are damaged, for the pixels are not."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """A copy in RGB."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of Pillow's while a file is read: what matters is an error here, and the rest is noise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
