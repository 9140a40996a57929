"""Tasks are values: what the built-in ones are, what they derive, and that a wrong one is refused by name."""

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from rarl.errors import ConfigError, DataError
from rarl.method.tasks import AESTHETICS, AGE, COUNT, DIGITS, TASKS, Task, task_named

FIELDS: dict[str, Any] = {"name": "t", "rule": "length", "low": 0, "high": 9, "step": 1, "delta": 2}


def test_the_tasks_of_the_paper() -> None:
    assert list(TASKS) == ["age", "count", "aesthetics", "digits"]
    assert [task.rule for task in TASKS.values()] == [
        "facial age",
        "number of objects",
        "aesthetic quality",
        "handwritten digit",
    ]
    # Section 4.1: MAE for age, accuracy for counting, SRCC for aesthetics.
    assert [task.metric for task in TASKS.values()] == ["mae", "accuracy", "srcc", "mae"]


@pytest.mark.parametrize(
    ("task", "value_range", "midpoint"),
    [(AGE, "0-116", 58), (COUNT, "0-200", 100), (AESTHETICS, "1-10", 5.5), (DIGITS, "0-9", 4.5)],
)
def test_range(task: Task, value_range: str, midpoint: float) -> None:
    assert task.value_range == value_range
    assert task.midpoint == midpoint


def test_a_range_of_fractions_is_spelled_shortly() -> None:
    assert Task("t", "length", low=0.5, high=2.25, step=0.25, delta=1).value_range == "0.5-2.25"


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        (0, True),
        (116, True),
        (30.5, True),
        (-0.001, False),
        (116.001, False),
        (math.nan, False),
        (math.inf, False),
    ],
)
def test_contains(value: float, inside: bool) -> None:
    assert AGE.contains(value) is inside


@pytest.mark.parametrize("value", [0, 116, 30, 30.5])
def test_check_passes_what_the_range_holds(value: float) -> None:
    checked = AGE.check(value, "here")
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("adult", "metadata.jsonl line 17: value 'adult' is not a number; age expects 0-116"),
        ("30", "metadata.jsonl line 17: value '30' is not a number; age expects 0-116"),
        (None, "metadata.jsonl line 17: value None is not a number; age expects 0-116"),
        (True, "metadata.jsonl line 17: value True is not a number; age expects 0-116"),
        ([30], r"metadata.jsonl line 17: value \[30\] is not a number; age expects 0-116"),
        (117, "metadata.jsonl line 17: value 117 is outside the range; age expects 0-116"),
        (-1, "metadata.jsonl line 17: value -1 is outside the range; age expects 0-116"),
        (math.nan, "metadata.jsonl line 17: value nan is outside the range; age expects 0-116"),
        (10**400, "metadata.jsonl line 17: value 10+ is outside the range; age expects 0-116"),
    ],
)
def test_check_names_the_place_the_value_and_the_range(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        AGE.check(value, "metadata.jsonl line 17")


@pytest.mark.parametrize(
    ("task", "value", "nearest"),
    [
        (AGE, 30.4, 30),
        (AGE, 30.5, 31),
        (AGE, 30, 30),
        (AGE, -5, 0),
        (AGE, 500, 116),
        (AESTHETICS, 5.432, 5.43),
        (AESTHETICS, 0.2, 1),
        (Task("t", "length", low=0.5, high=9.5, step=1, delta=2), 1.9, 1.5),
        (Task("t", "length", low=0, high=10, step=4, delta=2), 9.9, 8),
        (Task("t", "length", low=0, high=10, step=4, delta=2), 10.1, 10),
    ],
)
def test_nearest(task: Task, value: float, nearest: float) -> None:
    assert task.nearest(value) == pytest.approx(nearest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name must be a text"),
        ({"rule": "  "}, "rule must be a text"),
        ({"rule": 3}, "rule must be a text"),
        ({"low": "0"}, "low must be a finite number, not '0'"),
        ({"high": math.inf}, "high must be a finite number, not inf"),
        ({"low": math.nan}, "low must be a finite number, not nan"),
        ({"step": True}, "step must be a finite number, not True"),
        ({"low": 9}, r"low \(9\) must be less than high \(9\)"),
        ({"low": 10}, r"low \(10\) must be less than high \(9\)"),
        ({"step": 0}, "step must be greater than 0, not 0"),
        ({"delta": -1}, "delta must be greater than 0, not -1"),
        ({"metric": "auc"}, "metric must be one of mae, accuracy, srcc, not 'auc'"),
    ],
)
def test_a_wrong_task_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"task '.*': {message}"):
        Task(**{**FIELDS, **change})


def test_a_task_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        AGE.low = 3  # type: ignore[misc]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_survives_the_way_through_a_dict(task: Task) -> None:
    assert Task.from_dict(task.to_dict(), "task.yaml") == task


def test_from_dict_fills_in_the_metric_alone() -> None:
    assert Task.from_dict(FIELDS, "task.yaml").metric == "mae"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**FIELDS, "detla": 3}, "task.yaml: unknown key 'detla'; did you mean 'delta'?"),
        ({**FIELDS, "colour": 3}, "task.yaml: unknown key 'colour'; the keys are name, rule, low"),
        ({**FIELDS, 3: 3}, "task.yaml: unknown key '3'"),
        (
            {"name": "t", "rule": "length", "low": 0, "high": 9},
            "task.yaml: missing step, delta; the keys are",
        ),
        ({**FIELDS, "low": 99}, "task.yaml: task 't': low"),
    ],
)
def test_from_dict_names_the_file_and_the_key(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Task.from_dict(fields, "task.yaml")
    assert str(caught.value).startswith(message)


def test_task_named() -> None:
    assert task_named("age") is AGE
    with pytest.raises(ConfigError, match="unknown task 'digit': did you mean 'digits'"):
        task_named("digit")
    with pytest.raises(ConfigError, match="unknown task 'xyz': the tasks are age, count, aesthetics, digits"):
        task_named("xyz")


@pytest.mark.parametrize("name", ["../evil", "/etc", "a/b", "a\\b", ".hidden", "a\nb", "\x1b[31m", "a" * 101])
def test_a_name_that_could_lead_a_folder_elsewhere_is_refused(name):
    with pytest.raises(ConfigError, match="name must be of letters, digits"):
        replace(AGE, name=name)


@pytest.mark.parametrize("name", ["sign_digits", "Reife 2", "v1.2", "größe", "a-b"])
def test_names_of_any_language_are_fine(name):
    assert replace(AGE, name=name).name == name
