"""Replies don't depend on how prompts are batched or on the model's own generation config, never
contain an image placeholder, and leave no trace on the model. All tests use a real, untrained tiny model."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from rarl.errors import ModelError
from rarl.method.prompts import messages
from rarl.method.tasks import DIGITS
from rarl.models.generation.decoding import Choosing
from rarl.models.generation.replies import (
    greedy_replies,
    greedy_replies_so_far,
    inputs_of,
    sampled_replies,
    vision_tokens,
)
from rarl.models.loading import load_model, load_processor
from rarl.models.tiny import build_model, build_processor

COUNTS = (1, 4, 2, 8, 1, 2, 1, 8, 3)


@pytest.fixture(scope="module")
def processor():
    return build_processor(DIGITS)


@pytest.fixture
def model(processor):
    return build_model(processor, seed=0).eval()


def prompt(count):
    return messages(count, DIGITS.rule, DIGITS.value_range)


def noise(seed, width=28, height=28):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pictures(counts=COUNTS):
    """Images of two sizes, 1 and 4 tokens, so that prompts with one number of images differ in length."""
    generator = random.Random(0)
    return [
        [noise(10 * i + j, width=generator.choice((28, 56)), height=56) for j in range(count)]
        for i, count in enumerate(counts)
    ]


def replies(model, processor, images, batch_size=64, max_new_tokens=12, **options):
    prompts = [prompt(len(group)) for group in images]
    return greedy_replies(
        model, processor, prompts, images, max_new_tokens=max_new_tokens, batch_size=batch_size, **options
    )


def test_the_reply_does_not_depend_on_the_batch(model, processor):
    images = pictures()
    alone = [replies(model, processor, [group])[0] for group in images]
    assert len(set(alone)) > 3  # an untrained model, but not one that says the same to everything
    for batch_size in (1, 2, 64):
        assert replies(model, processor, images, batch_size) == alone


def test_greedy_is_the_argmax_of_plain_forward_passes(model, processor):
    [group] = pictures((4,))
    text = processor.apply_chat_template(prompt(4), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[group], return_mm_token_type_ids=True, return_tensors="pt")
    ids, types = inputs.pop("input_ids"), inputs.pop("mm_token_type_ids")
    start = ids.shape[1]
    banned = vision_tokens(model, processor)
    with torch.no_grad():
        for _ in range(8):
            model.model.rope_deltas = None
            inputs["attention_mask"] = torch.ones_like(ids)
            logits = model(input_ids=ids, mm_token_type_ids=types, use_cache=False, **inputs).logits[0, -1]
            logits[banned] = -torch.inf
            ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
            types = torch.cat([types, torch.zeros_like(types[:, :1])], dim=1)
    expected = processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    assert replies(model, processor, [group], max_new_tokens=8) == [expected]


def test_another_image_gives_another_reply(model, processor):
    same, other = [noise(1)] * 3, [noise(1), noise(1), noise(2)]
    assert len(set(replies(model, processor, [same, other, same]))) == 2


def test_the_models_own_generation_config_changes_nothing(model, processor):
    images = pictures()
    plain = replies(model, processor, images)
    model.generation_config.update(
        do_sample=True, temperature=5.0, top_k=3, top_p=0.5, repetition_penalty=3.0, no_repeat_ngram_size=1
    )
    assert replies(model, processor, images) == plain


def _prefer(model, *tokens):
    """Make the model want `tokens`, best first, whatever it sees: the last norm gives zeros."""
    with torch.no_grad():
        model.model.language_model.norm.weight.zero_()
    model.lm_head = torch.nn.Linear(model.config.text_config.hidden_size, len(model.lm_head.weight))
    with torch.no_grad():
        model.lm_head.bias.zero_()
        for place, token in enumerate(tokens):
            model.lm_head.bias[token] = 9.0 - place


def test_placeholders_of_images_are_never_generated(model, processor):
    letter = processor.tokenizer.convert_tokens_to_ids("a")
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    _prefer(model, *(getattr(model.config, name) for name in names), letter)
    assert replies(model, processor, pictures((1, 2)), max_new_tokens=5) == ["aaaaa"] * 2


@pytest.mark.parametrize("own", [None, 7, [7, 9]])
def test_a_reply_ends_at_the_tokenizers_end_or_the_models(model, processor, own):
    model.generation_config.eos_token_id = own
    for end in [processor.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own] if own else [])]:
        _prefer(model, end)
        seen = processor.tokenizer.decode([end], skip_special_tokens=True)
        assert replies(model, processor, pictures((1,)), max_new_tokens=5) == [seen]


def test_the_mode_is_restored_and_no_position_is_left_over(model, processor):
    model.train()
    during = set()
    hook = model.register_forward_hook(lambda module, *_: during.add(module.training))
    replies(model, processor, pictures((1,)))
    hook.remove()
    assert during == {False}
    assert model.training
    assert model.model.rope_deltas is None


def test_training_goes_on_after_a_reply(model, processor):
    [group] = pictures((2,))
    replies(model, processor, [group])
    text = processor.apply_chat_template(prompt(2), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[group], return_mm_token_type_ids=True, return_tensors="pt")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_the_mode_is_restored_after_an_error(model, processor):
    def fail(*_):
        raise TypeError("the pass failed")

    model.train()
    hook = model.register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match="the model can't reply: TypeError: the pass failed"):
        replies(model, processor, pictures((1,)))
    hook.remove()
    assert model.training


def test_no_prompts_no_replies(model, processor):
    assert replies(model, processor, []) == []


@pytest.mark.parametrize(
    ("prompts", "images", "batch_size", "message"),
    [
        ([prompt(1)], [], 1, "1 prompts but 0 lists of images"),
        ([prompt(1)], [[]], 1, "at least one image"),
        ([prompt(1)], [[noise(0)]], 0, "batch_size must be at least 1, not 0"),
    ],
)
def test_what_can_only_be_a_mistake_is_refused(model, processor, prompts, images, batch_size, message):
    with pytest.raises(ValueError, match=message):
        greedy_replies(model, processor, prompts, images, max_new_tokens=1, batch_size=batch_size)


@pytest.mark.parametrize(
    "sizes", [[(28, 28)] * 3, [(56, 28)] * 3, [(50, 30)] * 3, [(56, 28), (28, 56), (56, 28)]]
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_text_that_is_tokenized_once_is_what_the_processor_makes_of_each(processor, sizes, count):
    groups = [[noise(9 * i + j, *size) for j in range(count)] for i, size in enumerate(sizes)]
    prompts = [prompt(count)] * len(groups)
    texts = processor.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    options = {"padding": True, "padding_side": "left", "return_mm_token_type_ids": True}
    wanted = processor(text=texts, images=groups, return_tensors="pt", **options)
    found = inputs_of(processor, prompts, groups)
    assert set(found) == set(wanted)
    for key in wanted:
        assert torch.equal(found[key], wanted[key]), key


def test_replies_that_are_not_waited_for_are_none_and_the_others_the_same():
    model, processor = load_model("tiny"), load_processor("tiny")
    # Soft pictures, of which the embedded model writes three times as much about one as about the others.
    images = [[noise(seed, 3, 3).resize((56, 56), Image.Resampling.BICUBIC)] for seed in range(40, 60)]
    prompts = [prompt(1)] * len(images)
    options = {"max_new_tokens": 64, "batch_size": 20}
    waited = greedy_replies(model, processor, prompts, images, **options)
    [late] = [place for place, reply in enumerate(waited) if len(reply) > 2 * len(min(waited, key=len))]
    found = greedy_replies_so_far(model, processor, prompts, images, share=0.9, **options)
    assert found == [None if place == late else reply for place, reply in enumerate(waited)]


def test_replies_of_all_lengths_are_those_of_generate(monkeypatch):
    """One of them is three times as long as the others, and goes on alone."""
    model, processor = load_model("tiny"), load_processor("tiny")
    images = [[noise(seed, 3, 3).resize((56, 56), Image.Resampling.BICUBIC)] for seed in range(40, 60)]
    images[3] = [noise(3, 84, 56)]  # so that something is padded
    found = [replies(model, processor, images, max_new_tokens=64)]
    monkeypatch.setattr(Choosing, "of", lambda *_: None)
    found.append(replies(model, processor, images, max_new_tokens=64))
    assert found[0] == found[1]
    assert max(map(len, found[0])) > 2 * min(map(len, found[0]))


# ── sampled ──────────────────────────────────────────────────────────────────────────────────────────────


def sampled(model, processor, images, seeds, batch_size=64, max_new_tokens=12):
    prompts = [prompt(len(group)) for group in images]
    options = {"seeds": seeds, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    return sampled_replies(model, processor, prompts, images, **options)


def test_a_sampled_reply_depends_on_its_seed_and_not_on_its_batch(model, processor):
    images, seeds = pictures(), [5, 6, 7, 8, 9, 5, 6, 7, 8]
    found = sampled(model, processor, images, seeds)
    assert found != replies(model, processor, images)
    assert found != sampled(model, processor, images, [seed + 100 for seed in seeds])
    alone = [sampled(model, processor, [g], [s])[0] for g, s in zip(images, seeds, strict=True)]
    assert alone == found
    assert sampled(model, processor, images, seeds, batch_size=2) == found


def test_tokens_are_sampled_as_often_as_they_are_probable(model, processor):
    """Three of four are `a`; a placeholder of images, which would be likelier, is none."""
    a, b = processor.tokenizer.convert_tokens_to_ids(["a", "b"])
    _prefer(model)
    with torch.no_grad():
        model.lm_head.bias.fill_(-1e4)
        model.lm_head.bias[model.config.image_token_id] = 5
        model.lm_head.bias[[a, b]] = torch.tensor([3.0, 1.0]).log()
    [picture] = pictures((1,))
    found = sampled(model, processor, [picture] * 400, range(400), 400, max_new_tokens=2)
    assert set(found) == {"aa", "ab", "ba", "bb"}
    assert sum(text.count("a") for text in found) / 800 == pytest.approx(0.75, abs=0.05)
