"""Which settings are decoded by the plain loop, what it chooses, and when it ends. That whole models give the
tokens of `generate` is in `test_generation.py` and in `tests/shared_prefix/test_packing.py`."""

import pytest
import torch
from transformers import GenerationConfig

from rarl.models.decoding import Choosing, decode
from rarl.models.loading import load_model

PLAIN = {"max_new_tokens": 5, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False}
SAMPLED = PLAIN | {"do_sample": True, "top_k": 0}


@pytest.fixture(scope="module")
def model():
    return load_model("tiny")


def choosing(model, **given):
    return Choosing.of(model, GenerationConfig(**given), model.generate)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PLAIN, Choosing(5, 0, (2,), 0, (), None)),
        (PLAIN | {"top_k": 7, "temperature": 3.0}, Choosing(5, 0, (2,), 0, (), None)),
        (PLAIN | {"suppress_tokens": [5, 6], "min_new_tokens": 3}, Choosing(5, 3, (2,), 0, (5, 6), None)),
        (PLAIN | {"eos_token_id": [2, 9], "bos_token_id": 1}, Choosing(5, 0, (2, 9), 0, (), None)),
        (SAMPLED | {"temperature": 0.7, "min_p": None, "top_p": 1.0}, Choosing(5, 0, (2,), 0, (), 0.7)),
    ],
)
def test_settings_that_are_plain(model, given, expected):
    assert choosing(model, **given) == expected


@pytest.mark.parametrize(
    "given",
    [
        SAMPLED | {"top_k": 50},
        SAMPLED | {"top_p": 0.9},
        SAMPLED | {"min_p": 0.1},
        PLAIN | {"repetition_penalty": 1.1},
        PLAIN | {"num_beams": 2},
        PLAIN | {"num_return_sequences": 2, "do_sample": True, "top_k": 0},
        PLAIN | {"no_repeat_ngram_size": 3},
        PLAIN | {"bad_words_ids": [[7]]},
        PLAIN | {"return_dict_in_generate": True},
        PLAIN | {"cache_implementation": "static"},
        PLAIN | {"stop_strings": ["</answer>"]},
        PLAIN | {"min_length": 4},
        {**PLAIN, "max_new_tokens": None, "max_length": 9},
    ],
)
def test_any_other_setting_is_left_to_generate(model, given):
    assert choosing(model, **given) is None


def test_what_the_models_own_config_says_counts(model, monkeypatch):
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 1.05)
    assert choosing(model, **PLAIN) is None
    assert choosing(model, **PLAIN, repetition_penalty=1.0) is not None


def test_another_generate_is_called(model):
    assert Choosing.of(model, GenerationConfig(**PLAIN), lambda **inputs: None) is None


def test_the_likeliest_token_that_may_be_chosen():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    assert Choosing(5, 0, (2,), 0, (), None).next(logits, 0).tolist() == [1]
    assert Choosing(5, 0, (2,), 0, (1,), None).next(logits, 0).tolist() == [2]
    assert Choosing(5, 3, (2,), 0, (1,), None).next(logits, 2).tolist() == [3]
    assert Choosing(5, 3, (2,), 0, (1,), None).next(logits, 3).tolist() == [2]
    assert logits.tolist() == [[0.0, 3.0, 2.0, 1.0]]


def test_a_low_temperature_leaves_the_likeliest():
    logits = torch.tensor([[0.0, 1.0, 0.9]]).expand(200, -1)
    cold, warm = (Choosing(5, 0, (2,), 0, (), degrees).next(logits, 0) for degrees in (1e-3, 1.0))
    assert cold.tolist() == [1] * 200
    assert set(warm.tolist()) == {0, 1, 2}


class Told:
    """A model that says what it is told: a row of tokens for each response."""

    def __init__(self, *rows):
        self.rows = list(rows)
        self.asked = []

    def step(self, ids, place):
        assert len(ids) == len(self.rows)
        self.asked.append(ids.tolist())
        return torch.nn.functional.one_hot(torch.tensor([row[place] for row in self.rows]), 10).float()

    def keep(self, rows):
        self.rows = [self.rows[row] for row in rows.tolist()]


GREEDY = Choosing(most=4, least=0, ends=(2, 9), padding=0, suppressed=(), temperature=None)


def test_responses_that_have_ended_are_padded():
    told = Told([5, 2, 7, 7], [9, 7, 7, 7], [4, 4, 2, 7])
    found = decode(told.step, torch.tensor([1, 1, 3]), GREEDY)
    assert found.tolist() == [[5, 2, 0], [9, 0, 0], [4, 4, 2]]
    assert told.asked == [[1, 1, 3], [5, 9, 4], [2, 0, 4]]


def test_a_response_is_cut_at_the_most():
    assert decode(Told([5, 6, 7, 8]).step, torch.tensor([1]), GREEDY).tolist() == [[5, 6, 7, 8]]


def test_enough_responses_end_all():
    told = Told([2, 7, 7, 7], [5, 2, 7, 7], [5, 5, 5, 2], [5, 5, 5, 5])
    found = decode(told.step, torch.tensor([1, 1, 1, 1]), GREEDY, share=0.5)
    assert found.tolist() == [[2, 0], [5, 2], [5, 5], [5, 5]]


def test_responses_that_go_on_go_on_alone():
    told = Told([2, 7, 7, 7], [5, 6, 4, 2], [9, 7, 7, 7], [4, 9, 7, 7])
    found = decode(told.step, torch.tensor([1, 1, 1, 1]), GREEDY, keep=told.keep)
    assert found.tolist() == [[2, 0, 0, 0], [5, 6, 4, 2], [9, 0, 0, 0], [4, 9, 0, 0]]
    assert told.asked == [[1, 1, 1, 1], [5, 4], [6], [4]]
