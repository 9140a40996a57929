"""One reply, read picture by picture: the arithmetic by hand, and the line of `predictions.jsonl`."""

import json
from dataclasses import replace

import pytest

from helpers.asking import LISTS, group_of, prediction, right
from rarl.errors import DataError
from rarl.evaluation.prediction import Expected, Prediction, predict


@pytest.mark.parametrize(("truths", "answer", "parsed", "valid", "tau", "tau_values"), LISTS)
def test_a_reply_to_a_list(collection, truths, answer, parsed, valid, tau, tau_values):
    line = predict(group_of(collection, *truths), f"<answer>{answer}</answer>")
    assert (line.parsed, line.valid) == (parsed, valid)
    assert (line.tau, line.tau_values) == pytest.approx((tau, tau_values))


def test_a_line_holds_the_reply_as_written_and_as_read(collection):
    text = '<think>…</think> <answer>[{"image_id": 2, "value": 2.5}]</answer>\n'
    assert predict(group_of(collection, 1, 5, 2), text, arm="rarl", split="test").to_json() == {
        "arm": "rarl",
        "split": "test",
        "images": 3,
        "ids": ["test1", "test4", "test2"],
        "truth": [1, 5, 2],
        "reply": text,
        "values": [None, 2.5, None],
        "positions": [None, 0, None],
        "parsed": True,
        "valid": False,
        "tau": 0,
        "tau_values": 0,
    }


# ── the line of a file ───────────────────────────────────────────────────────────────────────────────────


def test_a_line_is_read_as_it_was_written(collection):
    line = predict(group_of(collection, 1, 5, 2), right([1, 5, 2]), arm="rarl", split="test")
    turned = replace(line, list=3, rotation=2)
    assert list(line.to_json()) == KEYS
    assert list(turned.to_json()) == [*KEYS, "list", "rotation"]
    for each in (line, turned):
        assert Prediction.from_json(json.loads(json.dumps(each.to_json())), "x") == each
    assert (line.is_rotated, turned.is_rotated) == (False, True)


def test_the_lenient_reading_stands_in_a_line_only_where_it_differs(collection):
    group, text = group_of(collection, 1, 5), right([1, 5])
    assert "lenient" not in predict(group, text).to_json()
    assert "lenient" not in predict(group, "no idea").to_json()  # both have nothing
    line = predict(group, text.replace("<answer>", "").replace("</answer>", ""), arm="base", split="test")
    assert list(line.to_json()) == [*KEYS, "lenient"]
    assert line.to_json()["lenient"] == {
        "values": [1, 5],
        "positions": [0, 1],
        "parsed": True,
        "valid": True,
        "tau": 1,
        "tau_values": 1,
    }
    assert (line.values, line.positions, line.parsed, line.valid, line.tau) == (
        [None] * 2,
        None,
        False,
        False,
        0,
    )
    assert Prediction.from_json(json.loads(json.dumps(line.to_json())), "x") == line
    second = line.read_leniently()
    assert (second.values, second.positions, second.valid, second.tau) == ([1, 5], [0, 1], True, 1)
    assert second.lenient is None
    assert predict(group, text).read_leniently() == predict(group, text)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([], "lenient is no object"),
        ({"values": [1]}, "lenient has no positions, parsed, valid, tau, tau_values"),
        (
            {"values": [1], **dict.fromkeys(("positions", "parsed", "valid", "tau", "tau_values"))},
            "lenient: values must",
        ),
    ],
)
def test_a_lenient_reading_that_is_none_names_its_place(changes, problem):
    with pytest.raises(DataError, match=f"^here is not a prediction: {problem}"):
        Prediction.from_json(prediction(2).to_json() | {"lenient": changes}, "here")


KEYS = [
    *("arm", "split", "images", "ids", "truth", "reply", "values", "positions"),
    *("parsed", "valid", "tau", "tau_values"),
]


def test_further_keys_of_a_line_are_passed_over():
    line = prediction(2)
    assert Prediction.from_json(line.to_json() | {"seconds": 3, "note": None}, "x") == line


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ids": ["a"]}, "ids must be a list of 2"),
        ({"truth": None}, "truth must be a list of 2"),
        ({"values": 3.0}, "values must be a list of 2"),
        ({"images": "2"}, "ids must be a list of 2"),
        ({"positions": [0]}, "positions must be null or a list of 2"),
        ({"positions": None}, "a valid reply has a position for every picture"),
        ({"positions": [0, None]}, "a valid reply has a position for every picture"),
        ({"tau": None}, "tau and tau_values must be numbers where there are several images"),
        ({"rotation": 1}, "list and rotation belong together"),
    ],
)
def test_a_line_that_is_no_prediction_names_its_place(changes, problem):
    with pytest.raises(DataError, match=f"^here line 3 is not a prediction: {problem}$"):
        Prediction.from_json(prediction(2).to_json() | changes, "here line 3")


@pytest.mark.parametrize("key", KEYS)
def test_a_line_without_one_of_its_keys_is_no_prediction(key):
    line = prediction(2).to_json()
    del line[key]
    with pytest.raises(DataError, match=f"^here is not a prediction: it has no {key}$"):
        Prediction.from_json(line, "here")


EXPECTED = Expected(2.5, 2, 1, 4, 2, 0.5)


def test_expected_values_stand_in_a_line_only_where_there_are_some():
    line = replace(prediction(2), expected=[EXPECTED, None])
    written = json.loads(json.dumps(line.to_json()))
    own = {"mean": 2.5, "median": 2, "low": 1, "high": 4, "mode": 2, "probability": 0.5}
    assert written["expected"] == [own, None]
    assert Prediction.from_json(written, "x") == line
    assert "expected" not in prediction(2).to_json()


@pytest.mark.parametrize("given", [[None], {}, "high", [1, None], [{"mean": 1}, None], [None, None, None]])
def test_expected_values_that_are_none_name_their_place(given):
    with pytest.raises(
        DataError, match=r"^here is not a prediction: expected must be a list of 2, each null"
    ):
        Prediction.from_json(prediction(2).to_json() | {"expected": given}, "here")
