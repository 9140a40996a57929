"""`scoring.json`: what is written reads back, and what is none is refused."""

import json

import pytest

from rarl.errors import ConfigError, DataError
from rarl.scoring.scoring import Scoring, method_named, read_scoring, write_scoring

SCORING = Scoring(
    method="mean",
    temperatures={"mean": 2.5, "mean-fast": 4.0},
    lengths=(2, 3, 8),
    listed=(3,),
    split="validation",
    seed=1,
    images=183,
    measured={"greedy": {"mae": 0.5}, "mean": {"mae": 0.25}},
)


def test_it_reads_back(tmp_path):
    write_scoring(tmp_path, SCORING)
    assert read_scoring(tmp_path) == SCORING
    assert read_scoring(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [
        {"method": "median"},
        {"reasoning": "long"},
        {"temperatures": {"mean": 0}},
        {"temperatures": [1]},
        {"listed": [4]},
        {"lengths": 3},
        {"lengths": [-4, 2, 3, 4, 8]},
        {"lengths": [1, 2, 3, 4, 8]},
        {"measured": {"mean": 1}},
        {"measured": {"mean": {"mae": "low"}}},
        {"sampled": -1},
        {"sampled": "4"},
        {"windows": [3]},
        {"windows": [4]},
        {"others": "listed"},
        "[]",
        "{",
    ],
)
def test_what_is_no_scoring_is_refused(tmp_path, change):
    write_scoring(tmp_path, SCORING)
    path = tmp_path / "scoring.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(change)
    with pytest.raises(DataError, match=r"scoring.json says no scoring.*; remove it"):
        read_scoring(tmp_path)


@pytest.mark.parametrize(("method", "temperature"), [("greedy", 2.5), ("mean", 2.5), ("mean-fast", 4.0)])
def test_the_temperature_is_that_of_the_method(method, temperature):
    assert Scoring(method, temperatures=SCORING.temperatures).temperature == temperature
    assert Scoring(method).temperature == 1


def test_a_file_of_before_reads_as_it_was_meant(tmp_path):
    write_scoring(tmp_path, SCORING)
    path = tmp_path / "scoring.json"
    found = json.loads(path.read_text())
    for later in ("sampled", "windows", "others"):
        del found[later]
    path.write_text(json.dumps(found))
    assert read_scoring(tmp_path) == SCORING


@pytest.mark.parametrize(
    ("scoring", "windows"),
    [
        (Scoring(lengths=(2, 4), listed=(2, 4)), {2: 0, 3: 0, 4: 0, 9: 0}),
        (Scoring(lengths=(2, 4), windows=(2,), listed=(4,)), {1: 0, 2: 2, 3: 0, 4: 0, 9: 0}),
        (Scoring(lengths=(2, 4), listed=(2,), others="windows"), {1: 0, 2: 0, 3: 2, 4: 0, 9: 4}),
        (method_named("windows", Scoring(lengths=(4, 8), listed=(4,))), {3: 0, 4: 4, 5: 4, 8: 8, 99: 8}),
        (method_named("values", Scoring(lengths=(2,), windows=(2,), others="windows")), {2: 0, 5: 0}),
    ],
)
def test_windows_have_a_length_that_the_model_knows(scoring, windows):
    assert {count: scoring.window(count) for count in windows} == windows


def test_a_model_without_lists_has_no_windows():
    with pytest.raises(ConfigError, match="method windows: this model was trained on no lists"):
        method_named("windows", Scoring())


def test_it_says_what_was_chosen():
    assert SCORING.sentence == (
        "values are medians over whole replies, sorted by means, with intervals at temperature 2.5; lists of "
        "3 images in the order of the reply; lists of 2, 8 by values (chosen on 183 images of validation)"
    )
    assert Scoring(lengths=(2,), listed=(2,)).sentence == (
        "values are those of greedy replies; lists of 2 images in the order of the reply"
    )
    sampled = Scoring("mean", "free", 4, lengths=(2, 3, 8), listed=(2,), windows=(8,), others="windows")
    assert sampled.sentence == (
        "values are medians over whole replies after 4 sampled reasonings each, sorted by means, with "
        "intervals at temperature 1; lists of 2 images in the order of the reply; lists of 3 by values; "
        "lists of 8 by values joined with those in the list; longer lists by values joined with those in "
        "windows of 8"
    )
