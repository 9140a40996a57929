"""Replies of a vision-language model to prompts with images, for evaluation and use: greedy, or sampled.
Decoding is always the same, whatever the model's own generation config says, so that arms can be compared.
Sampling during training is left to TRL; `vision_tokens` says what no reply may have in either."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from transformers import (
    BatchFeature,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteria,
)

from rarl.errors import ModelError, RarlError
from rarl.models.generation.decoding import Choosing, Drawn, decode, draws_of
from rarl.models.generation.endpoint import Endpoint
from rarl.models.generation.token_passes import Sequences, TokenPasses, can_pass
from rarl.models.machine import TOO_MANY_PROMPTS, memory_for
from rarl.models.pixels import pixels_of
from rarl.models.positions import MODEL_TYPES, positions_of
from rarl.models.processor import reply_opening

Message = dict[str, Any]

_OF_VISION = re.compile(r"image|img|video|vision|audio", re.IGNORECASE)


def vision_tokens(model: Any, processor: Any) -> list[int]:
    """The ids of all tokens that stand for something other than text, ascending: placeholders of images and
    videos, and what frames them. A model's forward pass looks for an image at each, and a reply has none.

    They are those that the model's config names (`image_token_id`, `vision_start_token_id`, …) and the
    special tokens that are named so (`<|vision_pad|>`).
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    found: set[int] = set()
    for name, value in model.config.to_dict().items():
        if name.endswith(("_token_id", "_token_index")) and _OF_VISION.search(name):
            found.update(value if isinstance(value, list) else [value])
    for token, added in tokenizer.added_tokens_decoder.items():
        if added.special and _OF_VISION.search(added.content):
            found.add(token)
    return sorted(found - {None, tokenizer.eos_token_id, tokenizer.pad_token_id})


