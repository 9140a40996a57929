"""The files of an evaluated folder, read back: one that is missing or foreign is an error that names it. How
arms share them is in `test_evaluate`."""

import json

import pytest

from helpers.asking import prediction
from rarl.errors import ConfigError, DataError
from rarl.evaluation.results import (
    load_metrics,
    open_metrics,
    read_predictions,
    write_metrics,
    write_predictions,
)

METRICS = {
    "task": "digits",
    "split": "test",
    "seed": 0,
    "lists": {"2": {"n": 1, "tie_rate": 0.0}},
    "arms": {"base": {"tau2": {"value": 0.5, "low": 0.25, "high": 1.0, "n": 1}}},
}


def test_metrics_are_read_as_written(tmp_path):
    write_metrics(tmp_path, METRICS)
    assert load_metrics(tmp_path / "metrics.json") == METRICS


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.json: can't be read \(No such file"):
        load_metrics(tmp_path / "metrics.json")


GROUPS = {"gender": {"0": {"mae": {"value": 0.5, "low": 0.25, "high": 1.0, "n": 1}}, "(none)": {}}}


def test_subgroups_are_read_as_written(tmp_path):
    whole = {**METRICS, "collection": "one", "subgroups": {"base": GROUPS}}
    write_metrics(tmp_path, whole)
    assert load_metrics(tmp_path / "metrics.json") == whole
    assert open_metrics(tmp_path, "digits", "test", 0, "one") == whole


@pytest.mark.parametrize("groups", [{}, {"base": {}}, {"gone": GROUPS}])
def test_subgroups_of_no_arm_are_not_written(tmp_path, groups):
    write_metrics(tmp_path, {**METRICS, "subgroups": groups})
    assert load_metrics(tmp_path / "metrics.json") == METRICS


def test_an_arm_that_is_dropped_takes_its_subgroups_along(tmp_path):
    both = {**METRICS["arms"], "rarl": METRICS["arms"]["base"]}
    write_metrics(tmp_path, {**METRICS, "arms": both, "subgroups": dict.fromkeys(both, GROUPS)})
    saved = load_metrics(tmp_path / "metrics.json")
    del saved["arms"]["rarl"]
    write_metrics(tmp_path, saved)
    assert load_metrics(tmp_path / "metrics.json") == {**METRICS, "subgroups": {"base": GROUPS}}


@pytest.mark.parametrize("groups", [3, [], {"a": 3}, {"a": {"gender": []}}, {"a": {"gender": {"0": 1}}}])
def test_foreign_subgroups(tmp_path, groups):
    (tmp_path / "metrics.json").write_text(json.dumps({**METRICS, "subgroups": groups}))
    with pytest.raises(DataError, match=r"metrics\.json is not a metrics file of this library"):
        load_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "{}", json.dumps({**METRICS, "arms": {"base": 3}})])
def test_a_foreign_file(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json is not a metrics file of this library"):
        load_metrics(tmp_path / "metrics.json")


def write_a_number(out, value):
    write_metrics(out, {**METRICS, "arms": {"base": {"tau2": {"value": value}}}})


def write_a_prediction(out, value):
    write_predictions(out, "base", [prediction(2, tau=value)])


@pytest.mark.parametrize("write", [write_a_number, write_a_prediction])
def test_a_number_that_json_has_no_word_for_leaves_the_old_file(tmp_path, write):
    write(tmp_path, 0.5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path, float("nan"))
    assert len(before) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_belong_to_one_collection(tmp_path):
    assert open_metrics(tmp_path, "digits", "test", 0, "one")["collection"] == "one"
    write_metrics(tmp_path, {**METRICS, "collection": "one"})
    assert open_metrics(tmp_path, "digits", "test", 0, "one")["arms"] == METRICS["arms"]
    assert open_metrics(tmp_path, "digits", "test", 0)["collection"] == "one"
    with pytest.raises(ConfigError, match="is of another collection, or of this one before its test split"):
        open_metrics(tmp_path, "digits", "test", 0, "two")


def test_results_from_before_collections_were_told_apart_go_on(tmp_path):
    write_metrics(tmp_path, METRICS)
    assert open_metrics(tmp_path, "digits", "test", 0, "one")["collection"] == "one"


# ── predictions.jsonl ────────────────────────────────────────────────────────────────────────────────────


def test_predictions_are_read_as_written(tmp_path):
    """Also with marks in a reply that some take for line ends."""
    ours = [prediction(reply="a\u2028b\x85c\nd\x1c\r"), prediction(2, list=0, rotation=1)]
    theirs = [prediction(arm="rarl")]
    write_predictions(tmp_path, "rarl", theirs)
    write_predictions(tmp_path, "base", ours)
    assert list(read_predictions(tmp_path / "predictions.jsonl")) == [*theirs, *ours]
    write_predictions(tmp_path, "rarl", [])
    assert list(read_predictions(tmp_path / "predictions.jsonl")) == ours


def test_the_lines_of_other_arms_keep_keys_that_are_not_ours(tmp_path):
    path = tmp_path / "predictions.jsonl"
    line = json.dumps(prediction(arm="rarl").to_json() | {"note": 3}) + "\n"
    path.write_text(line)
    write_predictions(tmp_path, "base", [prediction()])
    assert path.read_text().startswith(line)
    assert len(list(read_predictions(path))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{", "line 2: not JSON"),
        ("[1, 2]", r"line 1: must be an object, not \[1, 2\]"),
        ('{"arm": "base"}', "line 1 is not a prediction: it has no split, images, ids"),
    ],
)
def test_a_line_that_is_no_prediction_is_named_and_stays(tmp_path, text, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"predictions\.jsonl {message}"):
        list(read_predictions(path))
    with pytest.raises(DataError, match=rf"predictions\.jsonl {message}.*; move the file away"):
        write_predictions(tmp_path, "base", [prediction()])
    assert path.read_text() == text
