"""What a process takes of its machine for a model: one thread and one GPU for a small model, and with several
processes a GPU for each. Nothing is loaded here."""

import ctypes
import os
import sys
from pathlib import Path

from rarl.models.loading import is_small


def use_one_thread_for(model: str | Path) -> None:
    """Calls `use_one_thread` if the model is small (`is_small`)."""
    if is_small(model):
        use_one_thread()


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
