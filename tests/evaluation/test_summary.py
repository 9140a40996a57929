"""What the predictions of an arm come to, worked by hand: single images, and the means of lists."""

import pytest

from helpers.asking import LISTS, SINGLE, TASK, group_of, prediction
from rarl.evaluation.prediction import Expected, predict
from rarl.evaluation.summary import by_column, expected_metrics, summarize


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


def believed(mean, median, low, high, mode, probability):
    return Expected(mean, median, low, high, mode, probability)


def test_expected_values_of_single_images():
    lines = [
        (3, believed(3.5, 3, 3, 4, 3, 0.75)),  # right, and within
        (2, believed(4.5, 4, 3, 6, 4, 0.75)),  # wrong, and below
        (8, None),  # no distribution: the midpoint 5
        (0, believed(0.5, 0, 0, 1, 0, 0.95)),
    ]
    metrics = expected_metrics(
        [prediction(truth=[truth], expected=[one]) for truth, one in lines], TASK, seed=0
    )
    assert metrics.keys() == {"mae_mean", "mae_median", "srcc_mean", "ece", "coverage"}
    assert metrics["mae_mean"]["value"] == pytest.approx((0.5 + 2.5 + 3 + 0.5) / 4)
    assert metrics["mae_median"]["value"] == pytest.approx((0 + 2 + 3 + 0) / 4)
    # Ranks of the truths 3, 2, 4, 1 and of the means 2, 3, 4, 1: 1 - 6 * (1 + 1) / (4 * 15).
    assert metrics["srcc_mean"]["value"] == pytest.approx(0.8)
    # Of the two at 0.75 one is right, 0.25 apart; the one at 0.95 is 0.05 apart.
    assert metrics["ece"]["value"] == pytest.approx((2 * 0.25 + 0.05) / 3)
    assert metrics["coverage"]["value"] == pytest.approx(2 / 3)
    assert [metrics[name]["n"] for name in ("mae_mean", "ece", "coverage")] == [4, 3, 3]


def test_lists_are_sorted_by_the_means_of_their_images():
    """Means 1, 3, 2 for truths 1, 2, 3: two pairs of three are right. Without the second one is, and two are
    0."""
    ones = [believed(mean, 0, 0, 0, 0, 1) for mean in (1, 3, 2)]
    lines = [
        prediction(3, truth=[1.0, 2.0, 3.0], expected=ones),
        prediction(3, truth=[1.0, 2.0, 3.0], expected=[ones[0], None, ones[2]]),
    ]
    turned = prediction(3, truth=[1.0, 2.0, 3.0], list=0, rotation=1)
    metrics = expected_metrics([*lines, turned], TASK, seed=0)
    assert metrics.keys() == {"tau3_mean"}
    assert metrics["tau3_mean"]["value"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert metrics["tau3_mean"]["n"] == 2


def test_there_are_no_expected_values_without_distributions():
    assert expected_metrics([single(3, 3.0), prediction(2)], TASK, seed=0) == {}
