"""How long the prompts of a run's stages are: over the very groups that the stages will draw from the
collection, or, where that is not there yet, for images of one declared size. Only headers of image files are
read. Where the model's tokenizer is not at hand the text is estimated, and the plan says so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import transformers

from rarl.data.collection import load_collection
from rarl.data.groups import Group
from rarl.data.images import Size
from rarl.data.sources.digits import SIZE as DIGIT_SIDE
from rarl.errors import ConfigError, ModelError
from rarl.method.prompts import messages
from rarl.models.families import FAMILIES
from rarl.models.limits import prompt_lengths
from rarl.models.loading import load_processor
from rarl.models.processor import image_tokens, limit_pixels, prompt_tokens
from rarl.plan.architecture import known_models, model_config
from rarl.training.checking import check_task
from rarl.training.config import RunConfig, stage_groups
from rarl.training.sections import Stage

# Of the prompts of Table 1 and Qwen2.5-VL's tokenizer: characters in a token of the instructions, tokens that
# announce an image, and those of the chat template. For the paper's three tasks it is right to 4 %.
CHARACTERS, ANNOUNCING, TEMPLATE = 4.4, 7, 8


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts with one number of images.

    Attributes:
        prompts: how many there are.
        least, median, most: tokens of a prompt, text and images.
        of_images: tokens of the images alone, in the longest.
    """

    images: int
    prompts: int
    least: int
    median: int
    most: int
    of_images: int


@dataclass(frozen=True)
class Reading:
    """How the run's model reads prompts, and what of it is estimated.

    Attributes:
        processor: of the model; where it isn't at hand, one that only counts the tokens of images.
        text: `text(rule, value range, images)`, the tokens of a prompt without its images.
        notes: what the plan must say of it.
    """

    processor: Any
    text: Callable[[str, str, int], int]
    notes: tuple[str, ...] = ()


def reading_of(config: RunConfig) -> Reading:
    """How the run's model reads prompts.

    Raises:
        ModelError: if neither its processor nor what ships of it can say how long an image is.
        ConfigError: if it can't take images of so few `pixels`.
    """
    try:
        processor: Any = load_processor(config.model, config.pixels)
        return Reading(processor, lambda *of: prompt_tokens(processor, *of))
    except ModelError:
        if config.model not in known_models():
            raise
    known = known_models()[config.model]
    family = FAMILIES[model_config(config.model).model_type]
    kind = {"smolvlm": "SmolVLMImageProcessorPil"}.get(
        known["config"]["model_type"], "Qwen2VLImageProcessorPil"
    )
    # Only what counts tokens is looked at; "\n\n" is one token of their tokenizers.
    processor = type(family.processor.__name__, (SimpleNamespace,), {})(
        image_processor=getattr(transformers, kind)(**known["images"]),
        tokenizer=lambda text, **_: {"input_ids": [0]},
        **known.get("options", {}),
    )
    if config.pixels is not None:
        limit_pixels(processor, config.pixels)
    note = "the tokenizer is not on this machine: the texts of prompts are estimated"
    if known["config"]["model_type"] != "smolvlm":
        note += ", to 4 %"
    return Reading(processor, _estimated_text, (note,))


def _estimated_text(rule: str, value_range: str, count: int) -> int:
    parts = [part for message in messages(count, rule, value_range) for part in message["content"]]
    characters = sum(len(part.get("text", "")) for part in parts) - len("Picture 1: ") * count
    return round(characters / CHARACTERS) + TEMPLATE + ANNOUNCING * count


def stage_lengths(
    config: RunConfig, stage: Stage, reading: Reading, size: Size | None
) -> tuple[list[Lengths], tuple[str, ...]]:
    """The lengths of a stage's prompts by their number of images, ascending, and what must be said of them.

    Args:
        size: of every image, in pixels; None: that of the collection's images.

    Raises:
        ConfigError: if there is neither a collection nor a size, or the collection is of another task.
        DataError: if the collection can't be read.
    """
    if size is None and config.data is not None and config.data.exists():
        collection = load_collection(config.data)
        check_task(config, collection)
        groups = stage_groups(config, stage, collection.split("train"))
        return _of_groups(config, groups, reading), ()
    size, note = _declared(config, size)
    one = image_tokens(reading.processor, *size)
    prompts, found = config.prompts_of(stage), []
    for count in sorted(set(stage.images)):
        share = stage.images.count(count) / len(stage.images)
        whole = reading.text(config.task.rule, config.task.value_range, count) + count * one
        found.append(Lengths(count, round(prompts * share), whole, whole, whole, count * one))
    return found, note


def _declared(config: RunConfig, size: Size | None) -> tuple[Size, tuple[str, ...]]:
    if size is not None:
        return size, (f"every image is counted as {size[0]} x {size[1]} pixels",)
    if config.data is None:
        return (DIGIT_SIDE, DIGIT_SIDE), ()
    if config.pixels is None:
        raise ConfigError(
            f"data: {config.data} is not there, so say how large its images are: --image-size 640x480, or "
            "`pixels`, the most that one has in a prompt"
        )
    side = int(config.pixels**0.5)
    return (side, side), (
        f"{config.data} is not there: every image is counted as {side} x {side}, as many as `pixels` allows",
    )


def _of_groups(config: RunConfig, groups: Sequence[Group], reading: Reading) -> list[Lengths]:
    texts: dict[tuple[str, int], int] = {}
    by_count: dict[int, list[tuple[int, int]]] = {}
    for group, of_images in zip(groups, prompt_lengths(reading.processor, groups), strict=True):
        key = (group.rule or config.task.rule, len(group.rows))
        if key not in texts:
            texts[key] = reading.text(key[0], config.task.value_range, key[1])
        by_count.setdefault(key[1], []).append((texts[key] + of_images, of_images))
    found = []
    for count, lengths in sorted(by_count.items()):
        ranked = sorted(lengths)
        most, of_images = ranked[-1]
        median = ranked[len(ranked) // 2][0]
        found.append(Lengths(count, len(ranked), ranked[0][0], median, most, of_images))
    return found
