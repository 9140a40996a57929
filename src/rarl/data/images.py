"""The only place that opens an image file. What comes back is always a plain RGB image, upright and detached
from its file; what can't be read is a `DataError` that names the file. Nothing is resized here."""

import os
import stat
import struct
import warnings
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
# What Pillow 13 raises for damaged files of these formats; found with 100,000 files damaged at random.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
_ORIENTATION = 0x0112  # the EXIF tag
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
    """The image of a JPEG, PNG, WebP, BMP or GIF file (its first frame), decoded, in RGB and upright.

    EXIF orientation is applied; what is transparent lies on white; 16 bits of grey are scaled to 8.

    Raises:
        DataError: if the file is missing, is no such image, is damaged or cut short, or has more pixels than
            `MAX_PIXELS` (looked at before anything is decoded).
    """
    try:
        # Reading from a pipe or a device could last for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path}: not a file; the path of an image file is needed")
        with open(path, "rb") as file:
            return _read(file, str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error}); check the file") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r}: not a path ({error})") from error


def image_suffix(data: bytes, where: str) -> str:
    """The file suffix, such as ".png", that fits the bytes of an image file; only the header is read.

    Raises:
        DataError: if they are not those of an image that `open_image` reads; the message begins with `where`.
    """
    with _quiet():
        try:
            with Image.open(BytesIO(data), formats=list(SUFFIXES)) as image:
                # A JPEG file that holds several pictures is called MPO.
                return SUFFIXES.get(str(image.format), SUFFIXES["JPEG"])
        except _DAMAGE as error:
            raise DataError(f"{where}: not a readable {_KINDS}; convert it or leave it out") from error


def _read(file: IO[bytes], name: str) -> Image.Image:
    with _quiet():
        try:
            with Image.open(file, formats=list(SUFFIXES)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS // 10**6} "
                        "megapixels allowed; make the image smaller"
                    )
                image.load()
                transpose = _transpose(image)
                rgb = _rgb(image)
        except UnidentifiedImageError as error:
            raise DataError(f"{name}: not a readable {_KINDS}; convert it or leave it out") from error
        except Image.DecompressionBombError as error:
            raise DataError(f"{name}: far too many pixels ({error}); make the image smaller") from error
        except _DAMAGE as error:
            raise DataError(f"{name}: the image is damaged ({error}); replace it or leave it out") from error
    # The EXIF data would let a processor turn the image a second time.
    rgb.info = {}
    return rgb if transpose is None else rgb.transpose(transpose)


def _transpose(image: Image.Image) -> Image.Transpose | None:
    """What brings the image upright by its EXIF data. Where those are damaged the pixels still count."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGE:
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _rgb(image: Image.Image) -> Image.Image:
    """A copy in RGB."""
    if image.mode == "P" and image.palette is None:
        raise ValueError("it has no palette")
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = np.clip(np.asarray(image, dtype=np.float64) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of Pillow's while a file is read: what matters becomes an error, and the rest is noise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
