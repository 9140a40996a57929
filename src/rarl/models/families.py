"""The families of vision-language models whose processors are built here, one row each: how many tokens an
image is in a prompt, and how its pixels are limited. transformers' own classes insist on a video processor,
which needs torchvision, and SmolVLM's on num2words; these read images and text alone, and write folders that
either class can read. Images are always read with Pillow, also where torchvision is installed, so that a
prompt is the same on every machine. How a family's layers work is transformers'; nothing is loaded here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import (
    Gemma3Processor,
    Idefics3Processor,
    InternVLProcessor,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    SmolVLMProcessor,
)

from rarl.errors import ConfigError

# ── tokens of an image, and the limit of its pixels ──────────────────────────────────────────────────────


def _patch_tokens(processor: Any, width: int, height: int) -> int:
    """Qwen: the image keeps its shape, and `merge_size` x `merge_size` patches are a token."""
    image_processor = processor.image_processor
    return image_processor.get_number_of_image_patches(height, width, {}) // image_processor.merge_size**2


def _limit_patches(image_processor: Any, pixels: int) -> None:
    least = image_processor.size["shortest_edge"]  # transformers' names for pixels of an image, not of edges
    if pixels < least:
        raise ConfigError(f"pixels: must be at least {least}, which this model makes of smaller images")
    most = min(pixels, image_processor.size["longest_edge"])
    image_processor.size = {"shortest_edge": least, "longest_edge": most}


def _split_tokens(processor: Any, width: int, height: int) -> int:
    """Idefics3 and SmolVLM: squares in rows and columns, each with two marks, and then the whole image."""
    _, rows, columns = processor.image_processor.get_number_of_image_patches(height, width, {})
    length, tokenizer = processor.image_seq_len, processor.tokenizer
    # A line ends a row, and another one the rows: some tokenizers make one token of the last two.
    end = len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) - 1 if rows else 0
    return length + 3 + end + rows * (columns * (length + 2) + 1)


def _limit_split(image_processor: Any, pixels: int) -> None:
    square = image_processor.max_image_size["longest_edge"]
    # The longer side becomes this long, also that of a small image.
    edge = max(int(pixels**0.5) // square, 1) * square
    image_processor.size = {"longest_edge": min(edge, image_processor.size["longest_edge"])}


def _tile_tokens(processor: Any, width: int, height: int) -> int:
    """InternVL: tiles of one size, a small image of the whole where there are several, and two marks."""
    tiles = processor.image_processor.get_number_of_image_patches(height, width, processor.images_kwargs)
    return processor.image_seq_length * tiles + 2


def _limit_tiles(image_processor: Any, pixels: int) -> None:
    most = pixels // (image_processor.size["height"] * image_processor.size["width"])
    image_processor.max_patches = min(max(most, 1), image_processor.max_patches)
    image_processor.min_patches = min(image_processor.min_patches, image_processor.max_patches)


def _square_tokens(processor: Any, width: int, height: int) -> int:
    """Gemma 3: every image is one square, with two marks and two lines around them."""
    lines = 2 * len(processor.tokenizer("\n\n", add_special_tokens=False)["input_ids"])
    return processor.image_seq_length + 2 + lines


def _limit_squares(image_processor: Any, pixels: int) -> None:
    pass  # every image has as many tokens, and no fewer are possible


# ── the families ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Family:
    """How a family's processor reads images.

    Attributes:
        processor: the class, without videos.
        tokens: `tokens(processor, width, height)`, those of an image in place of its placeholder.
        limit: `limit(image_processor, pixels)` makes images smaller that are larger. Of an image the model
            may still be given more pixels where its smallest unit is larger.
        options: what `processor_config.json` may say beside images and text.
    """

    processor: type[ProcessorMixin]
    tokens: Callable[[Any, int, int], int]
    limit: Callable[[Any, int], None]
    options: tuple[str, ...] = ()


class _WithoutVideos:
    """Goes before a processor's class. transformers 5.23 makes a processor of the parts that
    `get_attributes` names; it then ignores the video processor, and so does what it saves."""

    video_processor_type: str

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def to_dict(self) -> dict[str, Any]:
        """The contents of `processor_config.json`, with the video processor that AutoProcessor looks for."""
        fields: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        same = ("merge_size", "patch_size", "temporal_patch_size")
        sizes = {key: fields["image_processor"][key] for key in same if key in fields["image_processor"]}
        return fields | {"video_processor": {"video_processor_type": self.video_processor_type, **sizes}}


def _without_videos(base: type[ProcessorMixin], video_processor_type: str) -> type[ProcessorMixin]:
    # The name stands in a saved folder. AutoProcessor, in any program, must know it: for an unknown class it
    # silently returns the tokenizer alone.
    return type(base.__name__, (_WithoutVideos, base), {"video_processor_type": video_processor_type})


class _SmolVLM(_WithoutVideos, SmolVLMProcessor):
    """`SmolVLMProcessor` without videos, and without num2words, which only they need."""

    video_processor_type = "SmolVLMVideoProcessor"

    def __init__(
        self, image_processor: Any, tokenizer: Any, image_seq_len: int = 169, chat_template: str | None = None
    ) -> None:
        self.fake_image_token = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        self.image_token = getattr(tokenizer, "image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.end_of_utterance_token = getattr(tokenizer, "end_of_utterance_token", "<end_of_utterance>")
        self.global_image_token = getattr(tokenizer, "global_image_token", "<global-img>")
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return ProcessorMixin.apply_chat_template(self, *args, **kwargs)


_SmolVLM.__name__ = SmolVLMProcessor.__name__

_QWEN2_5_VL = _without_videos(Qwen2_5_VLProcessor, "Qwen2VLVideoProcessor")
_QWEN2_VL = _without_videos(Qwen2VLProcessor, "Qwen2VLVideoProcessor")
_QWEN3_VL = _without_videos(Qwen3VLProcessor, "Qwen3VLVideoProcessor")
_INTERNVL = _without_videos(InternVLProcessor, "InternVLVideoProcessor")

FAMILIES = {
    "qwen2_vl": Family(_QWEN2_VL, _patch_tokens, _limit_patches),
    "qwen2_5_vl": Family(_QWEN2_5_VL, _patch_tokens, _limit_patches),
    "qwen3_vl": Family(_QWEN3_VL, _patch_tokens, _limit_patches),
    "gemma3": Family(Gemma3Processor, _square_tokens, _limit_squares, ("image_seq_length",)),
    "smolvlm": Family(_SmolVLM, _split_tokens, _limit_split, ("image_seq_len",)),
    "idefics3": Family(Idefics3Processor, _split_tokens, _limit_split, ("image_seq_len",)),
    "internvl": Family(_INTERNVL, _tile_tokens, _limit_tiles, ("image_seq_length",)),
}
"""By the `model_type` of a model's config."""


_NONE: Mapping[str, Any] = MappingProxyType({})


def family_of(processor: Any) -> Family | None:
    """The family that a processor is of. One of no known class that counts patches as Qwen's do is read as
    theirs. None for any other."""
    name = type(processor).__name__
    for family in FAMILIES.values():
        if family.processor.__name__ == name:
            return family
    image_processor = getattr(processor, "image_processor", None)
    counts = all(hasattr(image_processor, each) for each in ("get_number_of_image_patches", "merge_size"))
    return FAMILIES["qwen2_5_vl"] if counts else None


def family_processor(
    kind: str, image_processor: Any, tokenizer: Any, template: str | None, options: Mapping[str, Any] = _NONE
) -> ProcessorMixin:
    """Joins an image processor, a tokenizer and a chat template to the processor of a family.

    Args:
        kind: the `model_type`, a key of `FAMILIES`.
        options: what `processor_config.json` says; what is not of the family is ignored.
    """
    family = FAMILIES[kind]
    given = {key: options[key] for key in family.options if key in options}
    return family.processor(image_processor, tokenizer, chat_template=template, **given)
