"""The scale: what the values show of their scale, worked by hand, and what is refused."""

from pathlib import Path

import pytest

from rarl.data.sources.scale import Scale
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import COUNT, Task

RAW = Path("/photos/fruit")


@pytest.mark.parametrize(
    ("values", "low", "high", "step", "delta"),
    [
        ([0, 9, 4], 0, 9, 1, 2),  # a fifth is 1.8
        ([1, 2], 1, 2, 1, 1),  # 0.2 is less than a step
        ([0, 116], 0, 116, 1, 23),  # 23.2
        ([1, 5.5, 10], 1, 10, 0.5, 2),  # 1.8
        ([1, 1.5, 2.5, 4, 5], 1, 5, 0.5, 1),  # half points
        ([1, 1.2, 2.6, 4, 5], 1, 5, 0.2, 0.8),
        ([3.3, 5, 4.5], 3.3, 5, 0.1, 0.3),
        ([20, 30, 60], 20, 60, 1, 8),  # ages in years, although all are tens
        ([0, 0.05, 1], 0, 1, 0.05, 0.2),
        ([0.25, 0.5], 0.25, 0.5, 0.25, 0.25),
        ([0.26, 0.5], 0.26, 0.5, 0.02, 0.04),
        ([0.27, 0.5], 0.27, 0.5, 0.01, 0.05),
        ([0.001, 0.002], 0.001, 0.002, 0.001, 0.001),
        ([0, 1 / 3], 0, 0.3334, 0.0001, 0.0667),  # the ends go outwards to the grid
        ([-0.33333, 1], -0.3334, 1, 0.0001, 0.2667),
        ([1_700_000_000.5, 1_700_000_002], 1_700_000_000.5, 1_700_000_002, 0.5, 0.5),
        ([1_700_000_000.1, 1_700_000_002], 1_700_000_000.1, 1_700_000_002, 0.1, 0.4),
        ([-7, 5], -7, 5, 1, 2),  # 2.4
        ([0, 1000], 0, 1000, 1, 200),
        ([0.1 + 0.2, 0.7], 0.1 + 0.2, 0.7, 0.1, 0.1),  # 0.30000000000000004 lies on the grid; 0.08 rounds up
        ([0, 12.5, 20], 0, 20, 0.5, 4),
    ],
)
def test_a_scale_from_the_values(
    values: list[float], low: float, high: float, step: float, delta: float
) -> None:
    task, notes = Scale("ripeness").task(values, RAW)
    assert (task.name, task.rule, task.metric) == ("fruit", "ripeness", "mae")
    assert (task.low, task.high, task.step, task.delta) == pytest.approx((low, high, step, delta), abs=1e-9)
    assert len(notes) == 3  # every choice is told


def test_what_is_said_is_not_taken_from_the_values() -> None:
    said = Scale("beauty", (1, 10), step=0.5, delta=3, metric="srcc", name="own")
    assert said.task([2, 3], RAW) == (Task("own", "beauty", 1, 10, 0.5, 3, "srcc"), {})
    task, notes = Scale("beauty", (0, 50)).task([2, 3], RAW)
    assert (task.low, task.high, task.delta) == (0, 50, 10)
    assert list(notes) == ["step, from the values", "delta, a fifth of the range"]


@pytest.mark.parametrize("ends", [None, (1, 3)])
def test_values_lie_on_the_grid_of_a_step_that_is_said(ends: tuple[float, float] | None) -> None:
    with pytest.raises(ConfigError, match=r"--step 0.7: the value \d is not on that grid, .*: give a step"):
        Scale("x", ends, step=0.7).task([1, 2, 3], RAW)
    assert Scale("x", ends, step=0.5).task([1, 2, 3], RAW)[0].step == 0.5
    assert Scale("x", (1, 10), step=3).task([1, 4, 7], RAW)[0].step == 3
    assert Scale("x", (0, 1), step=0.1).task([0.1 + 0.2, 0.7], RAW)[0].step == 0.1  # but for binary


def test_whole_numbers_are_written_as_such() -> None:
    fields = Scale("x", (0.0, 10.0)).task([2.0, 3.0], RAW)[0].to_dict()
    assert [type(fields[key]) for key in ("low", "high", "step", "delta")] == [int] * 4


