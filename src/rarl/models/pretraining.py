"""How the embedded base is made (`rarl base --seed N OUT`): supervised pre-training on images that are mostly
mislabelled, so that its replies have the right format and rough values, as those of a general model do. It
sees only the collection's `pretrain` part; its level is designed, not measured on anything."""

import ctypes
import math
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL.Image import Image
from rich.console import Console

from rarl.data.collection import TASK_FILE, Collection, task_text
from rarl.data.images import open_image
from rarl.data.sources.digits import prepare_digits
from rarl.errors import DataError
from rarl.files import finish, progress_bar, unfinished
from rarl.method.prompts import messages
from rarl.method.replies import reference_reply
from rarl.method.tasks import Task
from rarl.models.loading import BASE_FOLDER, check_model
from rarl.models.tiny import build_model, build_processor

MISLABELED = 0.8  # share of the images whose label is moved once and for all
LABEL_NOISE = 0.35  # share of the labels that are moved, by a rounded normal of standard deviation 1.5
NOISE_SCALE = 1.5
IMAGES_PER_STEP = 64
LEARNING_RATE = 3e-3
# (images a prompt, steps, label noise). From one image straight to eight, where the model has to bind
# images to their numbers; it learns that only while an image keeps its label. The noise, with which replies
# get some entropy, comes back with the mix.
CURRICULUM = ((1, 200, LABEL_NOISE), (8, 1100, 0.0))
MIX = {1: 0.15, 2: 0.45, 4: 0.25, 8: 0.15}
MIX_STEPS = 1000
STEPS = sum(steps for _, steps, _ in CURRICULUM) + MIX_STEPS


@dataclass(frozen=True)
class _Prompt:
    """What is the same in every prompt of so many images: token ids and 3-D positions (3, length)."""

    ids: list[int]
    positions: torch.Tensor


def pretrain(
    task: Task,
    images: Sequence[tuple[Image, float]],
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[Any, Any]:
    """Train the embedded base.

    Args:
        task: what the prompts ask for; also what the tokenizer is made from.
        images: (image, value) pairs; the image processor must make one grid of patches of them all, as it
            does where they are of one size.
        seed: of the weights, the images, the noise and the order.
        on_step: called after each step with the number of steps done and the loss.

    Returns:
        The model, in eval mode, and its processor.

    Raises:
        DataError: if there are no images, or their grids differ.
    """
    if not images:
        raise DataError("pre-training needs images, and there are none")
    processor = build_processor(task)
    model = build_model(processor, seed)
    generator = random.Random(f"{seed}:pretraining")
    features = processor.image_processor([image for image, _ in images], return_tensors="pt")
    grid = features["image_grid_thw"]
    for (image, _), other in zip(images, grid, strict=True):
        if not torch.equal(other, grid[0]):
            raise DataError(
                "pre-training needs images of one size: the first is {} x {} pixels, another {} x {}".format(
                    *images[0][0].size, *image.size
                )
            )
    patches = features["pixel_values"].view(len(images), -1, features["pixel_values"].shape[-1])
    values = [_noisy(value, task, MISLABELED, generator) for _, value in images]

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
    )
    prompts: dict[int, _Prompt] = {}
    model.train()
    for step, (count, noise) in enumerate(_schedule(generator)):
        batch = [
            [generator.randrange(len(images)) for _ in range(count)] for _ in range(IMAGES_PER_STEP // count)
        ]
        noisy = [[_noisy(values[index], task, noise, generator) for index in group] for group in batch]
        loss = _loss(model, processor, task, prompts, batch, noisy, patches, grid)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    return model.eval(), processor


def build_base(
    out: Path,
    task: Task,
    images: Sequence[tuple[Image, float]],
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> Path:
    """`pretrain`, saved as a model folder that `from_pretrained` loads. Returns `out`."""
    model, processor = pretrain(task, images, seed, on_step)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def _schedule(generator: random.Random) -> list[tuple[int, float]]:
    """The number of images and the label noise of each step."""
    mixed = generator.choices(list(MIX), list(MIX.values()), k=MIX_STEPS)
    return [(count, noise) for count, steps, noise in CURRICULUM for _ in range(steps)] + [
        (count, LABEL_NOISE) for count in mixed
    ]


def _noisy(value: float, task: Task, noise: float, generator: random.Random) -> float:
    if generator.random() >= noise:
        return value
    return task.nearest(value + task.step * round(generator.gauss(0, NOISE_SCALE)))


def _loss(
    model: Any,
    processor: Any,
    task: Task,
    prompts: dict[int, _Prompt],
    batch: list[list[int]],
    values: list[list[float]],
    patches: torch.Tensor,
    grid: torch.Tensor,
) -> torch.Tensor:
    """Mean cross-entropy of the replies' tokens. Every group of the batch has the same number of images."""
    tokenizer = processor.tokenizer
    count = len(batch[0])
    if count not in prompts:
        prompts[count] = _prompt(model, processor, task, grid[0], count)
    prompt = prompts[count]
    replies = [
        tokenizer.encode(reference_reply(group, task.step) + tokenizer.eos_token, add_special_tokens=False)
        for group in values
    ]
    width = max(len(reply) for reply in replies)
    ids = torch.tensor(
        [prompt.ids + reply + [tokenizer.pad_token_id] * (width - len(reply)) for reply in replies]
    )
    mask = ids != tokenizer.pad_token_id
    labels = ids.masked_fill(~mask, -100)
    labels[:, : len(prompt.ids)] = -100
    # Text after the prompt goes on from its last position, alike in all three dimensions.
    tail = prompt.positions.max() + 1 + torch.arange(width)
    positions = torch.cat([prompt.positions, tail.expand(3, -1)], dim=1)
    flat = torch.tensor([index for group in batch for index in group])
    output = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions[:, None].expand(-1, len(batch), -1),
        pixel_values=patches[flat].flatten(0, 1),
        image_grid_thw=grid[flat],
        labels=labels,
        use_cache=False,
    )
    return output.loss


def _prompt(model: Any, processor: Any, task: Task, grid: torch.Tensor, count: int) -> _Prompt:
    """The prompt of `count` images, each of `grid` (frames, rows and columns of patches, shape (3,))."""
    text = processor.apply_chat_template(
        messages(count, task.rule, task.value_range), tokenize=False, add_generation_prompt=True
    )
    tokens = int(grid.prod()) // processor.image_processor.merge_size**2
    text = text.replace(processor.image_token, processor.image_token * tokens)
    ids = torch.tensor([processor.tokenizer.encode(text, add_special_tokens=False)])
    positions, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == processor.image_token_id).int(),
        image_grid_thw=grid.expand(count, 3),
        attention_mask=torch.ones_like(ids),
    )
    return _Prompt(ids[0].tolist(), positions[:, 0])


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
