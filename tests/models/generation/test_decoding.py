"""Which settings are decoded by the plain loop, what it chooses, and when it ends. That whole models give the
tokens of `generate` is in `test_generation.py` and in `tests/shared_prefix/test_packing.py`."""

import dataclasses

import pytest
import torch
from transformers import GenerationConfig

from rarl.errors import ModelError
from rarl.models.generation.decoding import Choosing, Drawn, decode, drawn
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


# ── tokens by given numbers ──────────────────────────────────────────────────────────────────────────────


def test_a_number_says_which_token_is_drawn_the_likeliest_first():
    scores = torch.tensor([0.1, 0.2, 0.4, 0.0, 0.3]).log().expand(6, -1)
    numbers = torch.tensor([0.0, 0.39, 0.41, 0.51, 0.71, 1 - 2**-24])
    assert drawn(scores, numbers).tolist() == [2, 2, 0, 1, 4, 4]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    scores = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    numbers = torch.arange(0.5, 10_000) / 10_000
    often = drawn(scores.expand(10_000, -1), numbers).bincount(minlength=5) / 10_000
    assert torch.allclose(often, scores[0].softmax(dim=-1), atol=2e-4)


def test_scores_that_are_no_numbers_are_an_error():
    with pytest.raises(ModelError, match="no numbers"):
        drawn(torch.tensor([[0.0, float("nan")]]), torch.tensor([0.5]))


@pytest.mark.parametrize("cut", [{}, {"top_k": 20, "top_p": 0.9}, {"min_p": 0.1, "repetition_penalty": 1.1}])
def test_a_row_is_the_same_whatever_stands_beside_it(model, cut):
    """By transformers' own `generate`, whatever it does to the scores before."""
    ids = torch.randint(100, 600, (3, 5), generator=torch.Generator().manual_seed(1))
    numbers = torch.rand(3, 6, generator=torch.Generator().manual_seed(2))
    config = GenerationConfig(
        **SAMPLED | {"temperature": 1.3} | cut | {"max_new_tokens": 6, "min_new_tokens": 6}
    )

    def said(rows):
        given = {"input_ids": ids[rows], "attention_mask": torch.ones_like(ids[rows])}
        return Drawn(model.generate, numbers[rows])(**given, generation_config=config)[:, 5:]

    whole = said([0, 1, 2])
    assert torch.equal(whole, torch.cat([said([0]), said([2, 1]).flip(0)]))
    assert len({tuple(row) for row in whole.tolist()}) == 3
    drawn_now = Drawn(model.generate, 1 - numbers)
    other = drawn_now(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    assert not torch.equal(whole, other[:, 5:])


def test_responses_that_go_on_alone_keep_their_numbers():
    """The third row's first number draws 5, its second and third 2."""
    sampled = dataclasses.replace(GREEDY, temperature=1.0)
    numbers = torch.tensor([[0.0] * 4, [0.0] * 4, [0.0, 0.5, 0.5, 0.5]])

    class Undecided(Told):
        def step(self, ids, place):
            """Two tokens are as likely as each other."""
            token = super().step(ids, place)
            return (token + token.roll(1, dims=1)).log()

    told = [Undecided([2, 7, 7, 7], [2, 7, 7, 7], [5, 4, 4, 2]) for _ in range(2)]
    found = [
        decode(each.step, torch.tensor([1, 1, 1]), sampled, keep=keep, draws_NC=numbers)
        for each, keep in zip(told, (None, told[1].keep), strict=True)
    ]
    assert torch.equal(*found)
    assert found[0].tolist()[2] == [5, 5, 5, 3]
    assert [len(ids) for ids in told[1].asked] == [3, 1, 1, 1]


def test_a_cut_that_is_not_known_is_left_to_generate(model):
    ids = torch.full((2, 4), 300)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    config = GenerationConfig(**SAMPLED | {"typical_p": 0.2})
    torch.manual_seed(0)
    theirs = model.generate(**given, generation_config=config)
    torch.manual_seed(0)
    assert torch.equal(Drawn(model.generate, torch.rand(2, 5))(**given, generation_config=config), theirs)


def test_greedy_decoding_and_beams_are_not_drawn(model):
    ids = torch.arange(300, 308).view(2, 4)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for config in (PLAIN | {"repetition_penalty": 1.1}, PLAIN | {"num_beams": 2}):
        settings = GenerationConfig(**config)
        theirs = model.generate(**given, generation_config=settings)
        assert torch.equal(
            Drawn(model.generate, torch.rand(2, 5))(**given, generation_config=settings), theirs
        )


def test_a_cut_of_everything_is_no_plain_sampling(model):
    assert choosing(model, **SAMPLED | {"top_p": 0.0}) is None
