"""The only place that opens image files. It returns plain RGB images, upright and detached from their files;
a file that can't be read is a `DataError` that names it. The time and memory that a stranger's file can cost
are bounded before anything is decoded. Whole collections are examined here too: bytes, sizes, thumbnails."""

import hashlib
import math
import os
import re
import stat
import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rarl.errors import DataError

FORMAT_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
FILE_SUFFIXES = (*FORMAT_SUFFIXES.values(), ".jpeg")
MAX_PIXELS = 64_000_000
MAX_BYTES = 512_000_000  # 64 megapixels of four channels of 16 bits, not compressed
# Progressive JPEG files have about ten scans. Each goes over all pixels: 3,000 take 125 s for 64 megapixels.
MAX_SCANS = 100
JPEG_QUALITY = 95

MOST_ASPECT = 200  # the longer side to the shorter: processors of Qwen2-VL and Qwen2.5-VL refuse more

Size = tuple[int, int]
"""Width and height in pixels."""


class Resize(Protocol):
    """Makes another size of an image. What is built for a model is `rarl.data.opening.Resizing`."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Of an upright RGB image, as a new one, or returns the image itself."""

    def reduced(self, image: Image.Image) -> Image.Image | None:
        """Of an image that is decoded for it at a part of its size, and then to be made upright; or None."""


_KINDS = "JPEG, PNG, WebP, BMP or GIF image"
# What Pillow 13 raises for damaged files of these formats, found with 100,000 files damaged at random.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
_lock, _filters, _readers = Lock(), ExitStack(), 0


def open_image(path: str | os.PathLike[str], resize: Resize | None = None) -> Image.Image:
    """The image of a JPEG, PNG, WebP, BMP or GIF file (its first frame), decoded, in RGB and upright.

    EXIF orientation is applied, transparent pixels are laid on white, and 16 bits of grey are scaled to 8.

    Args:
        resize: makes another size of the upright RGB image.

    Raises:
        DataError: if the file is missing, no such image, damaged or cut short, or larger than `MAX_PIXELS`,
            `MAX_BYTES` or `MAX_SCANS` allow (which is checked before anything is decoded).
    """
    return decoded(image_bytes(path), str(path), resize)


