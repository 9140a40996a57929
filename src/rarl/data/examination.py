"""A look at every image of a source or collection: can it be opened, how large is it, and what would be the
same image elsewhere? On several threads, with a few images in memory at a time."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from rarl.data.images import open_image
from rarl.errors import DataError

THUMBNAIL = 16  # pixels a side

Progress = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What an image file is.

    Attributes:
        digest: of its bytes; two files with the same digest are byte-identical.
        size: width and height in pixels, upright; None where it can't be opened.
        thumbnail: grey, `THUMBNAIL` x `THUMBNAIL` bytes; None where it can't be opened.
        problem: why it can't be opened.
    """

    digest: bytes
    size: tuple[int, int] | None = None
    thumbnail: bytes | None = None
    problem: str | None = None


def examine(path: Path) -> Examined:
    """Reads and decodes one image file; never raises for a file that is missing or broken."""
    try:
        image = open_image(path)
    except DataError as error:
        return Examined(_digest(path), problem=str(error))
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    return Examined(_digest(path), image.size, small.tobytes())


def examine_all(paths: Sequence[Path], progress: Progress | None = None) -> Iterator[Examined]:
    """`examine` of each path, in order, on as many threads as there are cores."""
    workers = os.cpu_count() or 1
    remaining = iter(paths)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        # Pieces: what is examined waits for nobody, so it doesn't pile up.
        while piece := list(islice(remaining, 16 * workers)):
            yield from pool.map(examine, piece)
            done += len(piece)
            if progress is not None:
                progress(done, len(paths))


def _digest(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
