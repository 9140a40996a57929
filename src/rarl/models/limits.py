"""Which images a model's processor refuses, such as panoramas more than 200 times as long as high, and which
prompts are the longest. It is asked before a run, with the sizes in the headers of the files; no pixel is
decoded. Damaged images are found when they are opened, in `rarl.data.images`."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from rarl.data.groups import Group
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


def prompt_lengths(processor: Any, groups: Sequence[Group]) -> list[int]:
    """How long the images of each prompt are in tokens, or in pixels where the processor can't say.

    Raises:
        DataError: if the header of a file can't be read, or the processor refuses an image.
    """
    sizes = _sizes(row.path for group in groups for row in group.rows)
    try:
        lengths = {size: image_tokens(processor, *size) for size in set(sizes.values())}
    except ModelError:
        lengths = {size: size[0] * size[1] for size in set(sizes.values())}
    return [sum(lengths[sizes[row.path]] for row in group.rows) for group in groups]


def longest_first(processor: Any, groups: Sequence[Group], at_once: int) -> list[Group]:
    """The groups, of which the step with the longest prompt has changed places with the first: what doesn't
    fit into memory then fails at once.

    Args:
        at_once: the prompts of a step. An unfinished step at the end keeps its place.

    Raises:
        DataError: as `prompt_lengths`.
    """
    lengths, ordered = prompt_lengths(processor, groups), list(groups)
    steps = range(0, len(groups) - at_once + 1, at_once)
    if steps:
        longest = max(steps, key=lambda step: max(lengths[step : step + at_once]))
        ordered[:at_once] = groups[longest : longest + at_once]
        ordered[longest : longest + at_once] = groups[:at_once]
    return ordered


def refused_images(processor: Any, paths: Iterable[Path]) -> dict[Path, str]:
    """The images that the processor refuses, and why. Each file is read once, however often this is asked.

    Raises:
        DataError: if the header of a file can't be read.
    """
    sizes = _sizes(paths)
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


def _sizes(paths: Iterable[Path]) -> dict[Path, Size]:
    files = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        return dict(zip(files, pool.map(_size, files), strict=True))


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
