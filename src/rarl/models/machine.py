"""What a process takes of its machine for a model: one thread and one GPU for a small model, and with several
processes a GPU for each; and the sentence where a GPU's memory is too small. How much memory a run needs is
reckoned in `rarl.plan`."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rarl.errors import ModelError

TOO_MANY_PROMPTS = "so many prompts at once: lower the batch size"


def use_one_thread() -> None:
    """Runs torch on one thread and one GPU, and keeps freed memory, for the rest of this process.

    A model as small as the embedded one gains nothing from more threads or GPUs, and its sums of floats would
    then depend on the number of cores. Giving freed memory back and taking it anew would cost a tenth of a
    step; only glibc can be told not to.
    """
    import torch

    torch.set_num_threads(1)
    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**30)


def use_own_gpu() -> None:
    """Gives each process of torchrun the GPU of its number, in place of the first one."""
    import torch

    if torch.cuda.is_available() and (number := os.environ.get("LOCAL_RANK", "")).isdecimal():
        torch.cuda.set_device(int(number))


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Makes a `ModelError` of it if the GPU's memory is too small for what runs within.

    Args:
        what: takes the memory, and how to need less of it, such as `TOO_MANY_PROMPTS`.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(f"the GPU's memory is too small for {what}") from error