def greedy_replies(
    model: PreTrainedModel | Endpoint,
    processor: ProcessorMixin | None,
    prompts: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The reply to each prompt, waited for; see `greedy_replies_so_far`.

    Args:
        model: one that is loaded, with its processor, or an endpoint, which has none and no `batch_size`.
    """
    if isinstance(model, Endpoint):
        return model.replies(prompts, images, max_new_tokens=max_new_tokens)
    assert processor is not None
    found = greedy_replies_so_far(
        model, processor, prompts, images, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return [reply for reply in found if reply is not None]


def greedy_replies_so_far(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    prompts: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]],
    *,
    max_new_tokens: int,
    batch_size: int,
    share: float = 1,
) -> list[str | None]:
    """Decodes a reply to each prompt greedily, as text without special tokens. What the chat template begins
    of a reply (`reply_opening`) is part of it.

    Prompts with the same number of images share a batch, so that little is padded. The replies come back in
    the order of the prompts. They don't depend on `batch_size`, except for rounding in low precision.

    Args:
        prompts: the chat messages of each prompt, with a `{"type": "image"}` part for each image.
        images: the images of each prompt, in the order of its image parts; at least one per prompt.
        max_new_tokens: the length at which a reply that has not ended is cut.
        batch_size: prompts in one pass.
        share: of the replies of a pass, how many must have ended for it to end. The others are None: a few
            long replies need not hold up a whole batch, and can be asked for together later.

    Raises:
        ValueError: if the numbers of prompts and of lists of images differ, a prompt has no image, or
            `batch_size` is below 1.
        ModelError: if the chat template begins replies in a way that can't be read, or the model can't reply.
    """
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts but {len(images)} lists of images")
    if not all(images):
        raise ValueError("every prompt needs at least one image")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    settings = _settings(model, processor, max_new_tokens)
    return _in_batches(model, processor, prompts, images, settings, batch_size, share=share)


def sampled_replies(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: Sequence[Sequence[Message]],
    groups: Sequence[Sequence[Image.Image]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """A reply to each question, sampled at temperature 1 from the whole vocabulary but for `vision_tokens`.

    Each reply has draws of its own, so it does not depend on the others of its batch, except for rounding.

    Args:
        questions, groups: the chat messages and the images of each, as for `greedy_replies_so_far`.
        seeds: of the draws of each reply; the same seed takes the same draws.
        max_new_tokens, batch_size: as there.

    Raises:
        ModelError: as there.
    """
    settings = _settings(model, processor, max_new_tokens)
    settings.update(do_sample=True, top_k=0)
    draws_NC = torch.stack([draws_of(seed, max_new_tokens) for seed in seeds]) if seeds else None
    found = _in_batches(model, processor, questions, groups, settings, batch_size, draws_NC=draws_NC)
    return [reply for reply in found if reply is not None]


def _in_batches(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    prompts: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]],
    settings: GenerationConfig,
    batch_size: int,
    *,
    share: float = 1,
    draws_NC: torch.Tensor | None = None,
) -> list[str | None]:
    """The reply to each prompt, in their order."""
    replies: list[str | None] = [None] * len(prompts)
    opening = reply_opening(processor)
    # Not inference_mode: FSDP2 would keep what it allocates here, and fail when training goes on.
    with torch.no_grad(), evaluating(model):
        for batch in _batches(images, batch_size):
            some = ([prompts[i] for i in batch], [images[i] for i in batch])
            draws_BC = None if draws_NC is None else draws_NC[batch]
            with _in_one_sentence():
                texts = _replies_of(model, processor, *some, settings, share, draws_BC)
            for i, text in zip(batch, texts, strict=True):
                replies[i] = None if text is None else opening + text
    return replies


def _replies_of(
    model: Any,
    processor: Any,
    prompts: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]],
    settings: GenerationConfig,
    share: float = 1,
    draws_BC: torch.Tensor | None = None,
) -> list[str | None]:
    """What the model adds to each prompt of one batch; None for replies that were not waited for."""
    inputs = inputs_of(processor, prompts, images).to(model.device)
    new_tokens = _new_tokens(model, inputs, settings, share, draws_BC)
    ended = _ended(new_tokens, settings.eos_token_id).tolist()
    whole = share == 1 or new_tokens.shape[1] >= settings.max_new_tokens
    texts = processor.tokenizer.batch_decode(
        new_tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [text if whole or has_ended else None for text, has_ended in zip(texts, ended, strict=True)]


def _new_tokens(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    settings: GenerationConfig,
    share: float,
    draws_BC: torch.Tensor | None,
) -> torch.Tensor:
    """What follows each prompt, int[B, C], padded on the right."""
    generate = model.generate
    if draws_BC is not None:
        draws_BC = draws_BC.to(model.device)
        generate = Drawn(generate, draws_BC)
    choosing = Choosing.of(model, settings, generate)
    if choosing is not None and model.config.model_type in MODEL_TYPES:
        passes, last_B = _Passes(model, inputs, choosing.most), inputs["input_ids"][:, -1]
        return decode(passes.step, last_B, choosing, share=share, keep=passes.keep, draws_NC=draws_BC)
    length = inputs["input_ids"].shape[1]
    stopping = None if share == 1 else [_Most(settings.eos_token_id, length, share)]
    tokens: torch.Tensor = generate(**inputs, generation_config=settings, stopping_criteria=stopping)
    return tokens[:, length:]


class _Passes:
    """The passes that `decode` asks for, of a model whose positions are known (`rarl.models.positions`)."""

    def __init__(self, model: Any, inputs: Mapping[str, torch.Tensor], most: int) -> None:
        self._model, self._inputs = model, inputs
        mask = inputs["attention_mask"]
        self._positions = positions_of(model, inputs["input_ids"], mask, inputs["image_grid_thw"])
        self._mask = None if bool(mask.all()) else torch.nn.functional.pad(mask, (0, most), value=1)
        self._cache = DynamicCache(config=model.config.get_text_config())
        self._of_tokens: TokenPasses | None = None
        self._sequences: Sequences | None = None

    def step(self, ids: torch.Tensor, place: int) -> torch.Tensor:
        """The logits that follow the prompts, and then each token."""
        if place == 0:
            logits = self._pass(self._inputs, self._positions, 0)
            if can_pass(self._model):
                mask = None if self._mask is None else self._inputs["attention_mask"].bool()
                self._sequences = Sequences(self._cache, mask)
                self._of_tokens = TokenPasses(self._model, self._positions[:, :, -1:], self._sequences.attend)
            return logits
        if self._of_tokens is not None:
            return self._of_tokens(ids, place)
        return self._pass({"input_ids": ids[:, None]}, self._positions[:, :, -1:] + place, place)

    def _pass(self, given: Mapping[str, Any], positions: torch.Tensor, place: int) -> torch.Tensor:
        length = self._positions.shape[2]
        output = self._model(
            **dict(given)
            | {
                "position_ids": positions,
                "attention_mask": None if self._mask is None else self._mask[:, : length + place],
            },
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """Forgets all responses but these."""
        if self._of_tokens is not None and self._sequences is not None:
            self._of_tokens.keep(rows)
            self._sequences.keep(rows)
            return
        self._cache.batch_select_indices(rows)
        self._positions = self._positions[:, rows]
        self._mask = None if self._mask is None else self._mask[rows]


def inputs_of(
    processor: Any, prompts: Sequence[Sequence[Message]], images: Sequence[Sequence[Image.Image]]
) -> BatchFeature:
    """What the processor makes of the prompts of a batch, in tensors, padded on the left."""
    settings = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    sizes = {image.size for group in images for image in group}
    if (
        # Qwen's: an image's size says how many tokens it is, and its pixels stand apart from the text.
        hasattr(processor.image_processor, "merge_size")
        and len(sizes) == 1
        and all(p == prompts[0] for p in prompts)
    ):
        # The same text and as many tokens of images in each: it is tokenized once.
        text = processor.apply_chat_template([list(prompts[0])], tokenize=False, add_generation_prompt=True)
        one = processor(text=text, images=[list(images[0])], **settings)
        pixels = pixels_of(processor.image_processor, [image for group in images for image in group])
        rows = {key: one[key].expand(len(prompts), -1) for key in one if key not in pixels}
        return BatchFeature({**rows, **pixels})
    texts = processor.apply_chat_template(
        [list(prompt) for prompt in prompts], tokenize=False, add_generation_prompt=True
    )
    return processor(text=texts, images=[list(group) for group in images], **settings)


class _Most(StoppingCriteria):
    """Ends a pass when so many of its replies have ended."""

    def __init__(self, ends: Sequence[int], start: int, share: float) -> None:
        self._ends, self._start, self._share = ends, start, share

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ended = _ended(input_ids[:, self._start :], self._ends).float().mean() >= self._share
        return ended.expand(len(input_ids))


def _ended(tokens: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
    """For each row of tokens, whether one of `ends` is in it."""
    return torch.isin(tokens, torch.tensor(ends, device=tokens.device)).any(dim=1)


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Any error within becomes a `ModelError`: the numbers in a model's folder can contradict each other in
    ways that only its first reply shows."""
    try:
        with memory_for(TOO_MANY_PROMPTS):
            yield
    except RarlError:
        raise
    except Exception as error:
        line = (str(error).strip() or "no reason given").splitlines()[0][:300]
        raise ModelError(f"the model can't reply: {type(error).__name__}: {line}") from error


def _batches(images: Sequence[Sequence[Image.Image]], batch_size: int) -> Iterator[list[int]]:
    """Yields indices of prompts, at most `batch_size` at a time. A batch has one number of images per prompt;
    smaller images come first."""

    def size(i: int) -> tuple[int, int]:
        return len(images[i]), sum(image.width * image.height for image in images[i])

    order = sorted(range(len(images)), key=size)
    start = 0
    while start < len(order):
        count = len(images[order[start]])
        batch = [i for i in order[start : start + batch_size] if len(images[i]) == count]
        yield batch
        start += len(batch)


def _settings(model: PreTrainedModel, processor: ProcessorMixin, max_new_tokens: int) -> GenerationConfig:
    """Plain greedy decoding. transformers takes every setting that is missing here from the model's own
    generation config, so all settings that could change a token are listed (Qwen2.5-VL ships a repetition
    penalty of 1.05)."""
    tokenizer = processor.tokenizer
    ends = {tokenizer.eos_token_id}
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends.update(own if isinstance(own, list) else [own])
    ends.discard(None)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        use_cache=True,
        # One of them would stand for a missing image and break the next pass.
        suppress_tokens=vision_tokens(model, processor) or None,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model into evaluation mode, and afterwards back. No positions of a batch are left behind."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for module in model.modules():
            if hasattr(module, "rope_deltas"):
                # transformers 5.23 keeps it between calls.
                module.rope_deltas = None  # type: ignore[assignment]
