"""Images at the size that a model's image processor makes of them (`Resizing`), and images opened ahead of
the model, in processes or threads beside it, in the order given. A file is decoded and resized there, so that
a photo of 12 megapixels is never passed on whole. Nothing is opened here itself: that is
`rarl.data.images`."""

import math
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from rarl.data.images import MOST_THREADS, Size, decoded, open_image, plain_rgb
from rarl.errors import DataError

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]
"""An image as people have it: a path, the bytes of a file, a PIL image, or an array of height x width x 3."""

FEW = 32
LITTLE = 16_000_000
"""Fewer files than this, of fewer bytes in all, are opened sooner than a process starts."""

GAP = 4
"""How many times longer than the resized image a JPEG that is decoded at a part of its size still is, at
least. See docs/performance.md for the difference that this makes; `thumbnail` of Pillow takes 2."""

_CHUNK = 4  # files that a process is asked for at once
_AHEAD = 128  # small images that wait for the model; whole ones are fewer
_BLOCKS = 8  # of memory that Pillow keeps: a quarter less time for a photo of 12 megapixels

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Resizing:
    """How image processors of Qwen2-VL and Qwen2.5-VL resize: both sides become multiples of `factor`, at
    nearly the same shape, of `least` to `most` pixels in all (transformers 5.23, `smart_resize`).

    Pixels are those of the processor, except of a JPEG file that is `reduced` as it is decoded. Training,
    evaluation and ranking open files with it alike, so that a model sees at use what it was trained on.

    Attributes:
        resample: Pillow's number of the filter.
    """

    factor: int
    least: int
    most: int
    resample: int

    def size_of(self, size: Size) -> Size | None:
        """The size that an image of `size` gets; None if the processor refuses it, or would resize it a
        second time."""
        once = self._step(size)
        return once if once is not None and self._step(once) == once else None

    def _step(self, size: Size) -> Size | None:
        width, height = size
        if max(size) / min(size) > 200:
            return None
        wide, high = (round(side / self.factor) * self.factor for side in size)
        if high * wide > self.most:
            shrink = math.sqrt((height * width) / self.most)
            wide, high = (
                max(self.factor, math.floor(side / shrink / self.factor) * self.factor) for side in size
            )
        elif high * wide < self.least:
            grow = math.sqrt(self.least / (height * width))
            wide, high = (math.ceil(side * grow / self.factor) * self.factor for side in size)
        return wide, high

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image as the processor would make it, so that the processor leaves it as it is."""
        size = self.size_of(image.size)
        return image if size is None else image.resize(size, Image.Resampling(self.resample))

    def reduced(self, image: Image.Image) -> Image.Image | None:
        """A JPEG image at the size that it gets, decoded at a half, a quarter or an eighth of its own size,
        two to five times as fast. None if fewer than `GAP` times the sides that it gets would be left, or it
        is no JPEG image in grey or RGB.

        Args:
            image: one that is not decoded yet. It need not be upright: `size_of` treats both sides alike.
        """
        whole = image.size
        size = self.size_of(whole)
        if size is None or image.mode not in ("L", "RGB"):  # CMYK becomes RGB before it is resized
            return None
        drafted = image.draft(None, (GAP * size[0], GAP * size[1]))
        if drafted is None or image.size == whole:
            return None
        # The box leaves out what libjpeg adds where sides are no multiples of the part.
        return image.resize(size, Image.Resampling(self.resample), drafted[1])


def opened(picture: Picture, name: str, resizing: Resizing | None = None) -> Image.Image:
    """The picture as an RGB image, resized if that is asked for.

    Args:
        name: what an error calls a picture that is no path.

    Raises:
        DataError: if it is missing, damaged, or no picture at all.
    """
    if isinstance(picture, bytes):
        return decoded(picture, name, resizing)
    if isinstance(picture, Image.Image):
        return plain_rgb(picture, name, resizing)
    if isinstance(picture, np.ndarray):
        return plain_rgb(_of_array(picture, name), name, resizing)
    return open_image(picture, resizing)


def _is_one(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array has the shape of one image."""
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))


