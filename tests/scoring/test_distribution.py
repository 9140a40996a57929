"""Distributions over a grid, worked by hand."""

import numpy as np
import pytest

from rarl.scoring.distribution import Distributions

THREE = Distributions(
    np.array([0.0, 1.0, 4.0]), np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.1, 0.1, 0.8]])
)


def test_mean_median_mode_and_deviation():
    assert THREE.mean == pytest.approx([1.25, 1, 3.3])
    assert THREE.median.tolist() == [0, 1, 4]  # half of the first is at 0 already
    assert THREE.mode.tolist() == [0, 1, 4]
    # E[x^2] - E[x]^2: .25 + 4 - 1.5625; 0; .1 + 12.8 - 10.89.
    assert THREE.std**2 == pytest.approx([2.6875, 0, 2.01])


@pytest.mark.parametrize(
    ("level", "low", "high"),
    [(0.8, [0, 1, 0], [4, 1, 4]), (0.5, [0, 1, 4], [1, 1, 4]), (0.0, [0, 1, 4], [0, 1, 4])],
)
def test_an_interval_leaves_as_much_below_as_above(level, low, high):
    """0.5 leaves a quarter at each side: of the first row 0 has it below, and 1 reaches three quarters."""
    ends = THREE.interval(level)
    assert [end.tolist() for end in ends] == [low, high]


def test_a_temperature_of_2_takes_square_roots():
    wide = Distributions(np.array([0.0, 1.0]), np.array([[0.2, 0.8], [1.0, 0.0]])).tempered(2)
    assert wide.probabilities == pytest.approx(np.array([[1 / 3, 2 / 3], [1, 0]]))


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_a_temperature_is_above_0(temperature):
    with pytest.raises(ValueError, match="must be above 0"):
        THREE.tempered(temperature)


def test_log_probs_need_no_scale():
    """Far below what a float holds, and with a constant of its own in each row."""
    found = Distributions.from_log_probs([0, 1], np.log([[1, 3], [1, 1]]) + np.array([[-2000], [500]]))
    assert found.probabilities == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))


def test_a_value_off_the_grid_counts_as_the_nearest():
    assert THREE.probability_of([0.4, 1, 9]).tolist() == [0.5, 1.0, 0.8]
    assert THREE.nearest([2.4, 2.6, 0.5]).tolist() == [1, 4, 0]