def test_names_are_places() -> None:
    scale = Scale("severity", names=("Low", "medium", "HIGH"))
    assert [scale.value(name, "x") for name in ("low", " MEDIUM ", "High")] == [0, 1, 2]
    task, notes = scale.task([0, 1], RAW)
    assert task == Task("fruit", "severity (0 Low, 1 medium, 2 HIGH)", 0, 2, 1, 1)
    assert notes["order"] == ["Low", "medium", "HIGH"]
    # Also where not all of them occur.
    assert scale.task([1, 1], RAW)[0].high == 2
    with pytest.raises(DataError, match=r"^row 7: value 'lo' is none of the order Low, medium, HIGH"):
        scale.value("lo", "row 7")


@pytest.mark.parametrize(("given", "value"), [(3, 3), ("3", 3), (" -2.5 ", -2.5), ("1e2", 100), (0.5, 0.5)])
def test_values(given: object, value: float) -> None:
    assert Scale("x").value(given, "here") == value


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        *((given, "--order low,medium,high") for given in ("adult", True, "inf", [3], "1_0")),
        *((given, "remove the row; or, .*--order low") for given in ("none", "NA")),
        *((given, "the number alone, without a unit; or, .*--order low") for given in ("3 kg", "0_healthy")),
        *((given, "fill it, or remove the row") for given in ("", " ", None, "nan", float("nan"), "N/A")),
        *(
            (given, "write it with a decimal point")
            for given in ("3,5", "1.234,5", "40%", "1 000", "1/5", "1'000")
        ),
    ],
)
def test_no_values(given: object, mend: str) -> None:
    with pytest.raises(DataError, match=rf"^here: value .* is not a number; .*{mend}"):
        Scale("x").value(given, "here")


def test_values_outside_the_range() -> None:
    scale = Scale("x", (-1, 5))
    assert [scale.value(given, "here") for given in (-1, 5)] == [-1, 5]
    for given in (-1.01, "5.01"):
        with pytest.raises(DataError, match=r"^here: value .* is outside the range -1-5"):
            scale.value(given, "here")


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"ends": (5, 5)}, "--range 5-5"),
        ({"ends": (9, 1)}, "--range 9-1"),
        ({"step": 0}, "--step 0"),
        ({"step": -1}, "--step -1"),
        ({"step": float("nan")}, "--step nan"),
        ({"step": float("inf")}, "--step inf"),
        ({"delta": 0}, "--delta 0"),
        ({"delta": -2}, "--delta -2"),
        ({"names": ("low",)}, "--order low: must be two names or more"),
        ({"names": ("low", "high", "LOW")}, "--order low,high,LOW: .*each another"),
        ({"names": ("low", "high"), "ends": (0, 5)}, "--range and --order both"),
        ({"names": ("low", "high"), "step": 1}, "--step and --order both"),
    ],
)
def test_what_can_be_no_scale(scale: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scale("x", **scale)


def test_values_that_are_all_the_same_need_a_range() -> None:
    with pytest.raises(ConfigError, match="all values are 3: give the ends of the scale, as --range"):
        Scale("x").task([3, 3], RAW)
    assert Scale("x", (0, 5)).task([3, 3], RAW)[0].high == 5
    with pytest.raises(DataError, match="no images with values"):
        Scale("x").task([], RAW)


def test_the_scale_of_orders_is_the_model_s_own() -> None:
    task, notes = Scale("ripeness").ordered(RAW)
    assert task == Task("fruit", "ripeness", 0, 100, 1, 20)
    assert notes["known"] == "orders alone"
    assert Scale("x", (0, 1), step=0.1).ordered(RAW)[0] == Task("fruit", "x", 0, 1, 0.1, 0.2)
    with pytest.raises(ConfigError, match="--orders knows none"):
        Scale("x", names=("low", "high")).ordered(RAW)


def test_what_is_said_of_counts() -> None:
    assert Scale("").said_of(COUNT) == COUNT
    said = Scale("cells", (0, 30), 1, 4, "mae", (), "cells").said_of(COUNT)
    assert said == Task("cells", "cells", 0, 30, 1, 4, "mae")
    with pytest.raises(ConfigError, match="counts have none"):
        Scale("", names=("low", "high")).said_of(COUNT)
