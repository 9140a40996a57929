"""No reply has a token that stands for an image or a video: not one sampled in training, shared or unshared
or with vLLM. Of greedy replies the same is tested in tests/models/generation/test_replies.py."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from trl.generation.vllm_generation import VLLMGeneration

from helpers.grpo import TOKENIZER, Batch, ours
from rarl.models.generation.replies import vision_tokens
from rarl.models.loading import load_model, load_processor
from rarl.training.trainer import RARLTrainer

WORDS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
BANNED = TOKENIZER.convert_tokens_to_ids(WORDS)


def prefer_vision(model, by):
    """Raises the logits of these tokens, of all that the model computes from now on."""
    bias = torch.zeros(model.lm_head.out_features)
    bias[BANNED] = by
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)


def test_they_are_those_of_the_config_and_those_named_so():
    model, processor = load_model("tiny"), load_processor("tiny")
    assert vision_tokens(model, processor) == sorted(BANNED)
    # Qwen2-VL has <|vision_pad|>, which its config calls vision_token_id and Qwen2.5-VL's doesn't name.
    added = {"additional_special_tokens": ["<|vision_pad|>", "<|box_start|>"]}
    processor.tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
    pad = processor.tokenizer.convert_tokens_to_ids("<|vision_pad|>")
    assert vision_tokens(model, processor) == sorted([*BANNED, pad])
    processor.tokenizer.add_tokens(["television"])  # a word, though it sounds like it
    assert vision_tokens(model, processor) == sorted([*BANNED, pad])
    other = SimpleNamespace(
        config=SimpleNamespace(to_dict=lambda: {"image_token_index": 9, "vision_config": 1})
    )
    assert 9 in vision_tokens(other, processor)


@pytest.mark.parametrize("shared_prefix", ["on", "off"])
def test_none_is_sampled(prompts_of, tmp_path, shared_prefix):
    """A model that would write nothing else."""
    trainer = ours(
        prompts_of([3, 7]),
        tmp_path,
        {"probability": 0.0},
        per_device_train_batch_size=4,
        max_completion_length=16,
        shared_prefix=shared_prefix,
    )
    prefer_vision(trainer.model, by=1000.0)
    sampled = {token for ids in Batch(trainer).ids for token in ids}
    assert sampled
    assert not sampled & set(BANNED)


def test_what_generation_kwargs_suppress_is_kept(prompts_of, tmp_path):
    given = {"generation_kwargs": {"suppress_tokens": [9]}}
    trainer = ours(prompts_of([3, 7]), tmp_path, **given)
    assert trainer.generation_config.suppress_tokens == sorted([*BANNED, 9])
    assert trainer.generation_kwargs["suppress_tokens"] == sorted([*BANNED, 9])


def test_vllm_is_given_them_as_bad_words():
    """TRL 1.16 reads `generation_kwargs` of its VLLMGeneration at each call, for vLLM's SamplingParams."""
    vllm = SimpleNamespace(generation_kwargs={"seed": 1, "bad_words": ["no"]})
    trainer = SimpleNamespace(
        model=load_model("tiny"),
        processing_class=load_processor("tiny"),
        _tokenizer=TOKENIZER,
        use_vllm=True,
        vllm_generation=vllm,
    )
    RARLTrainer._ban_vision_tokens(trainer)
    by_id = sorted(WORDS, key=TOKENIZER.convert_tokens_to_ids)
    assert vllm.generation_kwargs == {"seed": 1, "bad_words": ["no", *by_id]}
    # vLLM encodes each; a single token is kept out wherever it would stand.
    assert [TOKENIZER.encode(word, add_special_tokens=False) for word in by_id] == [
        [i] for i in sorted(BANNED)
    ]


def test_seam_vllm_reads_generation_kwargs_at_each_call():
    source = inspect.getsource(VLLMGeneration.generate)
    assert "generation_kwargs.update(self.generation_kwargs)" in source
    assert '"generation_kwargs": self.generation_kwargs' in source


def test_the_loss_is_over_all_tokens(prompts_of, tmp_path):
    """As with TRL's own ban: sampling is without these tokens, log-probs are of the whole softmax, of the old
    policy and of the new one."""
    trainer = ours(prompts_of([3, 7]), tmp_path, per_device_train_batch_size=4, shared_prefix="off")
    batch = Batch(trainer)
    ids, mask = (
        torch.cat([batch.output[f"prompt_{name}"], batch.output[f"completion_{name}"]], dim=1)
        for name in ("ids", "mask")
    )
    keep = batch.output["completion_ids"].shape[1]
    fields = {
        key: batch.output[key]
        for key in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        if key in batch.output
    }

    def logps():
        return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep, **fields)[0]

    with torch.no_grad():
        before = logps()
        prefer_vision(trainer.model, by=5.0)
        after = logps()
    real = batch.output["completion_mask"].bool()
    assert (after[real] < before[real]).all()
