"""The second part of a base's pre-training: with the tower frozen, the language model learns to write
replies. In half of the lists the reasoning is made up and only the rest of the reply is learned, so the
answer must come from what the reply itself said. Auxiliary losses show the layers what to find and where to
look; without them, binding values to images takes many times as long. Their classifiers are thrown away."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rarl.method.prompts import messages
from rarl.method.replies import END_THINK, reference_reply
from rarl.method.tasks import Task
from rarl.models.pretraining.tower import TOWER_STEPS, SeenImages, cosine_schedule, linear_head

# (steps, weight of each number of images in a prompt). Two images are enough to learn to bind an image to its
# number. Every number is trained, because the model hardly ever answers one that is not.
CURRICULUM: tuple[tuple[int, dict[int, float]], ...] = (
    (60, {1: 1}),
    (120, {2: 1}),
    (100, {2: 1, 3: 1, 4: 3}),
    (2000, {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1.5, 7: 1.5, 8: 4}),
)
# The values in the replies are drawn from the tower's predictions: first from sharper ones, which are learned
# sooner, and in the last steps from those as they are, which gives the replies their entropy.
ROUGH_STEPS = 400
MADE_UP = 0.5  # share of the lists whose reasoning is made up
LEARNING_RATE = 3e-3
IMAGES_PER_STEP = 128
AUXILIARY = 0.3  # weight of the auxiliary losses

LARGEST_LIST = 8
_SAID = re.compile(r"Picture (\d+): ")
_LISTED = re.compile(r'"image_id": (\d+), "value": ')


@dataclass(frozen=True)
class _Prompt:
    """What is the same in every prompt of so many images: token ids and 3-D positions (3, length)."""

    ids: list[int]
    positions: Tensor


@dataclass(frozen=True)
class _Marks:
    """Where the things that matter stand in a reply, as numbers of tokens from its first.

    Attributes:
        ids: the reply's tokens.
        thought: how many of them are the reasoning, without the token in which it ends.
        said: of picture 1..N, the value in the reasoning.
        order: the pictures in listed order, from 0.
        listed: in listed order, the `image_id`.
        given: in listed order, the value.
    """

    ids: list[int]
    thought: int
    said: list[int]
    order: list[int]
    listed: list[int]
    given: list[int]


class _Guides(nn.Module):
    """The heads of the auxiliary losses."""

    def __init__(self, hidden: int, values: int) -> None:
        super().__init__()
        # From an image and from a value in the reasoning: the picture's number.
        self.image = linear_head(hidden, LARGEST_LIST)
        self.said = linear_head(hidden, LARGEST_LIST)
        # From where the next picture of the answer is chosen: the last one, its value, and the next value.
        self.last = linear_head(hidden, LARGEST_LIST)
        self.last_value = linear_head(hidden, values)
        self.next_value = linear_head(hidden, values)
        # From where the reasoning is about to tell a value: that value.
        self.seen = linear_head(hidden, values)


def train_replies(
    model: Any,
    processor: Any,
    task: Task,
    seen: SeenImages,
    grid: Tensor,
    generator: random.Random,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """Trains everything but the vision tower to write replies.

    Args:
        model, processor: the embedded model; its tower is trained.
        task: what the prompts ask for.
        seen: the images.
        grid: frames, rows and columns of patches of every image, shape (3,).
        generator: draws the lists.
        on_step: called after each step with the number of steps done, the tower's included, and the loss.
    """
    values = task.grid
    guides = _Guides(model.config.text_config.hidden_size, len(values))
    weights = [
        *(weight for name, weight in model.named_parameters() if ".visual." not in name),
        *guides.parameters(),
    ]
    counts = _schedule(generator)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = cosine_schedule(optimizer, len(counts), warmup=50)
    prompts: dict[int, _Prompt] = {}
    model.set_attn_implementation({"text_config": "eager"})  # which tells where it looked
    model.train()
    for step, count in enumerate(counts):
        if count not in prompts:
            prompts[count] = _prompt(model, processor, task, grid, count)
        number = max(1, IMAGES_PER_STEP // max(2, count))
        batch = torch.tensor(
            [[generator.randrange(len(seen.tokens)) for _ in range(count)] for _ in range(number)]
        )
        predicted = (seen.predicted if len(counts) - step <= ROUGH_STEPS else seen.sharp)[batch]
        drawn = torch.multinomial(predicted.flatten(0, 1), 1).view(number, count)
        made_up = torch.tensor([count > 1 and generator.random() < MADE_UP for _ in range(number)])
        drawn = torch.where(made_up[:, None], torch.randint(len(values), drawn.shape), drawn)
        loss, auxiliary = _loss(
            model, processor, task, guides, prompts[count], seen.tokens[batch], predicted, drawn, made_up
        )
        optimizer.zero_grad()
        (loss + AUXILIARY * auxiliary).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(TOWER_STEPS + step + 1, loss.item())
    model.set_attn_implementation({"text_config": "sdpa"})


def reply_steps() -> int:
    """How many steps `train_replies` takes."""
    return sum(steps for steps, _ in CURRICULUM)


def _schedule(generator: random.Random) -> list[int]:
    """The number of images of each step that trains replies."""
    return [
        count
        for steps, weights in CURRICULUM
        for count in generator.choices(list(weights), list(weights.values()), k=steps)
    ]


def _loss(
    model: Any,
    processor: Any,
    task: Task,
    guides: _Guides,
    prompt: _Prompt,
    tokens: Tensor,
    predicted: Tensor,
    drawn: Tensor,
    made_up: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the replies' tokens, and the sum of the auxiliary losses.

    Args:
        tokens: (lists, images, tokens of each, hidden size).
        predicted: (lists, images, values), what the tower predicts for them.
        drawn: (lists, images), the number of the value that the reply gives each image.
        made_up: which lists' reasoning is not to be learned.
    """
    rows, count = drawn.shape
    grid = task.grid
    tokenizer, language = processor.tokenizer, model.model.language_model
    replies = [_marks(tokenizer, [grid[number] for number in row], task) for row in drawn.tolist()]
    width, length = max(len(reply.ids) for reply in replies), len(prompt.ids)
    ids = torch.tensor([reply.ids + [tokenizer.pad_token_id] * (width - len(reply.ids)) for reply in replies])
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    thought = torch.tensor([reply.thought for reply in replies])
    labels[made_up[:, None] & (torch.arange(width) < thought[:, None])] = -100

    head = torch.tensor(prompt.ids)
    where = (head == processor.image_token_id).nonzero()[:, 0].view(count, -1)
    embedded = language.embed_tokens(torch.cat([head.expand(rows, -1), ids[:, :-1]], dim=1))
    embedded = embedded.index_copy(1, where.flatten(), tokens.flatten(1, 2))
    # Text after the prompt goes on from its last position, alike in all three dimensions.
    tail = prompt.positions.max() + 1 + torch.arange(width - 1)
    positions = torch.cat([prompt.positions, tail.expand(3, -1)], dim=1)
    output = language(
        inputs_embeds=embedded,
        position_ids=positions[:, None].expand(-1, rows, -1),
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
    )
    logits = model.lm_head(output.last_hidden_state[:, length - 1 :])
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    if count == 1:
        return loss, loss.new_zeros(())

    _, first, second, *_ = output.hidden_states
    looked = output.attentions
    row = torch.arange(rows)[:, None]
    number = torch.arange(count).expand(rows, -1)
    said = length + torch.tensor([reply.said for reply in replies])
    order = torch.tensor([reply.order for reply in replies])
    choice = length - 1 + torch.tensor([reply.listed for reply in replies])  # where an id is to be written
    answer = length - 1 + torch.tensor([reply.given for reply in replies])  # and where its value is
    values, source = drawn.gather(1, order), said.gather(1, order)
    auxiliary = [
        # The first layer knows where it is.
        _of_class(guides.image(first[:, where]), number[..., None].expand(-1, -1, where.shape[1])),
        _of_class(guides.said(first[row, said]), number),
        _of_class(guides.last(first[row, choice[:, 1:]]), order[:, :-1]),
        _of_class(guides.last_value(first[row, choice[:, 1:]]), values[:, :-1]),
        # The second knows what comes next.
        _of_class(guides.next_value(second[row, choice]), values),
        # One head of each looks where the answer is to be found: a value at its image or in the reasoning,
        # the next picture at its value in the reasoning.
        _nothing_elsewhere(looked[1][row[..., None], 0, (said - 1)[..., None], where].sum(-1)),
        _nothing_elsewhere(looked[1][row, 1, choice, source]),
        _nothing_elsewhere(looked[2][row, 1, choice, source]),
        _nothing_elsewhere(looked[2][row, 0, answer, source]),
        _nothing_elsewhere(looked[-1][row, 0, choice, source]),
    ]
    learned = ~made_up
    if learned.any():
        told = guides.seen(second[row, said - 1])[learned]
        auxiliary.append(functional.cross_entropy(told.flatten(0, 1), predicted[learned].flatten(0, 1)))
    return loss, torch.stack(auxiliary).sum()


def _marks(tokenizer: Any, values: Sequence[float], task: Task) -> _Marks:
    """The reference reply for these values as tokens, and where is what in it."""
    text = reference_reply(values, task.step) + tokenizer.eos_token
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    end = text.index(END_THINK)
    listed = list(_LISTED.finditer(text))
    return _Marks(
        ids=encoded["input_ids"],
        thought=sum(last <= end for _, last in encoded["offset_mapping"]),
        said=[encoded.char_to_token(found.end()) for found in _SAID.finditer(text)],
        order=[int(found[1]) - 1 for found in listed],
        listed=[encoded.char_to_token(found.start(1)) for found in listed],
        given=[encoded.char_to_token(found.end()) for found in listed],
    )


def _prompt(model: Any, processor: Any, task: Task, grid: Tensor, count: int) -> _Prompt:
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


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, -2), classes.flatten())


def _nothing_elsewhere(attention: Tensor) -> Tensor:
    """The loss of a head that should look at one place, from the share of its attention that is there."""
    return -(attention + 1e-6).log().mean()
