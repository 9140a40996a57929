"""A look at every image of a source or collection: can it be opened, how large is it, and what would be the
same image elsewhere? On several threads, with a few images in memory at a time. Which images are the same is
decided in duplicates.py."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rarl.data.images import decoded, image_bytes
from rarl.errors import DataError

THUMBNAIL = 16  # pixels a side
MOST_THREADS = 16  # an image of 64 megapixels takes 0.8 GB while it is decoded

Progress = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What an image file is.

    Attributes:
        digest: of its bytes; two files with the same digest are byte-identical. Empty where it can't be read.
        size: width and height in pixels, upright; None where it can't be opened.
        thumbnail: grey, `THUMBNAIL` x `THUMBNAIL` bytes; None where it can't be opened.
        problem: why it can't be opened; it begins with the path.
    """

    digest: bytes
    size: tuple[int, int] | None = None
    thumbnail: bytes | None = None
    problem: str | None = None


def examine(path: Path) -> Examined:
    """Reads and decodes one image file; never raises for a file that is missing or broken."""
    digest = b""
    try:
        data = image_bytes(path)
        digest = hashlib.sha256(data).digest()
        image = decoded(data, str(path))
    except DataError as error:
        return Examined(digest, problem=str(error))
    return Examined(digest, image.size, thumbnail(image))


def thumbnail(image: Image.Image) -> bytes:
    """The image in grey and `THUMBNAIL` pixels a side, row after row.

    With a filter that takes every pixel by its distance, so that it hardly changes with the image's size: for
    photos of 100 x 100 made half as large a box filter gives a mean difference of 4.0 grey levels, and this
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
        threads: as many as there are cores, up to `MOST_THREADS`, if not given.
    """
    workers = threads or min(os.cpu_count() or 1, MOST_THREADS)
    running: deque[Future[Examined]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for done, path in enumerate(paths):
            running.append(pool.submit(examine, path))
            # Enough that no thread waits for the slowest, and no more: what is done waits to be taken.
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
