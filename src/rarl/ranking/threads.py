"""Batches measured at once, on a thread for each core. A model so small that torch computes it on one core
would leave the others idle; its threads open the files, too. They share the weights. For a larger model, or
on a GPU, there is one batch at a time, and files are opened in processes beside it (`rarl.data.opening`)."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy, deepcopy
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from rarl.data.opening import Picture, are_many, cores, in_order
from rarl.models.positions import MODEL_TYPES
from rarl.ranking.batches import Waiting
from rarl.ranking.measured import Measured
from rarl.scoring.packed import sharing

if TYPE_CHECKING:
    from rarl.ranking.ranker import Ranker

Batch = tuple[list[Waiting], bool]
"""Images, and whether not to wait for the longest replies (`Ranker.measure`)."""

Found = tuple[list[Waiting], list[Measured | None]]
"""The images, and what was measured of each."""

_MOST = 4  # beyond, threads wait for one another in Python


def number_of_threads(model: Any) -> int:
    """How many batches of a model are measured at once."""
    alone = model.device.type != "cpu" or model.config.model_type not in MODEL_TYPES
    return 1 if alone else max(1, min(cores() // torch.get_num_threads(), _MOST))


class Threads:
    """The threads of one call, which end with the block.

    Args:
        ranker: what measures.
        pictures: all of the call; few of them get one thread.

    Attributes:
        opening: what opens files; None where there is one thread.
    """

    def __init__(self, ranker: "Ranker", pictures: Sequence[Picture]) -> None:
        self._ranker = ranker
        self._number = number_of_threads(ranker._model) if are_many(pictures) else 1
        self.opening: Executor | None = None
        self._twins: list[Ranker] = []
        self._free: SimpleQueue[Ranker] = SimpleQueue()
        self._open = ExitStack()

    def __enter__(self) -> "Threads":
        if self._number > 1:
            # A tokenizer remembers how it pads, so each thread has its own.
            for _ in range(self._number):
                twin = copy(self._ranker)
                twin.read_leniently = 0
                twin._processor = deepcopy(self._ranker._processor)
                self._twins.append(twin)
                self._free.put(twin)
            if self._ranker.scoring.method != "greedy":
                self._open.enter_context(sharing(self._ranker._model))  # once, and not around each batch
            self.opening = ThreadPoolExecutor(self._number)
            self._open.callback(self.opening.shutdown, cancel_futures=True)
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()
        self._ranker.read_leniently += sum(twin.read_leniently for twin in self._twins)

    def measure_each(self, batches: Iterator[Batch]) -> Iterator[Found]:
        """Each batch with what was measured, in order. Batches are made in the caller's thread, as others are
        measured."""
        if self.opening is None:
            yield from (
                (batch, self._ranker.measure(_images(batch), hasty=hasty)) for batch, hasty in batches
            )
        else:
            yield from in_order(self.opening, self._measured, batches, self._number + 1)

    def share_of(self, images: int, batch_size: int) -> int:
        """How many of the last images each of their batches gets, so that no thread is left without."""
        rounds = max(1, math.ceil(images / batch_size / self._number))
        return max(1, math.ceil(images / rounds / self._number))

    def _measured(self, given: Batch) -> Found:
        batch, hasty = given
        twin = self._free.get()
        try:
            return batch, twin.measure(_images(batch), hasty=hasty)
        finally:
            self._free.put(twin)


def _images(batch: Sequence[Waiting]) -> list[Image.Image]:
    return [entry.image for entry in batch]
