"""Which images a model's processor refuses, such as panoramas more than 200 times as long as high. It is
asked before a run, with the sizes in the headers of the files; no pixel is decoded. Damaged images are found
when they are opened, in `rarl.data.images`."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from rarl.data.images import MOST_THREADS, Size, image_size
from rarl.errors import DataError, ModelError
from rarl.models.processor import image_tokens

NAMED = 5
"""How many refused images a message names."""


def shape_problem(processor: Any, width: int, height: int) -> str | None:
    """Why the processor refuses images of `width` x `height` pixels; None if it doesn't, or can't say."""
    try:
        image_tokens(processor, width, height)
    except DataError as error:
        return str(error)
    except ModelError:
        pass
    return None


def refused_images(processor: Any, paths: Iterable[Path]) -> dict[Path, str]:
    """The images that the processor refuses, and why. Each file is read once, however often this is asked.

    Raises:
        DataError: if the header of a file can't be read.
    """
    files = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        sizes = dict(zip(files, pool.map(_size, files), strict=True))
    problems = {size: shape_problem(processor, *size) for size in set(sizes.values())}
    return {path: problem for path, size in sizes.items() if (problem := problems[size]) is not None}


def check_images(processor: Any, paths: Iterable[Path]) -> None:
    """Refuses images that the processor would refuse.

    Raises:
        DataError: if there are any, with their names; or as `refused_images`.
    """
    refused = refused_images(processor, paths)
    if refused:
        path, problem = next(iter(refused.items()))
        rest = list(map(str, refused))[1:]
        more = f" and {len(rest) + 1 - NAMED:,} more" if len(rest) + 1 > NAMED else ""
        others = f"; the same with {', '.join(rest[: NAMED - 1])}{more}" if rest else ""
        raise DataError(f"{path}: {problem}{others}")


def _size(path: Path) -> Size:
    try:
        status = os.stat(path)
    except OSError:
        return image_size(path)  # which says what is wrong
    return _size_of_version(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1 << 19)
def _size_of_version(path: str, changed: int, length: int) -> Size:
    """The size of an image file as it was when it was last changed."""
    return image_size(path)
