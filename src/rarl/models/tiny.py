"""The embedded vision-language model, before any training: a real `Qwen2_5_VLForConditionalGeneration` of
about 0.3 million parameters, with its own tokenizer, chat template and image processor. It is small enough to
learn on a laptop CPU. `pretraining/` makes its base, which imitates a general pre-trained model: the format
is right and the values are rough, so *the level of the base is designed*."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rarl.method.prompts import messages
from rarl.method.replies import reference_reply
from rarl.method.tasks import Task
from rarl.models.families import family_processor

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY = 1024
# Qwen2.5-VL's template without videos and tools.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_SIDE = 28  # pixels; one merged patch of the vision tower, so one token


def build_tokenizer(task: Task, counts: Sequence[int] = (1, 2, 4, 8)) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on the task's own prompts and replies.

    Merges run across spaces, so a prompt has only some dozens of tokens. "Picture 3: " is one token, because
    so small a model finds it hard to bind an image to its number. Any text can be encoded.
    """
    generator = random.Random(0)
    texts = []
    for _ in range(40):
        for count in counts:
            values = [task.nearest(generator.uniform(task.low, task.high)) for _ in range(count)]
            for message in messages(count, task.rule, task.value_range):
                joined = " ".join(part.get("text", "") for part in message["content"])
                texts.append(f"{message['role']}\n{joined}")
            texts.append("assistant\n" + reference_reply(values, task.step))
        texts.append("".join(f"Picture {number}: " for number in range(1, 9)))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"Picture \p{N}: |\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )


def build_processor(task: Task) -> ProcessorMixin:
    """Joins tokenizer, chat template and image processor. A 28 x 28 image becomes one token, 56 x 56 four."""
    image_processor = Qwen2VLImageProcessorPil(min_pixels=IMAGE_SIDE**2, max_pixels=4 * IMAGE_SIDE**2)
    tokenizer = build_tokenizer(task)
    return family_processor("qwen2_5_vl", image_processor, tokenizer, CHAT_TEMPLATE)


def build_model(processor: Any, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Builds the untrained model, with weights drawn by `seed`."""
    tokenizer = processor.tokenizer
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 160,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.08,
            "max_position_embeddings": 4096,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
            "initializer_range": 0.08,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    torch.random.set_rng_state(state)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model