def image_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that may be an image.

    Raises:
        DataError: if it is missing, not a file, larger than `MAX_BYTES`, or can't be read.
    """
    with _file(path) as file:
        # As many as there are, and one to be sure: room for MAX_BYTES costs more than a small file.
        return file.read(min(MAX_BYTES, os.fstat(file.fileno()).st_size + 1))


def image_size(path: str | os.PathLike[str]) -> Size:
    """Width and height in pixels, as the file has them before EXIF orientation. Only the header is read.

    Raises:
        DataError: as `open_image`, as far as the header shows it.
    """
    with _file(path) as file, _opened(file, str(path)) as image:
        return image.size


def is_plain(path: str | os.PathLike[str]) -> bool:
    """Whether other programs show the image as `open_image` does: upright, opaque, of 8 bits. Only the header
    is read.

    Raises:
        DataError: as `open_image`, as far as the header shows it.
    """
    with _file(path) as file, _opened(file, str(path)) as image:
        return _orientation(image) == 1 and not image.has_transparency_data and image.mode[0] != "I"


@contextmanager
def _file(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """A file that may be an image, open for reading; what the system refuses is a `DataError`."""
    try:
        # Reading from a pipe or a device could go on forever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: not a file; the path of an image file is needed")
        if status.st_size > MAX_BYTES:
            size = f"{status.st_size / 1e6:,.0f} MB"
            raise DataError(f"{path}: {size}, and {MAX_BYTES // 10**6} are allowed; make the image smaller")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error}); check the file") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r}: not a path ({error})") from error


def decoded(data: bytes, name: str, resize: Resize | None = None) -> Image.Image:
    """The image in the bytes of a file; as `open_image`, with messages that begin with `name`."""
    with _opened(BytesIO(data), name) as image:
        _check_cost(image, data, name)
        if resize is not None and (reduced := resize.reduced(image)):
            return _upright(reduced, None)
        image.load()
        return _upright(image, resize)


def plain_rgb(image: Image.Image, name: str, resize: Resize | None = None) -> Image.Image:
    """An image of Pillow's, from anywhere, as `open_image` gives one.

    Raises:
        DataError: if it is damaged, which may only show when it is decoded.
    """
    try:
        with _quiet():
            image.load()
            return _upright(image, resize)
    except _DAMAGE as error:
        raise DataError(f"{name}: the image is damaged ({error}); replace it or leave it out") from error


def _upright(image: Image.Image, resize: Resize | None) -> Image.Image:
    """A copy in RGB, upright and without metadata, of another size if that is asked for."""
    orientation = _orientation(image)
    if resize is not None and orientation == 1 and image.mode == "RGB" and not image.has_transparency_data:
        smaller = resize(image)  # of a photo of 12 megapixels, a copy costs a fifth of decoding it
        if smaller is not image:
            smaller.info = {}
            return smaller
    rgb = _rgb(image)
    # Nothing of the file's metadata is kept but the orientation: a processor could turn the image a second
    # time, and Pillow would rewrite a stranger's EXIF data and XMP.
    rgb.info = {}
    exif = rgb.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(rgb, in_place=True)
    exif.clear()
    return rgb if resize is None else resize(rgb)


@contextmanager
def _opened(file: BufferedReader | BytesIO, name: str) -> Iterator[Image.Image]:
    """The image in a file, not decoded. What Pillow raises for a damaged one, here and in the block, is a
    `DataError` that names it."""
    try:
        with _quiet(), Image.open(file, formats=list(FORMAT_SUFFIXES)) as image:
            yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not a readable {_KINDS}; convert it or leave it out") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: far too many pixels ({error}); make the image smaller") from error
    except _DAMAGE as error:
        raise DataError(f"{name}: the image is damaged ({error}); replace it or leave it out") from error


def image_suffix(data: bytes, where: str) -> str:
    """The file suffix, such as ".png", that fits the bytes of an image file. Only the header is read.

    Raises:
        DataError: if `open_image` can't read such an image; the message begins with `where`.
    """
    with _quiet():
        try:
            with Image.open(BytesIO(data), formats=list(FORMAT_SUFFIXES)) as image:
                # A JPEG file that holds several pictures is called MPO.
                return FORMAT_SUFFIXES.get(str(image.format), FORMAT_SUFFIXES["JPEG"])
        except _DAMAGE as error:
            raise DataError(f"{where}: not a readable {_KINDS}; convert it or leave it out") from error


def check_shape(width: int, height: int) -> None:
    """Whether an image of `width` x `height` pixels is of a shape that models take.

    Raises:
        DataError: if one side is more than `MOST_ASPECT` times the other.
    """
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise DataError(
            f"an image of {width} x {height} pixels is not for models such as Qwen2.5-VL (one side is more "
            f"than {MOST_ASPECT} times the other); crop it or leave it out"
        )


def shrunk(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image with at most `max_pixels` pixels, of the same shape as nearly as whole pixels allow. An image
    that is small enough is returned as it is.

    Raises:
        ValueError: if `max_pixels` is less than 1.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, not {max_pixels}")
    width, height = image.size
    if width * height <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (width * height))
    # The shorter side is rounded and the longer one follows from it, since a pixel changes the shorter one
    # most.
    ends = min(width, height), max(width, height)
    short = min(max(1, round(ends[0] * scale)), math.isqrt(max_pixels))
    long = min(max_pixels // short, round(ends[1] * short / ends[0]))
    size = (long, short) if width > height else (short, long)
    return image.resize(size, Image.Resampling.LANCZOS)


def encoded(image: Image.Image, suffix: str) -> bytes:
    """The image as the bytes of a file: JPEG of quality 95 for ".jpg" and ".jpeg", PNG for any other
    suffix."""
    data = BytesIO()
    if suffix.lower() in (".jpg", ".jpeg"):
        image.convert("RGB").save(data, format="JPEG", quality=JPEG_QUALITY)
    else:
        image.save(data, format="PNG")
    return data.getvalue()


def _check_cost(image: Image.Image, data: bytes, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        size, limit = f"{width} x {height} pixels", f"{MAX_PIXELS // 10**6} megapixels"
        raise DataError(f"{name}: {size} are more than the {limit} allowed; make the image smaller")
    if image.format in ("JPEG", "MPO") and number_of_scans(data, MAX_SCANS) > MAX_SCANS:
        raise DataError(f"{name}: a JPEG file of more than {MAX_SCANS} scans; save it anew or leave it out")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. Where the EXIF data are damaged, the pixels still count as they are."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """A copy in RGB."""
    if image.mode == "P" and image.palette is None:
        raise ValueError("it has no palette")
    if image.mode.startswith("I"):  # 16 bits of grey
        scaled = np.rint(np.arange(2**16) / 257).astype(np.uint8)
        grey = scaled[np.clip(np.asarray(image), 0, 2**16 - 1)]
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer)
        return white
    return image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Pillow from warning while a file is read: what matters becomes an error, and the rest is noise.
    All threads share the filters, so the first reader sets one and the last takes it away."""
    global _readers
    with _lock:
        if _readers == 0:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.close()


