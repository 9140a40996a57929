"""How sure a difference is: p-values from the bootstrap and over seeds, worked by hand or from tables, and
Holm's correction over all differences of a table."""

import numpy as np
import pytest

from helpers.grids import grid_entry, results_of
from rarl.evaluation.intervals import bootstrap_resamples, expanded_interval
from rarl.method.tasks import DIGITS
from rarl.paper.results import bootstrap_p, holm, paired_entry, student_p
from rarl.paper.tables import differences_table

# ── Holm's correction ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        # Against 0.05/4 = 0.0125, 0.05/3 = 0.0167, 0.05/2 = 0.025 and 0.05.
        ([0.01, 0.04, 0.03, 0.005], {0, 3}),
        ([0.01, 0.016, 0.02, 0.05], {0, 1, 2, 3}),
        # The first that fails ends it, although the last would pass: 0.02 is above 0.0167, 0.021 below 0.025.
        ([0.01, 0.02, 0.021, 0.04], {0}),
        ([0.013, 0.013, 0.013, 0.013], set()),
        ([0.05], {0}),
        ([0.051], set()),
        ([0.025, 0.025], {0, 1}),
        ([], set()),
    ],
)
def test_holm_by_hand(p_values, rejected):
    assert holm(dict(enumerate(p_values))) == rejected


def test_holm_marks_a_true_null_in_one_table_of_twenty_at_most():
    generator = np.random.default_rng(0)
    tables = [holm(dict(enumerate(generator.random(12)))) for _ in range(2000)]
    assert sum(map(bool, tables)) / 2000 == pytest.approx(0.05, abs=0.015)


# ── p-values ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "p"),
    [
        # t = mean / (deviation / sqrt(n)), against its table: 12.7062 with 1 degree of freedom is 0.05,
        # 4.30265 with 2 is 0.05, and 9.92484 with 2 is 0.01.
        ([12.7062 - 1, 12.7062 + 1], 0.05),
        ([4.30265 / 3**0.5 + shift for shift in (-1, 0, 1)], 0.05),
        ([-9.92484 / 3**0.5 + shift for shift in (-1, 0, 1)], 0.01),
        ([-1.0, 0.0, 1.0], 1.0),
        # Equal numbers: the sign test of n of them.
        ([0.5, 0.5, 0.5], 0.25),
        ([0.0, 0.0], 1.0),
    ],
)
def test_the_p_value_over_seeds(values, p):
    assert student_p(values) == pytest.approx(p, abs=1e-5)


def test_the_p_value_of_a_bootstrap_goes_with_its_interval():
    """Below 0.05 exactly where the interval leaves 0 out, apart from the rounding of 1,000 resamples."""
    generator = np.random.default_rng(1)
    for number in range(200):
        values = generator.normal(loc=generator.uniform(0, 1), size=int(generator.integers(6, 60)))
        resampled = bootstrap_resamples(values, seed=number)
        low, high = expanded_interval(resampled, len(values))
        p = bootstrap_p(float(values.mean()), resampled, len(values))
        assert 0 < p <= 1
        if abs(p - 0.05) > 0.01:
            assert (p < 0.05) == (low > 0 or high < 0), (number, p, low, high)


def test_beyond_all_resamples_the_p_value_is_student_s():
    """Two-sided of t = 10 with 99 degrees of freedom is 1.1e-16, and 1,000 resamples alone tell 0.002."""
    values = np.random.default_rng(2).normal(size=100)
    values = 1 + (values - values.mean()) / values.std(ddof=1)
    entry = paired_entry(values, seed=0)
    assert 1e-18 < entry["p"] < 1e-13
    assert paired_entry(-values, seed=0)["p"] == pytest.approx(entry["p"])
    assert entry["low"] == pytest.approx(1 - 0.198, abs=0.02)


@pytest.mark.parametrize(("values", "p"), [([0.5] * 5, 1 / 16), ([0.0] * 5, 1.0), ([0.5], 1.0)])
def test_equal_differences_are_judged_by_their_number(values, p):
    assert paired_entry(values, seed=0)["p"] == p


def test_p_values_of_no_difference_are_even():
    """5 % of them are below 0.05, and half below 0.5."""
    samples = np.random.default_rng(3).normal(size=(1000, 12))
    found = np.array([paired_entry(sample, seed=n)["p"] for n, sample in enumerate(samples)])
    assert np.mean(found < 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(found < 0.5) == pytest.approx(0.5, abs=0.05)


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────


def difference(value, low, high, p):
    return grid_entry(value, low, high) | {"p": p}


def test_the_table_counts_its_differences_and_marks_what_survives():
    """Four shown: 0.01 <= 0.05/4, but 0.02 > 0.05/3. SRCC is in no column and doesn't count."""
    found = {
        "base": {"mae": difference(-0.27, -0.42, -0.12, 0.01), "tau2": difference(0.2, 0.1, 0.3, 0.02)},
        "regression": {
            "mae": difference(0.1, -0.2, 0.4, 0.5),
            "tau8": difference(0.2, 0.01, 0.3, 0.04),
            "srcc": difference(0.2, 0.1, 0.3, 0.0001),
        },
        "rarl_no_mutation": {},
    }
    table = differences_table(results_of(differences=found), DIGITS)
    assert table.rows[0][1] == "-0.27*\n-0.42 – -0.12"
    assert table.rows[0][2] == "+0.200\n+0.10 – +0.30"
    assert not any("*" in cell for cell in (*table.rows[0][2:], *table.rows[1]))
    assert "Holm's correction at 5 % over the 4 differences of this table" in table.notes[1]


def test_results_of_an_earlier_version_have_no_marks():
    found = {"base": {"mae": grid_entry(-0.27, -0.42, -0.12)}}
    table = differences_table(results_of(differences=found), DIGITS)
    assert table.rows[0][1] == "-0.27\n-0.42 – -0.12"
    assert "1 of the 1 differences have no p-value" in table.notes[1]
    assert not any("Holm" in note for note in table.notes)
