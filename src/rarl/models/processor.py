"""Qwen2.5-VL's processor for images and text, without videos; what any processor's chat template begins of
a reply; and the length of a prompt in tokens, computed without an image. The class in transformers insists on
a video processor, which needs torchvision. This one does the same without it, and writes folders that either
class can read. It is used where torchvision is installed, too, so that a prompt is read the same way on every
machine."""

from typing import Any

from transformers import ProcessorMixin, Qwen2_5_VLProcessor

from rarl.data.opening import Resizing
from rarl.errors import DataError, ModelError
from rarl.method.prompts import messages
from rarl.method.replies import ANSWER, END_ANSWER, END_THINK, THINK, opening_of


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """`Qwen2_5_VLProcessor` without videos."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
    ) -> None:
        self.image_token = "<|image_pad|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # This skips the __init__ of Qwen2_5_VLProcessor, which asks for a video processor (transformers
        # 5.23).
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self) -> dict[str, Any]:
        """The contents of `processor_config.json`, with the video processor that AutoProcessor looks for."""
        fields = super().to_dict()
        same = {
            key: fields["image_processor"][key] for key in ("merge_size", "patch_size", "temporal_patch_size")
        }
        return fields | {"video_processor": {"video_processor_type": "Qwen2VLVideoProcessor", **same}}


# transformers 5.23 writes this name into a saved folder. AutoProcessor, in any program, must know the name:
# for an unknown class it silently returns the tokenizer alone.
ImageTextProcessor.__name__ = Qwen2_5_VLProcessor.__name__


def image_text_processor(image_processor: Any, tokenizer: Any, chat_template: str | None) -> ProcessorMixin:
    """Joins an image processor, a tokenizer and a chat template to one processor."""
    return ImageTextProcessor(image_processor, tokenizer, chat_template=chat_template)


def reply_opening(processor: Any, **template: Any) -> str:
    """What the chat template begins of every reply, such as `<think>` and a line break; mostly nothing. See
    `rarl.method.replies.opening_of`.

    Args:
        template: further arguments of the chat template, such as `enable_thinking`.

    Raises:
        ModelError: if the template begins replies in a way that can't be read, or the tokenizer's special
            tokens include a tag of the reply, which would then be missing in its text.
    """
    tags = (THINK, END_THINK, ANSWER, END_ANSWER)
    tokenizer = getattr(processor, "tokenizer", processor)
    hidden = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if special := [tag for tag in tags if tag in hidden]:
        raise ModelError(
            f"the tokenizer takes {', '.join(special)} for a special token, and replies are read without "
            'these: make it an ordinary added token ("special": false) in tokenizer.json and '
            "tokenizer_config.json"
        )
    prompt = messages(1, "x", "0-1")
    text = processor.apply_chat_template([prompt], tokenize=False, add_generation_prompt=True, **template)[0]
    opening = opening_of(text)
    # The system prompt of Table 1 has all tags, so only what follows the question is looked at.
    added = text.removesuffix(opening).rpartition(prompt[-1]["content"][-1]["text"])[2]
    if strange := [tag for tag in tags if tag in added]:
        raise ModelError(
            f"the chat template begins every reply with {added + opening!r}: of {', '.join(strange)} "
            f"it may only have {THINK}, text, and {END_THINK} at its very end; change the chat template"
        )
    return opening


def image_tokens(processor: Any, width: int, height: int) -> int:
    """Counts the tokens of an image of `width` x `height` pixels in a prompt. No image is needed.

    Raises:
        ModelError: if the processor can't tell.
        DataError: if the processor refuses images of that shape.
    """
    image_processor = getattr(processor, "image_processor", None)
    patches_of = getattr(image_processor, "get_number_of_image_patches", None)
    side = getattr(image_processor, "merge_size", None)
    if patches_of is None or side is None:
        kind = type(image_processor or processor).__name__
        raise ModelError(
            f"{kind} can't say how many tokens an image is: it has no get_number_of_image_patches and "
            "merge_size, as the processors of Qwen2-VL and Qwen2.5-VL do"
        )
    try:
        return int(patches_of(height, width, {})) // int(side) ** 2
    except ValueError as error:  # transformers 5.23: one side is more than 200 times the other
        raise DataError(
            f"an image of {width} x {height} pixels is not for this model ({error}); crop it or leave it out"
        ) from error


def resizing_of(processor: Any) -> Resizing | None:
    """How the processor resizes images, where that can be done before it to the same pixels: with Pillow, as
    Qwen2-VL and Qwen2.5-VL (transformers 5.23). None for any other, such as those that resize with
    torchvision.
    """
    kind: Any = getattr(processor, "image_processor", None)
    if type(kind).__name__ != "Qwen2VLImageProcessorPil" or not kind.do_resize:
        return None
    return Resizing(
        factor=kind.patch_size * kind.merge_size,
        least=kind.size["shortest_edge"],
        most=kind.size["longest_edge"],
        resample=int(kind.resample),
    )


def prompt_tokens(processor: Any, rule: str, value_range: str, count: int) -> int:
    """Counts the tokens of the prompt for `count` images, without the tokens of the images themselves.

    Raises:
        ModelError: if the processor can't tell.
        ConfigError: if `count` is less than 1.
    """
    prompt = messages(count, rule, value_range)
    placeholder = getattr(processor, "image_token_id", None)
    if placeholder is None or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"{type(processor).__name__} can't say how many tokens a prompt is: no image_token_id"
        )
    text = processor.apply_chat_template([prompt], tokenize=False, add_generation_prompt=True)
    tokens = processor.tokenizer(text)["input_ids"][0]
    return len(tokens) - tokens.count(placeholder)
