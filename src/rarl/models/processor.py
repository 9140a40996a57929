"""What a processor makes of a prompt: what its chat template begins of a reply, the length of a prompt in
tokens, computed without an image, and the limit of an image's pixels. Processors are built in `families`."""

from typing import Any

from rarl.data.opening import Resizing
from rarl.errors import DataError, ModelError
from rarl.method.prompts import messages
from rarl.method.replies import ANSWER, END_ANSWER, END_THINK, THINK, opening_of
from rarl.models.families import FAMILIES, family_of


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
    family = family_of(processor)
    if family is None:
        raise ModelError(
            f"{type(processor).__name__} can't say how many tokens an image is: known are the processors of "
            f"{', '.join(FAMILIES)}"
        )
    try:
        return family.tokens(processor, width, height)
    except ValueError as error:  # transformers 5.23: one side is more than 200 times the other
        raise DataError(
            f"an image of {width} x {height} pixels is not for this model ({error}); crop it or leave it out"
        ) from error


def resizing_of(processor: Any) -> Resizing | None:
    """How a processor, or the image processor in it, resizes images, where that can be done before it to
    the same pixels: with Pillow, as Qwen2-VL and Qwen2.5-VL (transformers 5.23). None for any other, such as
    those that resize with torchvision.
    """
    kind: Any = getattr(processor, "image_processor", processor)
    if type(kind).__name__ != "Qwen2VLImageProcessorPil" or not kind.do_resize:
        return None
    return Resizing(
        factor=kind.patch_size * kind.merge_size,
        least=kind.size["shortest_edge"],
        most=kind.size["longest_edge"],
        resample=int(kind.resample),
    )


def limit_pixels(processor: Any, pixels: int) -> None:
    """Makes the processor shrink images of more than `pixels` pixels, from now on and once it is saved.

    Where a family divides images into squares or tiles it has one at least, however few `pixels` are; Gemma 3
    makes every image as long.

    Raises:
        ConfigError: if the model makes even small images larger than that.
        ModelError: if the processor is of no family that is known.
    """
    family = family_of(processor)
    if family is None:
        raise ModelError(
            f"{type(processor).__name__} does not know `pixels`: leave it out; known are the processors of "
            f"{', '.join(FAMILIES)}"
        )
    family.limit(processor.image_processor, pixels)


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
