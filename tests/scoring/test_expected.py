"""Distributions of the embedded model: one pass that shares prompts against repeated prompts and against a
plain pass over one whole reply; fine grids by their digits; bfloat16; and the model left as it was."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rarl.data.images import open_image
from rarl.errors import ConfigError
from rarl.method.prompts import messages
from rarl.method.replies import reference_reply
from rarl.method.tasks import DIGITS, Task
from rarl.models.generation.replies import sampled_replies
from rarl.models.loading import load_model
from rarl.scoring import expected
from rarl.scoring.expected import distributions
from rarl.scoring.scoring import Scoring, method_named
from rarl.scoring.values import values_of

FINE = Task("fine", "handwritten digit", low=0, high=9, step=0.05, delta=2)


@pytest.fixture(scope="module")
def model():
    return load_model("tiny")


@pytest.fixture(scope="module")
def images(digits):
    """Four of different digits, one of them larger, so that its prompt is longer."""
    found = [open_image(row.path) for row in digits.split("test")[:4]]
    return [found[0].resize((56, 56)), *found[1:]]


@pytest.fixture(scope="module")
def found(model, tiny_processor, images):
    return distributions(model, tiny_processor, images, DIGITS, batch_size=4)


def test_a_probability_is_that_of_the_whole_reply(model, tiny_processor, images, found):
    """By a plain pass over each of the ten replies, encoded apart from the prompt."""
    prompt = tiny_processor.apply_chat_template(
        [messages(1, DIGITS.rule, DIGITS.value_range)], tokenize=False, add_generation_prompt=True
    )[0]
    tokenizer = tiny_processor.tokenizer
    logs = []
    for value in range(10):
        inputs = tiny_processor(
            text=[prompt], images=[[images[0]]], return_mm_token_type_ids=True, return_tensors="pt"
        )
        reply = tokenizer(reference_reply([value], 1), add_special_tokens=False)["input_ids"]
        reply = torch.tensor([[*reply, tokenizer.eos_token_id]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], reply], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        kinds = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(reply)], dim=1)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -reply.shape[1] - 1 : -1]
        logs.append(float(logits.log_softmax(-1).gather(1, reply.T).sum()))
    assert found.probabilities[0] == pytest.approx(np.exp(logs) / np.exp(logs).sum(), abs=1e-5)
    assert found.probabilities[0].max() < 0.95  # nothing is shown by one that is certain


def test_repeated_prompts_give_the_same(model, tiny_processor, images, found, monkeypatch):
    monkeypatch.setattr(expected, "can_pack", lambda model: False)
    again = distributions(model, tiny_processor, images, DIGITS, batch_size=2)
    assert again.probabilities == pytest.approx(found.probabilities, abs=1e-5)


def test_a_models_own_reasoning_comes_first(model, tiny_processor, images, monkeypatch):
    """Each image has another, of another length; the pass that shares nothing has the same numbers."""
    replies = [f"<think>{'Picture 1: ' * n}{n}.</think>" for n in range(4)]
    own = distributions(model, tiny_processor, images, DIGITS, reasoning=replies, batch_size=4)
    assert own.probabilities.std(axis=0).max() > 0.01
    monkeypatch.setattr(expected, "can_pack", lambda model: False)
    again = distributions(model, tiny_processor, images, DIGITS, reasoning=replies, batch_size=4)
    assert again.probabilities == pytest.approx(own.probabilities, abs=1e-5)


def test_without_the_folder_of_shared_prompts(model, tiny_processor, images, found, monkeypatch):
    """The source says which lines to delete for that; what is left has the same numbers."""
    for name in [
        name for name in sys.modules if name.startswith(("rarl.shared_prefix", "rarl.scoring.packed"))
    ]:
        monkeypatch.setitem(sys.modules, name, None)
    lines = Path(expected.__file__).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.endswith("# shared prefix")]
    assert len(lines) - len(kept) == 5
    module = ModuleType("expected_alone")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile("\n".join(kept), "expected_alone.py", "exec"), vars(module))
    again = module.distributions(model, tiny_processor, images[:2], DIGITS, batch_size=2)
    assert again.probabilities == pytest.approx(found.probabilities[:2], abs=1e-5)


@pytest.mark.parametrize("most", [64, 181])
def test_a_fine_grid_by_its_digits_is_the_exact_one(model, tiny_processor, images, monkeypatch, most):
    """The base spells these values badly, so much of each reply is decided after its first digits."""
    exact = distributions(model, tiny_processor, images[:2], FINE, reasoning="empty", batch_size=2)
    monkeypatch.setattr(expected, "MOST_EXACT", 100)
    monkeypatch.setattr(expected, "LIKELIEST", most)
    trie = distributions(model, tiny_processor, images[:2], FINE, reasoning="empty", batch_size=2)
    assert trie.probabilities == pytest.approx(exact.probabilities, abs=1e-3)
    assert trie.mean == pytest.approx(exact.mean, abs=9e-3)


def test_bfloat16(tiny_processor, images, found):
    rough = distributions(load_model("tiny").bfloat16(), tiny_processor, images, DIGITS, batch_size=4)
    assert rough.probabilities == pytest.approx(found.probabilities, abs=0.1)
    assert rough.mean == pytest.approx(found.mean, abs=0.3)


def test_the_model_is_left_as_it_was(model, tiny_processor, images):
    distributions(model, tiny_processor, images, DIGITS, batch_size=4)
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    assert not model.training


def test_no_image_has_no_distribution(model, tiny_processor):
    assert len(distributions(model, tiny_processor, [], DIGITS, batch_size=4)) == 0


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────


def scored(model, processor, images, scoring):
    return values_of(model, processor, images, DIGITS, scoring, batch_size=4, max_new_tokens=64)


def test_values_are_those_that_the_scoring_says(model, tiny_processor, images, found):
    greedy = scored(model, tiny_processor, images, Scoring("greedy"))
    assert all(value in DIGITS.grid for value in greedy.values)
    assert (greedy.intervals, greedy.distributions) == (None, None)
    mean = scored(model, tiny_processor, images, Scoring("mean", temperatures={"mean": 100.0}))
    assert mean.values == found.median.tolist()
    assert mean.distributions is not None
    assert mean.distributions.mean == pytest.approx(found.mean)
    # So hot that all ten values are nearly alike, and the interval has eight of them.
    assert mean.intervals is not None
    assert all(high - low >= 7 for low, high in mean.intervals)
    fast = scored(model, tiny_processor, images, Scoring("mean-fast"))
    assert fast.distributions is not None
    assert np.abs(fast.distributions.mean - found.mean).max() > 0.1


def test_a_free_reasoning_is_generated_first(model, tiny_processor, images, found):
    """The base reasons by the template, and every candidate then has its own greedy reasoning."""
    free = scored(model, tiny_processor, images, Scoring("mean", "free"))
    greedy = scored(model, tiny_processor, images, Scoring("greedy"))
    assert free.values == greedy.values
    assert free.distributions is not None
    assert np.abs(free.distributions.mean - found.mean).max() > 0.01


KNOWN = Scoring("greedy", lengths=(2, 4), listed=(2,))


@pytest.mark.parametrize(
    ("name", "method", "listed"),
    [
        ("greedy", "greedy", (2,)),
        ("mean", "mean", (2,)),
        ("mean-fast", "mean-fast", (2,)),
        ("listed", "greedy", (2, 4)),
        ("values", "greedy", ()),
    ],
)
def test_a_method_by_name(name, method, listed):
    named = method_named(name, KNOWN)
    assert (named.method, named.listed, named.lengths) == (method, listed, (2, 4))


@pytest.mark.parametrize(
    ("name", "scoring", "message"),
    [
        (
            "means",
            KNOWN,
            "unknown method 'means'; .*mean.*; they are greedy, mean, mean-fast, listed, values",
        ),
        ("listed", Scoring(), "method listed: this model was trained on no lists"),
    ],
)
def test_a_method_that_there_is_not(name, scoring, message):
    with pytest.raises(ConfigError, match=message):
        method_named(name, scoring)


def test_after_sampled_reasonings_the_mean_of_their_distributions_is_taken(model, tiny_processor, images):
    """The fourth image has the same distribution alone: draws are of a sample's place, not of its batch."""
    several = Scoring("mean", reasoning="free", sampled=3)
    options = {"batch_size": 4, "max_new_tokens": 40}
    mean = values_of(model, tiny_processor, images, DIGITS, several, **options).distributions
    alone = values_of(model, tiny_processor, images[3:], DIGITS, several, **options).distributions
    assert alone.probabilities[0] == pytest.approx(mean.probabilities[3], abs=1e-5)
    prompts = [messages(1, DIGITS.rule, DIGITS.value_range)] * 4
    groups = [[image] for image in images]
    parts = []
    for place in range(3):
        replies = sampled_replies(model, tiny_processor, prompts, groups, seeds=[place] * 4, **options)
        parts.append(
            distributions(
                model, tiny_processor, images, DIGITS, reasoning=replies, batch_size=4
            ).probabilities
        )
    assert mean.probabilities == pytest.approx(np.mean(parts, axis=0))
    assert np.abs(parts[0] - parts[1]).max() > 0.05  # a reasoning that was sampled decides much
