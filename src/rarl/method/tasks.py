"""What is measured: a rule, a value range and a step (the slots of Table 1), with the tolerance of Eq. 3 and
the metric that heads the paper's tables. A new task is a new `Task(...)`; nothing here knows about images."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Literal

from rarl.errors import ConfigError, DataError

HeadlineMetric = Literal["mae", "accuracy", "srcc"]
HEADLINE_METRICS: tuple[HeadlineMetric, ...] = ("mae", "accuracy", "srcc")
LARGEST = 1e15  # up to here every whole number is a float, and is written without an exponent


@dataclass(frozen=True)
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
        ConfigError: if the range is empty or not finite, or step or delta is not positive.
    """

    name: str
    rule: str
    low: float
    high: float
    step: float
    delta: float
    metric: HeadlineMetric = "mae"

    def __post_init__(self) -> None:
        where = f"task '{self.name}'"
        for key in ("name", "rule"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                raise ConfigError(f"{where}: {key} must be a text that is not empty")
        if not re.fullmatch(r"\w[\w .-]*", self.name) or len(self.name) > 100:
            raise ConfigError(
                f"task {self.name[:100]!r}: name must be of letters, digits, spaces, '-', '_' and '.', "
                "at most 100 of them: folders are named by it"
            )
        for key in ("low", "high", "step", "delta"):
            number = getattr(self, key)
            # Compared, because a whole number can be too large for `math.isfinite`; NaN is never less.
            if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= LARGEST:
                raise ConfigError(f"{where}: {key} must be a finite number, not {number!r}")
        if not self.low < self.high:
            raise ConfigError(f"{where}: low ({self.low:g}) must be less than high ({self.high:g})")
        for key in ("step", "delta"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"{where}: {key} must be greater than 0, not {getattr(self, key):g}")
        if self.metric not in HEADLINE_METRICS:
            raise ConfigError(
                f"{where}: metric must be one of {', '.join(HEADLINE_METRICS)}, not {self.metric!r}"
            )

    @property
    def value_range(self) -> str:
        """What fills `[Value_Range]` in Table 1, such as "0-116"."""
        between = "-" if self.low >= 0 else " to "
        return f"{self.low:.15g}{between}{self.high:.15g}"

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
        steps = math.floor((value - self.low) / self.step + 0.5)
        return min(max(self.low + steps * self.step, self.low), self.high)

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
                near = get_close_matches(str(key), known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; the keys are {', '.join(known)}"
                raise ConfigError(f"{where}: unknown key '{key}'{hint}")
        missing = [key for key in known if key not in fields and key != "metric"]
        if missing:
            raise ConfigError(f"{where}: missing {', '.join(missing)}; the keys are {', '.join(known)}")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


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
    near = get_close_matches(name, TASKS, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"unknown task '{name}': {hint}the tasks are {', '.join(TASKS)}")
