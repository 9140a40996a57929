"""What a grid's cells come to: means over seeds, how far two arms are apart, and that only like is compared.
The intervals are worked by hand from a table of Student's t, or from data that leave them no choice."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from helpers.asking import prediction
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import AESTHETICS, COUNT, DIGITS
from rarl.paper.grid import Cell
from rarl.paper.results import differences, measured, over_seeds

# ── over seeds ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    [
        # The table of t at 0.975: 12.7062 for 1 degree of freedom, 4.30265 for 2, 2.77645 for 4.
        ([1.0, 3.0], 2.0, 12.7062 * math.sqrt(2) / math.sqrt(2)),
        ([1.0, 2.0, 3.0], 2.0, 4.30265 * 1 / math.sqrt(3)),
        ([3.0, 1.0, 2.0], 2.0, 4.30265 * 1 / math.sqrt(3)),
        ([2.0, 4.0, 4.0, 4.0, 6.0], 4.0, 2.77645 * math.sqrt(2) / math.sqrt(5)),
        ([0.5, 0.5, 0.5], 0.5, 0.0),
        ([-0.3, 0.3, 0.0], 0.0, 4.30265 * 0.3 / math.sqrt(3)),
    ],
)
def test_the_mean_over_seeds_and_student_s_interval(values, mean, half):
    entries = [{"value": value, "low": -99.0, "high": 99.0, "n": 400} for value in values]
    found = over_seeds(entries)
    assert found["value"] == pytest.approx(mean)
    assert found["low"] == pytest.approx(mean - half, abs=1e-4)
    assert found["high"] == pytest.approx(mean + half, abs=1e-4)
    assert (found["n"], found["seeds"]) == (len(values), values)


def test_one_seed_keeps_its_own_interval():
    entry = {"value": 1.5, "low": 1.25, "high": 1.75, "n": 400}
    assert over_seeds([entry]) == {**entry, "seeds": [1.5]}


# ── cells as they are left ───────────────────────────────────────────────────────────────────────────────


def line_of(arm, ids, truth, values, tau=None, **further):
    known = {"arm": arm, "ids": ids, "truth": truth, "values": values, "reply": "a\u2028b"}
    return prediction(len(ids), **known | {"tau": tau, "tau_values": tau} | further)


@pytest.fixture
def cell_of(tmp_path):
    """`cell_of(arm, seed, lines, metrics)`: a cell that was evaluated so."""

    def make(arm, seed=0, lines=(), metrics=None, **head):
        folder = tmp_path / f"seed-{seed}/{arm}"
        folder.mkdir(parents=True)
        cell = Cell(arm, seed, SimpleNamespace(output=folder), "base")
        if metrics is not None:
            entries = {
                name: {"value": value, "low": value - 1, "high": value + 1, "n": 9}
                for name, value in metrics.items()
            }
            saved = {"task": "digits", "split": "test", "seed": seed, "collection": "c0ffee"}
            saved |= {"lists": {"2": {"n": 4, "tie_rate": 0.0}}, "arms": {arm: entries}}
            (folder / "metrics.json").write_text(json.dumps(saved | head))
            text = "".join(json.dumps(line.to_json(), ensure_ascii=False) + "\n" for line in lines)
            (folder / "predictions.jsonl").write_text(text, encoding="utf-8")
        return cell

    return make


def singles(arm, truths, values):
    return [
        line_of(arm, [f"i{place}"], [truth], [value])
        for place, (truth, value) in enumerate(zip(truths, values, strict=True))
    ]


def lists(arm, taus, count=2):
    names = [f"p{place}" for place in range(count)]
    return [line_of(arm, names, [0.0] * count, [0.0] * count, tau) for tau in taus]


# ── differences ──────────────────────────────────────────────────────────────────────────────────────────


def test_one_seed_is_compared_reply_by_reply(cell_of):
    """Each of the first arm's errors is one less, each tau half a one more, whatever was drawn: a paired
    interval has no width, and one of two separate samples would have."""
    truths = [1.0, 8.0, 3.0, 6.0]
    first = cell_of(
        "rarl",
        lines=singles("rarl", truths, [2.0, 5.0, 3.0, 8.0]) + lists("rarl", [1.0, 0.5, -0.5]),
        metrics={"mae": 1.5, "tau2": 1 / 3, "parsed": 1.0},
    )
    second = cell_of(
        "base",
        lines=singles("base", truths, [3.0, 4.0, 4.0, 9.0]) + lists("base", [0.5, 0.0, -1.0]),
        metrics={"mae": 2.5, "tau2": -1 / 6, "parsed": 0.5},
    )
    found = differences([second, first], "rarl", "base", DIGITS)
    assert found.keys() == {"mae", "tau2"}
    for name, value in {"mae": -1.0, "tau2": 0.5}.items():
        assert found[name]["value"] == pytest.approx(value)
        assert found[name]["low"] == pytest.approx(value)
        assert found[name]["high"] == pytest.approx(value)
        assert found[name]["seeds"] == pytest.approx([value])
    turned = differences([first, second], "base", "rarl", DIGITS)
    assert turned["mae"]["value"] == pytest.approx(1.0)
    assert turned["tau2"]["high"] == pytest.approx(-0.5)


def test_replies_that_differ_give_an_interval_around_the_difference(cell_of):
    truths, zeros = [0.0] * 40, [0.0] * 40
    halves = [0.0, 4.0] * 20  # errors of 0 and 4: on average 2
    first = cell_of("rarl", lines=singles("rarl", truths, halves), metrics={"mae": 2.0})
    second = cell_of("base", lines=singles("base", truths, zeros), metrics={"mae": 0.0})
    entry = differences([first, second], "rarl", "base", DIGITS)["mae"]
    assert entry["value"] == 2.0
    # The standard error of the mean of 40 numbers with deviation 2 is 0.316; 1.96 of it to each side.
    assert entry["low"] == pytest.approx(2 - 0.62, abs=0.15)
    assert entry["high"] == pytest.approx(2 + 0.62, abs=0.15)
    again = differences([first, second], "rarl", "base", DIGITS)["mae"]
    assert again == entry


def test_lists_that_share_images_have_no_p_value(cell_of):
    """Three lists of the same two images, as an earlier version drew them, and then of two images each."""
    for seed, apart in ((0, False), (1, True)):
        made = []
        for arm, taus in (("rarl", [1.0, 1.0, 0.5]), ("base", [0.0, 0.5, 0.5])):
            lines = lists(arm, taus)
            if apart:
                lines = [replace(line, ids=[f"a{n}", f"b{n}"]) for n, line in enumerate(lines)]
            made.append(cell_of(arm, seed, lines, {"tau2": sum(taus) / 3}))
        entry = differences(made, "rarl", "base", DIGITS)["tau2"]
        assert ("p" in entry) == apart
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_a_missing_value_is_the_midpoint_and_an_absurd_one_the_end_of_the_range(cell_of):
    """As in the metrics themselves. The truth is 9; the midpoint 4.5 is off by 4.5, and 9 by nothing."""
    first = cell_of("rarl", lines=singles("rarl", [9.0] * 3, [None] * 3), metrics={"mae": 4.5})
    second = cell_of("base", lines=singles("base", [9.0] * 3, [1e9] * 3), metrics={"mae": 0.0})
    entry = differences([first, second], "rarl", "base", DIGITS)["mae"]
    assert (entry["low"], entry["high"]) == (4.5, 4.5)


def test_a_missing_value_is_a_miss_where_hits_are_counted(cell_of):
    """The truth is the midpoint of 0 to 200, which a missing value must not pass for."""
    mute = cell_of("base", lines=singles("base", [100.0] * 3, [None] * 3), metrics={"accuracy": 0.0})
    right = cell_of("rarl", lines=singles("rarl", [100.0] * 3, [100.0] * 3), metrics={"accuracy": 1.0})
    entry = differences([mute, right], "rarl", "base", COUNT)["accuracy"]
    assert (entry["low"], entry["high"]) == (1.0, 1.0)


def test_the_metric_of_one_image_is_the_task_s(cell_of):
    truths = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    right = cell_of("rarl", lines=singles("rarl", truths, truths), metrics={"accuracy": 1.0, "srcc": 1.0})
    wrong = [value + 1 for value in truths]
    other = cell_of("base", lines=singles("base", truths, wrong), metrics={"accuracy": 0.0, "srcc": 1.0})
    found = differences([right, other], "rarl", "base", COUNT)
    assert found.keys() == {"accuracy"}
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (1.0, 1.0)
    found = differences([right, other], "rarl", "base", AESTHETICS)
    assert found.keys() == {"srcc"}
    assert (found["srcc"]["low"], found["srcc"]["high"]) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_rotated_lists_and_other_arms_do_not_count(cell_of):
    """A file may hold both; the lists that were asked again are for agreement alone."""
    more = [
        line_of("rarl", ["p1", "p0"], [0.0, 0.0], [0.0, 0.0], -1.0, list=0, rotation=1),
        *lists("sft", [-1.0, -1.0, -1.0]),
    ]
    first = cell_of("rarl", lines=lists("rarl", [1.0, 1.0]) + more, metrics={"tau2": 1.0})
    second = cell_of("base", lines=lists("base", [0.0, 0.0]), metrics={"tau2": 0.0})
    entry = differences([first, second], "rarl", "base", DIGITS)["tau2"]
    assert (entry["low"], entry["high"]) == (1.0, 1.0)


def test_several_seeds_are_compared_seed_by_seed(cell_of):
    """Differences of 1, 2 and 3 digits, though the seeds themselves are far apart."""
    grid = []
    for seed, base, ours in [(0, 5.0, 4.0), (1, 9.0, 7.0), (2, 4.0, 1.0)]:
        grid.append(cell_of("base", seed, metrics={"mae": base, "tau2": 0.5, "tau4": 0.5}))
        grid.append(cell_of("rarl", seed, metrics={"mae": ours, "tau2": 0.5}))
    found = differences(grid, "rarl", "base", DIGITS)
    assert found.keys() == {"mae", "tau2"}  # what both have
    assert found["mae"]["value"] == pytest.approx(-2.0)
    assert found["mae"]["low"] == pytest.approx(-2 - 2.48414, abs=1e-4)
    assert found["mae"]["high"] == pytest.approx(-2 + 2.48414, abs=1e-4)
    assert found["mae"]["seeds"] == pytest.approx([-1, -2, -3])
    assert (found["tau2"]["low"], found["tau2"]["high"]) == (0.0, 0.0)


def test_a_seed_that_lacks_one_of_the_two_is_left_out(cell_of):
    lines = {arm: singles(arm, [1.0, 2.0], [1.0, 2.0]) for arm in ("rarl", "base")}
    grid = [
        cell_of("base", 0, lines["base"], {"mae": 0.0}),
        cell_of("rarl", 0, lines["rarl"], {"mae": 0.0}),
        cell_of("base", 1, lines["base"], {"mae": 7.0}),
        cell_of("rarl", 1),
        cell_of("rarl", 2, lines["rarl"], {"mae": 7.0}),
    ]
    assert differences(grid, "rarl", "base", DIGITS)["mae"]["seeds"] == [0.0]
    assert differences(grid[2:], "rarl", "base", DIGITS) == {}
    assert differences(grid, "rarl", "joint", DIGITS) == {}


def test_replies_that_can_t_be_read_name_their_file_and_the_mend(cell_of):
    first = cell_of("rarl", lines=singles("rarl", [1.0], [1.0]), metrics={"mae": 0.0})
    second = cell_of("base", lines=singles("base", [1.0], [1.0]), metrics={"mae": 0.0})
    file = second.folder / "predictions.jsonl"
    for damage in (lambda: file.write_text('{"arm": "ba'), file.unlink):
        damage()
        with pytest.raises(DataError, match=r"predictions.jsonl: can't be read .*; remove .*seed-0/base"):
            differences([first, second], "rarl", "base", DIGITS)


# ── only like is compared ────────────────────────────────────────────────────────────────────────────────


def test_what_was_measured_by_seed_and_arm(cell_of):
    grid = [
        cell_of("base", 0, metrics={"mae": 1.0}),
        cell_of("rarl", 0),  # not evaluated yet
        cell_of("base", 1, metrics={"mae": 2.0}),
        cell_of("rarl", 1, metrics={"mae": 3.0}),
    ]
    found = measured(grid)
    assert {seed: list(arms) for seed, arms in found.items()} == {0: ["base"], 1: ["base", "rarl"]}
    assert found[1]["rarl"]["arms"]["rarl"]["mae"]["value"] == 3.0
    assert measured([]) == {}


def test_a_cell_that_measured_another_arm_is_not_taken_for_it(cell_of):
    cell = cell_of("rarl", metrics={"mae": 1.0})
    file = cell.folder / "metrics.json"
    file.write_text(file.read_text().replace('"rarl"', '"joint"'))
    assert measured([cell]) == {}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"collection": "decade"}, "collection"),
        ({"lists": {"2": {"n": 5, "tie_rate": 0.0}}}, "lists"),
        ({"lists": {}}, "lists"),
        ({"split": "validation"}, "split"),
        ({"task": "age", "collection": "decade"}, "task and collection"),
    ],
)
def test_cells_of_different_images_are_not_compared(cell_of, other, named):
    grid = [cell_of("base", metrics={"mae": 1.0}), cell_of("rarl", metrics={"mae": 1.0}, **other)]
    with pytest.raises(ConfigError) as caught:
        measured(grid)
    message = str(caught.value)
    assert f"not of the same {named}:" in message
    for cell in grid:
        assert str(cell.folder / "metrics.json") in message


@pytest.mark.parametrize(
    ("key", "value"), [("collection", "decade"), ("split", "validation"), ("task", "age")]
)
def test_seeds_of_different_images_are_not_averaged(cell_of, key, value):
    """Lists are drawn anew for each seed; the images they are of are the same."""
    grid = [
        cell_of("base", 0, metrics={"mae": 1.0}),
        cell_of("base", 1, metrics={"mae": 1.0}, **{key: value}),
    ]
    with pytest.raises(ConfigError, match=f"not of the same {key}:"):
        measured(grid)


def test_lists_of_two_seeds_may_have_other_ties(cell_of):
    drawn = {"lists": {"2": {"n": 4, "tie_rate": 0.25}}}
    grid = [cell_of("base", 0, metrics={"mae": 1.0}), cell_of("base", 1, metrics={"mae": 1.0}, **drawn)]
    assert list(measured(grid)) == [0, 1]
