"""The embedded base as a folder: the shipped one for seed 0 of the digits, another built from the part
`pretrain` of a collection; and what a process should settle before it works with a model so small."""

import ctypes
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from rarl.data.collection import TASK_FILE, Collection, task_text
from rarl.data.digits import prepare_digits
from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.files import finish, unfinished
from rarl.models.loading import BASE_FOLDER, check_model
from rarl.models.pretraining import STEPS, build_base
from rarl.progress_bar import progress_bar

SMALL = 2**23  # bytes of weights, eight times those of the embedded model


def copy_base(out: Path) -> Path:
    """The base that ships with the package, seed 0 of the digits, whole or not at all."""
    temporary = unfinished(out)
    shutil.copytree(BASE_FOLDER, temporary, dirs_exist_ok=True)
    return finish(temporary, out)


def make_base(out: Path, seed: int, console: Console, collection: Collection | None = None) -> Path:
    """Builds the embedded base of that seed, whole or not at all, from the part `pretrain` of a collection,
    which is that of the digits unless another is given.

    Raises:
        DataError: if there is no such part, it knows orders alone, or its images are of several sizes.
    """
    settle()
    with TemporaryDirectory() as folder:
        data = collection or prepare_digits(Path(folder) / "digits")
        if not data.knows_values("pretrain"):
            raise DataError(f"{data.root / 'pretrain'} knows orders alone; a base is trained on values")
        images = [(open_image(row.path), row.value) for row in data.split("pretrain")]
    with progress_bar(console) as progress:
        bar = progress.add_task("base", total=STEPS)
        temporary = unfinished(out)
        build_base(temporary, data.task, images, seed, lambda done, _: progress.update(bar, completed=done))
        (temporary / TASK_FILE).write_text(task_text(data.task), encoding="utf-8")
    return finish(temporary, out)


def settle_for(model: str | Path) -> None:
    """As `settle`, if the model's weights are those of one so small."""
    weights = Path(check_model(model)) / "model.safetensors"
    if weights.is_file() and weights.stat().st_size < SMALL:
        settle()


def settle() -> None:
    """For a model so small: one thread, because more gain nothing and sums of floats would depend on the
    number of cores; and freed memory is kept, because to give it back and take it anew is a tenth of a step
    (glibc alone can be told)."""
    torch.set_num_threads(1)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**30)
