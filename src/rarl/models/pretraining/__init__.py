"""Makes the embedded base (`rarl base --seed N OUT`), the small model that RL starts from on a CPU. It is
trained with supervision on images that are mostly mislabelled, so its replies have the right format and rough
values, as the replies of a general model do. It sees only the `pretrain` split; its level is designed, not
measured. The base of seed 0 on digits ships with the package (`models/tiny_base`), and `copy_base` copies it.
The method and the paper's numbers don't depend on this: any vision-language model can take the base's place.

First the vision tower learns the labels from single images (`tower.py`). Then it is frozen, and the language
model learns to write replies (`replies.py`). What these say of an image is drawn from what the tower predicts
for it, so no list holds a label that the model would have to memorise."""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image as Images
from PIL.Image import Image
from rich.console import Console

from rarl.data.collection import TASK_FILE, Collection, task_text
from rarl.data.images import open_image
from rarl.data.sources.digits import prepare_digits
from rarl.errors import DataError
from rarl.files import finish, unfinished
from rarl.method.tasks import Task, steps_above
from rarl.models.loading import BASE_FOLDER
from rarl.models.machine import use_one_thread
from rarl.models.pretraining.replies import reply_steps, train_replies
from rarl.models.pretraining.tower import TOWER_STEPS, train_tower
from rarl.models.tiny import build_model, build_processor
from rarl.progress import counted

MISLABELED = 0.9  # share of images whose label is moved, once and for all
NOISE_SCALE = 2.0  # standard deviation of a move, in steps of the task's grid, before rounding
SHIFTS = (-2, 0, 2)  # pixels of 28 by which an image is moved, in either direction


def pretraining_steps() -> int:
    """How often `pretrain` calls `on_step`."""
    return TOWER_STEPS + reply_steps()


def pretrain(
    task: Task,
    images: Sequence[tuple[Image, float]],
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    *,
    mislabeled: float = MISLABELED,
) -> tuple[Any, Any]:
    """Trains the embedded base.

    Args:
        task: what the prompts ask for. The tokenizer is made from it, too.
        images: (image, value) pairs. The image processor must cut all of them into the same grid of patches,
            as it does for images of one size.
        seed: decides the weights, the images, the noise and the order.
        on_step: called after each step with the number of steps done and the loss in nats.
        mislabeled: share of images whose label is moved, from 0 to 1.

    Returns:
        The model, in eval mode, and its processor.

    Raises:
        DataError: if there are no images, or their grids differ.
    """
    if not images:
        raise DataError("pre-training needs images, and there are none")
    processor = build_processor(task)
    model = build_model(processor, seed)
    features = processor.image_processor([image for image, _ in images], return_tensors="pt")
    grid = features["image_grid_thw"]
    for (image, _), other in zip(images, grid, strict=True):
        if not torch.equal(other, grid[0]):
            raise DataError(
                "pre-training needs images of one size: the first is {} x {} pixels, another {} x {}".format(
                    *images[0][0].size, *image.size
                )
            )
    generator = random.Random(f"{seed}:pretraining")
    values = [_noisy(value, task, mislabeled, generator) for _, value in images]
    labels = torch.tensor([_class(value, task) for value in values]).repeat_interleave(len(SHIFTS) ** 2)
    moved = [copy for image, _ in images for copy in _shifted(image)]
    patches = processor.image_processor(moved, return_tensors="pt")["pixel_values"]
    patches = patches.view(len(moved), -1, patches.shape[-1])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seen = train_tower(model.model.visual, patches, grid[0], labels, len(task.grid), on_step)
        train_replies(model, processor, task, seen, grid[0], generator, on_step)
    return model.eval(), processor


def _noisy(value: float, task: Task, noise: float, generator: random.Random) -> float:
    if generator.random() >= noise:
        return value
    return task.nearest(value + task.step * round(generator.gauss(0, NOISE_SCALE)))


def _class(value: float, task: Task) -> int:
    """The number of a value on the task's grid, from 0."""
    return min(int(steps_above(value, task.low, task.step)), len(task.grid) - 1)


def _shifted(image: Image) -> list[Image]:
    """The image moved a little in every direction. What comes in at the border is black."""
    copies = []
    for down in SHIFTS:
        for right in SHIFTS:
            copy = Images.new(image.mode, image.size)
            copy.paste(image, (right * image.width // 28, down * image.height // 28))
            copies.append(copy)
    return copies


# ── model folders ────────────────────────────────────────────────────────────────────────────────────────


def build_base(
    out: Path,
    task: Task,
    images: Sequence[tuple[Image, float]],
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
    *,
    mislabeled: float = MISLABELED,
) -> Path:
    """Runs `pretrain` and saves the result as a model folder for `from_pretrained`. Returns `out`."""
    model, processor = pretrain(task, images, seed, on_step, mislabeled=mislabeled)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def copy_base(out: Path) -> Path:
    """Copies the base that ships with the package (seed 0, digits) to `out`, completely or not at all."""
    temporary = unfinished(out)
    shutil.copytree(BASE_FOLDER, temporary, dirs_exist_ok=True)
    return finish(temporary, out)


def make_base(
    out: Path, seed: int, console: Console, collection: Collection | None = None, *, format_only: bool = False
) -> Path:
    """Builds the embedded base of a seed from a collection's `pretrain` split, completely or not at all.

    Args:
        out: the model folder to write.
        seed: see `pretrain`.
        console: where the progress bar goes.
        collection: where the split comes from; None means the digits.
        format_only: whether the base learns the format alone, and says the middle of the scale of every
            image. All responses of its groups are equally wrong, so GRPO alone learns nothing from them.

    Raises:
        DataError: if there is no such split, it has orders and no values, or its images differ in size.
    """
    use_one_thread()
    with TemporaryDirectory() as folder:
        data = collection or prepare_digits(Path(folder) / "digits")
        if not data.knows_values("pretrain"):
            raise DataError(f"{data.root / 'pretrain'} has only orders, and a base is trained on values")
        middle = data.task.midpoint
        images = [
            (open_image(row.path), middle if format_only else row.value) for row in data.split("pretrain")
        ]
    with counted(console, "base") as progress:
        temporary = unfinished(out)
        total = pretraining_steps()
        build_base(
            temporary,
            data.task,
            images,
            seed,
            lambda done, _: progress(done, total),
            mislabeled=0.0 if format_only else MISLABELED,
        )
        (temporary / TASK_FILE).write_text(task_text(data.task), encoding="utf-8")
    return finish(temporary, out)
