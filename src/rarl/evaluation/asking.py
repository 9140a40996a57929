"""Batches that all processes of a program answer together, each its share, and answers that are kept until
the results are written, so that an evaluation that is killed goes on where it was. A batch is the same
whatever the number of processes, and so are its answers to the last digit. What is asked is decided in
`evaluate`."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed

from rarl.data.groups import Group
from rarl.files import write_text

AT_ONCE = 8
"""Batches that a process answers before it waits for the others, who may be slower."""


def join_processes() -> bool:
    """Joins the processes that torchrun or `accelerate launch` has started, each with a GPU of its own.
    Training does that itself.

    Returns:
        Whether this is the first of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    return bool(PartialState(cpu=not torch.cuda.is_available()).is_main_process)


def rank_and_size() -> tuple[int, int]:
    """The rank of this process, and how many processes work together."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def in_shares(
    batches: Sequence[Any],
    answer: Callable[[Any], list[Any]],
    *,
    kept: Path | None = None,
    together: bool = False,
) -> Iterator[list[Any]]:
    """Yields the answers to each batch, in order, in every process; each answers its share of the batches.
    All processes call it with the same batches.

    Args:
        answer: the answers to a batch, one for each of its items; plain values if they are kept.
        kept: a folder from `open_kept`, or one in it. What it has is not asked again; None keeps nothing.
        together: whether the model is spread over the processes (FSDP, ZeRO-3). Then all of them ask equally
            often, and one that has no batch left asks the last one again. Nothing is kept.
    """
    rank, processes = rank_and_size()
    size = processes * (AT_ONCE if processes > 1 else 1)
    for start in range(0, len(batches), size):
        numbers = range(start, min(start + size, len(batches)))
        found = {
            number: _answers(batches[number], answer, None if kept is None else kept / f"{number}.json")
            for number in share(numbers, rank, processes, together)
        }
        if processes > 1:
            every: list[Any] = [None] * processes
            distributed.all_gather_object(every, found)
            found = {number: answers for one in every for number, answers in one.items()}
        for number in numbers:
            yield found[number]


def share(numbers: range, rank: int, processes: int, together: bool) -> list[int]:
    """Which of these batches a process answers: every one of them has one process, or with `together` all
    have equally many, so that the last may have several."""
    own = list(numbers[rank::processes])
    if together and len(own) < -(-len(numbers) // processes):
        own.append(numbers[-1])
    return own


def _answers(batch: Any, answer: Callable[[Any], list[Any]], file: Path | None) -> list[Any]:
    if file is None:
        return answer(batch)
    if file.exists():
        return list(json.loads(file.read_text(encoding="utf-8")))
    answers = answer(batch)
    write_text(file, json.dumps(answers))
    return answers


# ── answers that are kept ────────────────────────────────────────────────────────────────────────────────


def open_kept(folder: Path, key: str) -> Path:
    """Opens a folder for the answers to certain questions to a certain model; those to others are removed.
    All processes call it.

    Args:
        key: what tells the model and its questions from others, from `key_of`.
    """
    rank, processes = rank_and_size()
    if rank == 0:
        file = folder / "key"
        if not file.is_file() or file.read_text(encoding="utf-8") != key:
            shutil.rmtree(folder, ignore_errors=True)
            write_text(file, key)
    if processes > 1:
        distributed.barrier()
    return folder


def key_of(model: Any, processor: Any, groups: Sequence[Group], *settings: Any) -> str:
    """What an answer depends on, as one word: the weights, the processor, the images, the settings and the
    version of this library. Weights are added up by their bits, pixels known by the time of their file."""
    digest = hashlib.sha256(f"{version('rarl')} {processor} {settings}".encode())
    parameters = model.named_parameters() if isinstance(model, torch.nn.Module) else ()
    for name, weight in parameters:
        kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
        digest.update(f"{name} {weight.detach().view(kind).sum(dtype=torch.int64).item()}".encode())
    for group in groups:
        for row in group.rows:
            digest.update(f"{row.path} {os.stat(row.path).st_mtime_ns} {row.rule}".encode())
        digest.update(b"\n")
    return digest.hexdigest()
