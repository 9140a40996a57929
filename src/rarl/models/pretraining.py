"""Makes the embedded base (`rarl base --seed N OUT`), the small model that RL starts from on a CPU. The base
is pre-trained with supervision on images that are mostly mislabelled, so its replies have the right format
and rough values, as the replies of a general model do. It sees only the `pretrain` split; its level is
designed, not measured. The base of seed 0 on digits ships with the package (`models/tiny_base`), and
`copy_base` copies it. The method and the paper's numbers don't depend on this module: any vision-language
model can take the base's place."""

import math
import random
import shutil
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
from rarl.files import counted, finish, unfinished
from rarl.method.prompts import messages
from rarl.method.replies import reference_reply
from rarl.method.tasks import Task
from rarl.models.loading import BASE_FOLDER, use_one_thread
from rarl.models.tiny import build_model, build_processor

MISLABELED = 0.8  # share of images whose label is moved once, for the whole pre-training
LABEL_NOISE = 0.35  # share of labels that are moved anew at each step
NOISE_SCALE = 1.5  # standard deviation of a move, in steps of the task's grid, before rounding
IMAGES_PER_STEP = 64
LEARNING_RATE = 3e-3
# (images per prompt, steps, label noise). Training goes from one image straight to eight, where the model
# must bind each image to its number. It learns that only while an image keeps its label. The label noise
# returns with the mix below and gives the replies some entropy.
CURRICULUM = ((1, 200, LABEL_NOISE), (8, 1100, 0.0))
MIX = {1: 0.15, 2: 0.45, 4: 0.25, 8: 0.15}
MIX_STEPS = 1000
STEPS = sum(steps for _, steps, _ in CURRICULUM) + MIX_STEPS


@dataclass(frozen=True)
class _Prompt:
    """What all prompts with one number of images share: token ids, and 3-D positions of shape (3, tokens)."""

    ids: list[int]
    positions: torch.Tensor


def pretrain(
    task: Task,
    images: Sequence[tuple[Image, float]],
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[Any, Any]:
    """Trains the embedded base.

    Args:
        task: what the prompts ask for. The tokenizer is made from it, too.
        images: (image, value) pairs. The image processor must cut all of them into the same grid of patches,
            as it does for images of one size.
        seed: decides the weights, the images, the noise and the order.
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
    """Runs `pretrain` and saves the result as a model folder for `from_pretrained`. Returns `out`."""
    model, processor = pretrain(task, images, seed, on_step)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def _schedule(generator: random.Random) -> list[tuple[int, float]]:
    """Returns the number of images and the label noise of each step."""
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
    """Mean cross-entropy of the replies' tokens, in nats. All groups of a batch have the same number of
    images."""
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
    # Text after the prompt counts on from the prompt's last position, the same in all three dimensions.
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
    """The prompt for `count` images, each of the grid `grid` (3,): frames, rows and columns of patches."""
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


def copy_base(out: Path) -> Path:
    """Copies the base that ships with the package (seed 0, digits) to `out`, completely or not at all."""
    temporary = unfinished(out)
    shutil.copytree(BASE_FOLDER, temporary, dirs_exist_ok=True)
    return finish(temporary, out)


def make_base(out: Path, seed: int, console: Console, collection: Collection | None = None) -> Path:
    """Builds the embedded base of a seed from a collection's `pretrain` split, completely or not at all.

    Args:
        out: the model folder to write.
        seed: see `pretrain`.
        console: where the progress bar goes.
        collection: where the split comes from; None means the digits.

    Raises:
        DataError: if there is no such split, it has orders and no values, or its images differ in size.
    """
    use_one_thread()
    with TemporaryDirectory() as folder:
        data = collection or prepare_digits(Path(folder) / "digits")
        if not data.knows_values("pretrain"):
            raise DataError(f"{data.root / 'pretrain'} has only orders, and a base is trained on values")
        images = [(open_image(row.path), row.value) for row in data.split("pretrain")]
    with counted(console, "base") as progress:
        temporary = unfinished(out)
        build_base(temporary, data.task, images, seed, lambda done, _: progress(done, STEPS))
        (temporary / TASK_FILE).write_text(task_text(data.task), encoding="utf-8")
    return finish(temporary, out)