def _of_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    if array.dtype != np.uint8 or not _is_one(array) or not array.size:
        raise DataError(
            f"{name}: an array must be of height x width or height x width x 3, of bytes (uint8), not "
            f"{' x '.join(map(str, array.shape))} of {array.dtype}"
        )
    return Image.fromarray(array)


def check_picture(picture: object) -> None:
    """Whether something is a picture at all.

    Raises:
        DataError: if not.
    """
    if not isinstance(picture, str | os.PathLike | bytes | Image.Image | np.ndarray):
        kind = type(picture).__name__
        raise DataError(f"an image is a path, the bytes of a file, a PIL image or an array, not a {kind}")


def check_several(pictures: object) -> None:
    """Whether something may be several pictures, and not one whose letters, bytes or rows would be taken for
    pictures.

    Raises:
        DataError: if not.
    """
    one = isinstance(pictures, str | os.PathLike | bytes | Image.Image)
    if one or (isinstance(pictures, np.ndarray) and _is_one(pictures)):
        raise DataError("images are given as a list: for one, give [image]; `rarl rank` takes folders")


def picture_name(picture: Picture, place: int) -> str:
    """What messages call a picture: its path; for one that has none, its place among all, from 0."""
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    return f"image {place}"


def cores() -> int:
    """How many processor cores this process may use; of those that torchrun's processes share, its part."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, found // int(beside)) if beside.isdecimal() and int(beside) else found


def are_many(pictures: Sequence[Picture]) -> bool:
    """Whether pictures are files, and so many that opening several at once is worth its start."""
    paths = [Path(picture) for picture in pictures if isinstance(picture, str | os.PathLike)]
    return len(paths) == len(pictures) and (len(paths) >= FEW or sum(map(_bytes_of, paths)) >= LITTLE)


def open_all(
    pictures: Sequence[Picture],
    resizing: Resizing | None = None,
    workers: int | None = None,
    threads: Executor | None = None,
) -> Iterator[Image.Image | DataError]:
    """Each picture, opened, in order; in place of one that can't be, the error that says why.

    Args:
        workers: processes that open files. By default one for each core, and none where there is one core or
            few pictures, or where not all of them are paths. They end with the iteration.
        threads: that open files instead, in turn with other work; where `workers` is not given.

    Raises:
        DataError: if a process dies, such as for want of memory; it names the file.
    """
    if not all(isinstance(picture, str | os.PathLike) for picture in pictures):
        workers, threads = 0, None
    elif workers is None:
        alone = threads is not None or cores() == 1 or not are_many(pictures)
        workers = 0 if alone else min(cores(), len(pictures), MOST_THREADS)
    else:
        threads = None
    if workers or threads is not None:
        paths = [Path(picture) for picture in pictures if isinstance(picture, str | os.PathLike)]
        if threads is None:
            yield from _opened_by_workers(paths, resizing, workers)
        else:
            yield from _opened_by_threads(paths, resizing, threads)
        return
    for place, picture in enumerate(pictures):
        yield _opened_or_not(picture, picture_name(picture, place), resizing)


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0


def _opened_or_not(picture: Picture, name: str, resizing: Resizing | None) -> Image.Image | DataError:
    try:
        return opened(picture, name, resizing)
    except DataError as error:
        return error


def in_order(
    threads: Executor, work: Callable[[_Given], _Made], tasks: Iterable[_Given], most: int
) -> Iterator[_Made]:
    """What `work` makes of each task, in order. At most `most` are begun that are not taken yet."""
    running: deque[Future[_Made]] = deque()
    for task in tasks:
        running.append(threads.submit(work, task))
        if len(running) >= most:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _chunks(paths: Sequence[Path]) -> list[Sequence[Path]]:
    return [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────


def _opened_by_threads(
    paths: Sequence[Path], resizing: Resizing | None, threads: Executor
) -> Iterator[Image.Image | DataError]:
    def ask(chunk: Sequence[Path]) -> list[Image.Image | DataError]:
        return [_opened_or_not(path, str(path), resizing) for path in chunk]

    with _memory_kept():
        most = cores() if resizing is None else _AHEAD // _CHUNK
        for found in in_order(threads, ask, _chunks(paths), most):
            yield from found


@contextmanager
def _memory_kept() -> Iterator[None]:
    """Within, Pillow keeps memory for the next photo; see `_BLOCKS`."""
    core: Any = Image.core
    before = core.get_blocks_max()
    core.set_blocks_max(max(before, _BLOCKS))
    try:
        yield
    finally:
        core.set_blocks_max(before)


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────


_LOST = (EOFError, OSError, pickle.UnpicklingError)
"""What reading from a process that died, or writing to it, raises."""


class _Worker:
    """A process that opens files. It is a Python of its own with nothing but this module, not a fork: torch
    has threads, and a script of the user need not guard its main part."""

    def __init__(self, resizing: Resizing | None) -> None:
        self._resizing = resizing
        self._ended = False
        self._start()

    def _start(self) -> None:
        start = f"import sys; sys.path[:] = {sys.path!r}; from rarl.data.opening import serve; serve()"
        environment = {"PILLOW_BLOCKS_MAX": str(_BLOCKS), **os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._told = False

    def open(self, paths: Sequence[Path]) -> list[Image.Image | DataError]:
        """The files, opened. If the process dies, another one opens them one by one: it may have died of
        something else, and otherwise the file is known."""
        try:
            return self._ask(paths)
        except _LOST:
            if self._ended:
                raise
        self.close()
        self._start()
        found: list[Image.Image | DataError] = []
        for path in paths:
            try:
                found += self._ask([path])
            except _LOST as error:
                code = self._process.wait()
                raise DataError(
                    f"{path}: the process that opened it died (exit code {code}); if memory ran out, free "
                    "some, otherwise leave the image out"
                ) from error
        return found

    def _ask(self, paths: Sequence[Path]) -> list[Image.Image | DataError]:
        if not self._told:
            pickle.dump(self._resizing, self._to)
            self._told = True
        pickle.dump([str(path) for path in paths], self._to)
        self._to.flush()
        found: list[Image.Image | DataError] = pickle.load(self._from)
        return found

    def end(self) -> None:
        """Ends the process, and whoever waits for it."""
        self._ended = True
        self._process.kill()

    def close(self) -> None:
        """Leaves nothing open."""
        self._process.kill()
        self._process.wait()
        self._from.close()
        with suppress(OSError):  # what was still to be written
            self._to.close()


def serve() -> None:
    """What a worker does: opens the files that it is told on stdin, and writes them to stdout, pickled."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle; it then ends this one
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    try:
        resizing = pickle.load(asked)
        while True:
            found = [_opened_or_not(path, path, resizing) for path in pickle.load(asked)]
            pickle.dump(found, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError):
        return  # the parent has ended


def _opened_by_workers(
    paths: Sequence[Path], resizing: Resizing | None, number: int
) -> Iterator[Image.Image | DataError]:
    most = 2 * number if resizing is None else max(2 * number, _AHEAD // _CHUNK)
    free: SimpleQueue[_Worker] = SimpleQueue()

    def ask(chunk: Sequence[Path]) -> list[Image.Image | DataError]:
        worker = free.get()
        try:
            return worker.open(chunk)
        finally:
            free.put(worker)

    with ExitStack() as stack:
        # The threads only wait; each asks one process at a time.
        pool = ThreadPoolExecutor(number)
        workers = [_Worker(resizing) for _ in range(number)]
        for worker in workers:
            stack.callback(worker.close)
            free.put(worker)
        stack.callback(pool.shutdown, cancel_futures=True)
        for worker in workers:
            stack.callback(worker.end)  # first, so that no thread waits for it
        for found in in_order(pool, ask, _chunks(paths), most):
            yield from found
