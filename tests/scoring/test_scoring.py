"""`scoring.json`: what is written reads back, and what is none is refused."""

import json

import pytest

from rarl.errors import DataError
from rarl.scoring.scoring import Scoring, read_scoring, write_scoring

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
        {"measured": {"mean": 1}},
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


def test_it_says_what_was_chosen():
    assert SCORING.sentence == (
        "values are means over whole replies, with intervals at temperature 2.5; lists of 3 images in the "
        "order of the reply; lists of 2, 8 by values (chosen on 183 images of validation)"
    )
    assert Scoring(lengths=(2,), listed=(2,)).sentence == (
        "values are those of greedy replies; lists of 2 images in the order of the reply"
    )
