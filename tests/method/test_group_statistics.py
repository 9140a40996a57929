"""Groups whose numbers are not plain sums, worked by hand: TRL's `normalize_then_sum` and the statistics of
the policy's own responses."""

import math

import pytest
import torch

from rarl.method.group_statistics import (
    mean_and_deviation,
    normalized_references,
    normalized_sums,
    own_advantages,
)
from rarl.method.mutation import is_stagnant

NAN = math.nan


def test_the_mean_and_the_deviation():
    assert mean_and_deviation([1.0, NAN, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_and_deviation([2.0, 2.0 + 1e-8]) == (pytest.approx(2.0), 0.0)
    mean, deviation = mean_and_deviation([NAN])
    assert (math.isnan(mean), deviation) == (True, 0.0)


def test_equal_sums_with_unequal_parts_are_no_stagnant_group():
    """Every sum is 3. The columns' means are 3/4, 2 and 1/4, their deviations 3/2, sqrt(2) and 1/2."""
    parts = [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 2.0, 1.0]]
    sums = normalized_sums(parts, [1.0, 1.0, 1.0])
    root = math.sqrt(2)
    expected = [1.5 - root - 0.5, -0.5 + 1 / root - 0.5, -0.5 + 1 / root - 0.5, -0.5 + 1.5]
    assert sums == pytest.approx(expected, abs=1e-3)
    assert is_stagnant([3.0] * 4, [5.0] * 4)
    assert not is_stagnant(sums, normalized_references(parts, [[3.0, 3.0, 1.0]] * 4, [1.0, 1.0, 1.0]))


def test_they_are_trl_s_up_to_the_batch_s_shift_and_scale():
    parts = torch.tensor([[[1.0, 3.0], [0.0, 3.0], [0.5, 1.0]], [[0.0, 1.0], [1.0, 0.0], [1.0, 0.5]]])
    weights = torch.tensor([1.0, 0.5])
    normalized = (parts - parts.mean(dim=1, keepdim=True)) / (parts.std(dim=1, keepdim=True) + 1e-4)
    expected = (normalized * weights).sum(dim=2)
    for group, sums in zip(parts.tolist(), expected.tolist(), strict=True):
        assert normalized_sums(group, weights.tolist()) == pytest.approx(sums, abs=1e-5)


def test_a_reference_gains_by_the_deviation_of_both_together():
    """All responses earn 0, all references 1: mean 1/2 and deviation sqrt(4 / 4 / 3) of the four numbers."""
    assert normalized_sums([[0.0], [0.0]], [2.0]) == [0.0, 0.0]
    [first, second] = normalized_references([[0.0], [0.0]], [[1.0], [1.0]], [2.0])
    assert first == second == pytest.approx(2 / (math.sqrt(1 / 3) + 1e-4))
    assert is_stagnant([0.0, 0.0], [first, second])


def test_an_absent_reward_counts_nothing():
    assert normalized_sums([[1.0, NAN], [0.0, NAN]], [1.0, 1.0])[0] == pytest.approx(0.5 / (0.5**0.5 + 1e-4))
    assert math.isnan(normalized_sums([[NAN], [1.0]], [1.0])[0])
    assert normalized_references([[1.0, NAN]], [[1.0, NAN]], [1.0, 1.0]) == [0.0]


def test_advantages_by_own_statistics():
    """The policy earned 0, 0, 0 and 4: mean 1, deviation 2. Two were replaced by 5."""
    found = own_advantages([0.0, 0.0, 0.0, 4.0], [5.0, 5.0, 0.0, 4.0])
    assert found == pytest.approx([4 / 2.0001, 4 / 2.0001, -1 / 2.0001, 3 / 2.0001])
    assert own_advantages([0.0, 2.0, NAN], [5.0, 2.0, NAN])[2] == 0.0


def test_own_rewards_that_do_not_differ_have_no_statistics():
    assert own_advantages([3.0, 3.0, 3.0], [5.0, 3.0, 3.0]) is None
