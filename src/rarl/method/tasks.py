"""What is measured: a rule, a value range and a step (the slots of Table 1), with the tolerance of Eq. 3 and
the metric that heads the paper's tables. A new task is a new `Task(...)`; nothing here knows about images."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from rarl.errors import ConfigError, DataError, known_keys, nearest_word

HeadlineMetric = Literal["mae", "accuracy", "srcc"]
HEADLINE_METRICS: tuple[HeadlineMetric, ...] = ("mae", "accuracy", "srcc")
LONGEST_RULE = 1000  # characters
LARGEST = 1e15  # up to here every whole number is a float, and is written without an exponent

# A number keeps its type, so that a task.yaml says 116 and not 116.0.
_Number = Annotated[int | float, Field(ge=-LARGEST, le=LARGEST)]
_Text = Annotated[str, Field(pattern=r"\S")]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Task:
    """An ordinal scale over images.

    Args:
        name: short name, as in `task: age`.
        rule: what fills `[Rule]` in the prompt of Table 1, such as "facial age".
        low, high: the ends of the value range, in units of the value; both are allowed values.
        step: the grid of allowed values (1 for whole numbers); accuracy rounds to it.
        delta: the tolerance of Eq. 3, in units of the value; greater than 0.
        metric: what is reported for single images: `mae`, `accuracy` or `srcc`.

    Raises:
        ConfigError: if the range is empty or not finite, step or delta is not positive, or the rule is too
            long.
    """

    name: _Text
    rule: _Text
    low: _Number
    high: _Number
    step: _Number
    delta: _Number
    metric: HeadlineMetric = "mae"

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            task = handler(given)
        except ValidationError as error:
            raise ConfigError(f"task {_name_in(given)!r}: {_mistake(error)}") from error
        if not re.fullmatch(r"\w[\w .-]*", task.name) or len(task.name) > 100:
            raise ConfigError(
                f"task {task.name[:100]!r}: name must be of letters, digits, spaces, '-', '_' and '.', "
                "at most 100 of them: folders are named by it"
            )
        where = f"task '{task.name}'"
        if len(task.rule) > LONGEST_RULE:
            raise ConfigError(f"{where}: rule has {len(task.rule):,} characters, more than {LONGEST_RULE:,}")
        if not task.low < task.high:
            raise ConfigError(f"{where}: low ({task.low:g}) must be less than high ({task.high:g})")
        for key, number in (("step", task.step), ("delta", task.delta)):
            if number <= 0:
                raise ConfigError(f"{where}: {key} must be greater than 0, not {number:g}")
        return task

    @property
    def value_range(self) -> str:
        """What fills `[Value_Range]` in Table 1, such as "0-116"."""
        between = "-" if self.low >= 0 else " to "
        return f"{self.low:.15g}{between}{self.high:.15g}"

    @property
    def grid(self) -> list[float]:
        """The values that an answer on the grid can have, ascending."""
        steps = int(steps_above(self.high, self.low, self.step))
        return [self.nearest(self.low + step * self.step) for step in range(steps + 1)]

    @property
    def midpoint(self) -> float:
        """The middle of the range; what a missing value is scored as in evaluation."""
        return (self.low + self.high) / 2

    def contains(self, value: float) -> bool:
        """Whether `value` lies within the range; false for NaN."""
        return self.low <= value <= self.high

    def check(self, value: object, where: str) -> float:
        """`value` as a float, or a `DataError` that begins with `where` (a file and a row)."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(
                f"{where}: value {value!r} is not a number; {self.name} expects {self.value_range}"
            )
        # An int can be too large for a float: compare before converting.
        if not self.low <= value <= self.high:
            raise DataError(
                f"{where}: value {value} is outside the range; {self.name} expects {self.value_range}"
            )
        return float(value)

    def nearest(self, value: float) -> float:
        """`value`, a finite number, moved to the task's grid (halves go up) and then into its range."""
        return min(max(on_grid(value, self.low, self.step), self.low), self.high)

    def to_dict(self) -> dict[str, Any]:
        """The task as plain numbers and texts, as it stands in `task.yaml`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: str) -> "Task":
        """The inverse of `to_dict`.

        Raises:
            ConfigError: for an unknown or missing key or a wrong value; the message begins with `where`.
        """
        known = list(cls.__dataclass_fields__)
        for key in fields:
            if key not in known:
                raise ConfigError(f"{where}: unknown key '{key}'{known_keys(str(key), known)}")
        missing = [key for key in known if key not in fields and key != "metric"]
        if missing:
            raise ConfigError(f"{where}: missing {', '.join(missing)}; the keys are {', '.join(known)}")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def steps_above(value: Any, low: float, step: float) -> Any:
    """How many steps of the grid `value` is above `low`: the nearest whole number, halves up, as a float.
    `value` is a number, or a numpy array of them."""
    return ((value - low) / step + 0.5) // 1


def on_grid(value: float, low: float, step: float) -> float:
    """`value` moved to the grid that begins at `low`."""
    return float(low + steps_above(value, low, step) * step)


def _name_in(given: Any) -> Any:
    """The name in the arguments of a task that is refused."""
    positional, named = getattr(given, "args", ()), getattr(given, "kwargs", None) or {}
    return (positional or (named.get("name", ""),))[0]


def _mistake(error: ValidationError) -> str:
    """The first of pydantic's findings in a sentence."""
    found = error.errors(include_url=False)[0]
    keys = list(Task.__dataclass_fields__)
    key = found["loc"][0]
    key = keys[key] if isinstance(key, int) else key
    if found["type"] in ("missing", "missing_argument"):
        return f"{key} is missing"
    if key in ("name", "rule"):
        return f"{key} must be a text that is not empty"
    if key == "metric":
        return f"metric must be one of {', '.join(HEADLINE_METRICS)}, not {found['input']!r}"
    if key in keys:
        return f"{key} must be a finite number, not {found['input']!r}"
    return f"unknown key '{key}'{known_keys(str(key), keys)}"


AGE = Task("age", "facial age", low=0, high=116, step=1, delta=10, metric="mae")
COUNT = Task("count", "number of objects", low=0, high=200, step=1, delta=2, metric="accuracy")
AESTHETICS = Task("aesthetics", "aesthetic quality", low=1, high=10, step=0.01, delta=1.0, metric="srcc")
DIGITS = Task("digits", "handwritten digit", low=0, high=9, step=1, delta=2, metric="mae")

TASKS: dict[str, Task] = {task.name: task for task in (AGE, COUNT, AESTHETICS, DIGITS)}


def task_named(name: str) -> Task:
    """The built-in task of that name.

    Raises:
        ConfigError: if there is none; it names the nearest.
    """
    if name in TASKS:
        return TASKS[name]
    hint = nearest_word(name, TASKS).removeprefix("; ")
    raise ConfigError(f"unknown task '{name}': {hint}{hint and ' '}the tasks are {', '.join(TASKS)}")