_SCAN, _END = 0xDA, 0xD9
# Within a scan, a 0xFF of the data is followed by 0x00, and restart markers may stand anywhere.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")


def number_of_scans(data: bytes, most: int) -> int:
    """How many scans the first picture of a JPEG file has, counted up to `most` + 1. Any bytes may be
    given."""
    scans, place = 0, 2
    while scans <= most and (marker := _MARKER.search(data, place)) and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        # The inside of a segment is skipped by its length: a thumbnail in there has scans of its own.
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
    return scans


# ── what an image file is ──────────────────────────────────────────────────────────────────────────────

THUMBNAIL = 16  # pixels a side
MOST_THREADS = 16  # an image of 64 megapixels takes 0.8 GB while it is decoded

Progress = Callable[[int, int], None]
"""Called with the number done and the number of all."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What an image file is.

    Attributes:
        digest: of its bytes; two files with the same digest are byte-identical. Empty if it can't be read.
        size: width and height in pixels, upright; None if it can't be opened.
        thumbnail: grey, `THUMBNAIL` x `THUMBNAIL` bytes; None if it can't be opened.
        problem: why it can't be opened, beginning with the path; None if it can.
    """

    digest: bytes
    size: Size | None = None
    thumbnail: bytes | None = None
    problem: str | None = None


def examine(path: Path) -> Examined:
    """Reads and decodes one image file. A file that is missing or broken raises nothing."""
    digest = b""
    try:
        data = image_bytes(path)
        digest = hashlib.sha256(data).digest()
        image = decoded(data, str(path))
    except DataError as error:
        return Examined(digest, problem=str(error))
    return Examined(digest, image.size, thumbnail(image))


def thumbnail(image: Image.Image) -> bytes:
    """The image in grey, `THUMBNAIL` pixels a side, row after row.

    The filter weighs every pixel by its distance, so that the thumbnail hardly changes with the image's size.
    For photos of 100 x 100 made half as large, a box filter gives a mean difference of 4.0 grey levels, this
    one 0.25.
    """
    grey = image.convert("L")
    return grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC).tobytes()


def examine_all(
    paths: Sequence[Path], progress: Progress | None = None, *, threads: int | None = None
) -> Iterator[Examined]:
    """`examine` of each path, in order.

    Args:
        progress: called after each file.
        threads: by default as many as there are cores, up to `MOST_THREADS`.
    """
    workers = threads or min(os.cpu_count() or 1, MOST_THREADS)
    running: deque[Future[Examined]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for done, path in enumerate(paths):
            running.append(pool.submit(examine, path))
            # Enough that no thread waits for the slowest, and no more, since results are held until they are
            # taken.
            if len(running) >= 8 * workers:
                yield running.popleft().result()
                _tell(progress, done + 1 - len(running), len(paths))
        while running:
            yield running.popleft().result()
            _tell(progress, len(paths) - len(running), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def identical_bytes(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of two or more indices with the same digest, ascending. An empty digest equals no other."""
    places: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        if digest:
            places.setdefault(digest, []).append(index)
    return [group for group in places.values() if len(group) > 1]
