"""What the predictions of an arm come to, worked by hand: single images, and the means of lists."""

import pytest

from helpers.asking import LISTS, SINGLE, TASK, group_of, prediction
from rarl.evaluation.prediction import predict
from rarl.evaluation.summary import by_column, summarize


def single(truth, value):
    valid = value is not None
    return prediction(truth=[truth], values=[value], valid=valid, positions=[0] if valid else None)


def test_single_images(collection):
    # Errors 0, 0.4, 3 (missing: the midpoint 5), 10 (1e300 counts as 10). 1.6 rounds to 2, so two are exact.
    lines = [single(3, 3.0), single(2, 1.6), single(8, None), single(0, 1e300)]
    metrics = summarize(lines, TASK, seed=0)
    assert set(metrics) == {*SINGLE, "parsed", "valid"}
    assert metrics["mae"]["value"] == pytest.approx(13.4 / 4)
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 4)
    assert metrics["within_one"]["value"] == pytest.approx(2 / 4)
    # Ranks of the truths 3, 2, 4, 1 and of what counts 2, 1, 3, 4: 1 - 6 * (1 + 1 + 1 + 9) / (4 * 15) = -0.2.
    assert metrics["srcc"]["value"] == pytest.approx(-0.2)
    # Truths 3, 2, 8, 0 less 3.25 and what counts, 3, 1.6, 5, 10, less 4.9, multiplied: 0.475 + 4.125 + 0.475
    # - 16.575 = -11.5; squares 34.75 and 3.61 + 10.89 + 0.01 + 26.01 = 40.52; sqrt(34.75 * 40.52) = 37.525.
    assert metrics["plcc"]["value"] == pytest.approx(-11.5 / 37.525, abs=1e-4)
    assert metrics["valid"]["value"] == pytest.approx(3 / 4)
    for entry in metrics.values():
        assert entry["n"] == 4
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_a_mute_model_hits_nothing_and_has_the_error_of_the_midpoint():
    # The truths 5, 4 and 6 are the midpoint 5 and its neighbours: no answer must not pass for a good one.
    lines = [single(truth, None) for truth in (5, 4, 6, 5)]
    metrics = summarize(lines, TASK, seed=0)
    assert metrics["accuracy"] == metrics["within_one"] == {"value": 0, "low": 0, "high": 0, "n": 4}
    assert metrics["mae"]["value"] == pytest.approx((0 + 1 + 1 + 0) / 4)
    groups = by_column(lines, {"camera": {"i0": "one"}}, TASK, seed=0)["camera"]["one"]
    assert groups["accuracy"]["value"] == groups["within_one"]["value"] == 0
    assert groups["mae"]["value"] == pytest.approx(1 / 2)


def test_the_same_value_everywhere_correlates_with_nothing():
    metrics = summarize([single(truth, 5.0) for truth in (1, 2, 3)], TASK, seed=0)
    assert metrics["srcc"] == metrics["plcc"] == {"value": 0, "low": 0, "high": 0, "n": 3}


def test_the_mean_of_lists_is_by_image_count(collection):
    lines = [
        predict(group_of(collection, *truths), f"<answer>{answer}</answer>") for truths, answer, *_ in LISTS
    ]
    metrics = summarize(lines, TASK, seed=0)
    # The column above: 1 - 1 - 1 + 1 and five zeros over nine lists of two; 1/3 over one list of three.
    assert {key: metrics[key]["value"] for key in ("tau2", "tau2_values", "tau3", "tau3_values")} == (
        pytest.approx({"tau2": 0, "tau2_values": 1 / 9, "tau3": 1 / 3, "tau3_values": 1})
    )
    assert (metrics["tau2"]["n"], metrics["tau3"]["n"], metrics["valid"]["n"]) == (9, 1, 10)
    assert metrics["parsed"]["value"] == pytest.approx(9 / 10)
    assert metrics["valid"]["value"] == pytest.approx(5 / 10)
    assert metrics["tau2"]["low"] < 0 < metrics["tau2"]["high"]
