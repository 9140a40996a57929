"""The scale of anyone's images: what the command line says about it, and for the rest what the values show.
Every choice made here is noted, so that the user can be told."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarl.data.names import same_word
from rarl.data.sources.tables import is_gap, number
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import HeadlineMetric, Task, on_grid

# The steps that are taken from values. Above 1 there are none: ages that are all tens are in years.
_STEPS = (1.0, *(float(f"{digits}e-{place}") for place in range(1, 4) for digits in (5, 2.5, 2, 1)), 1e-4)


@dataclass(frozen=True)
class Scale:
    """What the user says about the task. None stands for what the values are to show.

    Attributes:
        rule: what is measured, such as "ripeness of the fruit".
        ends: the least and the greatest value.
        names: the names of the values, ascending, if they are no numbers: ("low", "medium", "high") are 0, 1,
            2.
    """

    rule: str
    ends: tuple[float, float] | None = None
    step: float | None = None
    delta: float | None = None
    metric: HeadlineMetric | None = None
    names: tuple[str, ...] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        """Raises:
        ConfigError: if this can be no scale, or two options say the same thing.
        """
        if self.ends is not None and not self.ends[0] < self.ends[1]:
            low, high = self.ends
            raise ConfigError(f"--range {low:g}-{high:g}: the first must be less than the second")
        for option, given in (("--step", self.step), ("--delta", self.delta)):
            if given is not None and not 0 < given < math.inf:
                raise ConfigError(f"{option} {given:g}: must be a number greater than 0")
        if not self.names:
            return
        if len({same_word(name) for name in self.names}) < max(2, len(self.names)):
            raise ConfigError(f"--order {','.join(self.names)}: must be two names or more, each another")
        if self.ends is not None or self.step is not None:
            option = "--step" if self.ends is None else "--range"
            raise ConfigError(f"{option} and --order both say what the values are: give one of them")

    def is_gap(self, given: Any) -> bool:
        """Whether a field has no value. Where values have names, "none" may be one that was forgotten."""
        if not self.names or not isinstance(given, str):
            return is_gap(given)
        return is_gap(given) and same_word(given) not in ("none", *map(same_word, self.names))

    def value(self, given: Any, where: str) -> float:
        """A value as a number within the range.

        Raises:
            DataError: if it is no number or out of range; the message begins with `where`.
        """
        if self.names:
            places = {same_word(name): index for index, name in enumerate(self.names)}
            place = places.get(same_word(str(given)))
            if place is None:
                raise DataError(f"{where}: value {given!r} is none of the order {', '.join(self.names)}")
            return float(place)
        value = number(given)
        if value is None:
            raise DataError(f"{where}: value {given!r} is not a number; {_mend(given)}")
        if self.ends is not None and not self.ends[0] <= value <= self.ends[1]:
            low, high = self.ends
            raise DataError(f"{where}: value {value:g} is outside the range {low:g}-{high:g}")
        return value

    def task(
        self, values: Sequence[float], raw: Path, rated: Sequence[float] = ()
    ) -> tuple[Task, dict[str, Any]]:
        """The task of these values, and notes of what was taken from them.

        Args:
            rated: the ratings that the values are made of, if they are: the scale reaches as far as these do,
                and means seldom do.

        The step is the coarsest of 1, 0.5, 0.25, 0.2, 0.1, 0.05 and so on that all values lie on. Delta is a
        fifth of the range, rounded to the grid of the step.

        Raises:
            DataError: if there are no values.
            ConfigError: if all values are the same and no range is given.
        """
        if not values:
            raise DataError(f"{raw}: no images with values; are the names those of files in this folder?")
        notes: dict[str, Any] = {}
        rule = self.rule
        if self.names:
            ends, step = (0.0, float(len(self.names) - 1)), 1.0
            rule += f" ({', '.join(f'{place} {name}' for place, name in enumerate(self.names))})"
            notes["order"] = list(self.names)
        else:
            step = self.step or step_of(values)
            ends = self.ends or _grid_range([*values, *rated], step)
            if self.ends is None:
                notes["range, from the values"] = f"{ends[0]:.15g}-{ends[1]:.15g}"
            if self.step is None:
                notes["step, from the values"] = step
            else:
                check_grid(values, ends[0], step)
        if not ends[0] < ends[1]:
            raise ConfigError(f"all values are {ends[0]:g}: give the ends of the scale, as --range 0-10")
        delta = self.delta
        if delta is None:
            delta = notes["delta, a fifth of the range"] = _rounded((ends[1] - ends[0]) / 5, step)
        return self._task(raw, rule, ends, step, delta), notes

    def ordered(self, raw: Path) -> tuple[Task, dict[str, Any]]:
        """The task if only orders are known. Its range is for the model's own values.

        Raises:
            ConfigError: if names of values are given.
        """
        if self.names:
            raise ConfigError("--order names values, and --orders knows none: give one of them")
        ends = self.ends or (0.0, 100.0)
        step = self.step or 1.0
        delta = self.delta or _rounded((ends[1] - ends[0]) / 5, step)
        notes = {"known": "orders alone", "range, for the model's own values": f"{ends[0]:g}-{ends[1]:g}"}
        return self._task(raw, self.rule, ends, step, delta), notes

    def said_of(self, task: Task) -> Task:
        """`task`, whose values are counts, changed as the user says.

        Raises:
            ConfigError: if names of values are given.
        """
        if self.names:
            raise ConfigError("--order names values, and counts have none: leave it out")
        low, high = self.ends or (task.low, task.high)
        return Task(
            self.name or task.name,
            self.rule or task.rule,
            low=low,
            high=high,
            step=self.step or task.step,
            delta=self.delta or task.delta,
            metric=self.metric or task.metric,
        )

    def _task(self, raw: Path, rule: str, ends: tuple[float, float], step: float, delta: float) -> Task:
        low, high, step, delta = map(_whole_as_int, (*ends, round(step, 9), round(delta, 9)))
        name = self.name or re.sub(r"[^\w .-]", "_", raw.resolve().name)
        return Task(name, rule, low=low, high=high, step=step, delta=delta, metric=self.metric or "mae")


def check_grid(values: Sequence[float], low: float, step: float) -> None:
    """Refuses a step that the user gave, if not all values lie on its grid, which begins at `low`.

    Raises:
        ConfigError: with the first value that does not.
    """
    for value in values:
        if abs(on_grid(value, low, step) - value) > 1e-6 * step:
            grid = ", ".join(f"{low + step * place:.9g}" for place in range(3))
            raise ConfigError(
                f"--step {step:g}: the value {value:.9g} is not on that grid, {grid} and so on: give a step "
                "that all values lie on, or by --range another value to begin at"
            )


def _mend(given: Any) -> str:
    text = str(given or "").strip()
    if is_gap(given) and not text.isalpha():
        return "fill it, or remove the row"
    if re.fullmatch(r"[+\N{MINUS SIGN}-]?[\d.,/'\N{RIGHT SINGLE QUOTATION MARK}\s]+%?", text):
        return "write it with a decimal point and nothing else, such as 1234.5"
    mend = "where values have names, give them in ascending order, as --order low,medium,high"
    if is_gap(given) or same_word(text) == "none":  # which may be the name of one
        mend = f"fill it, or remove the row; or, {mend}"
    if re.match(r"\W*\d", text):
        mend = f"write the number alone, without a unit; or, {mend}"
    return (
        f"{mend}; a name with a comma in it stands in quotes, as '\"low, dry\",high'" if "," in text else mend
    )


def step_of(values: Sequence[float]) -> float:
    """The coarsest of `_STEPS` whose multiples all values are."""
    for step in _STEPS:
        # The tolerance is what decimals lose in binary, and no more: even of seconds since 1970, tenths
        # count.
        if all(abs(value - round(value / step) * step) <= max(1e-9, 2 * math.ulp(value)) for value in values):
            return step
    return _STEPS[-1]


def _grid_range(values: Sequence[float], step: float) -> tuple[float, float]:
    """The least and the greatest value, each moved outwards to the grid."""
    low, high = min(values), max(values)
    below, above = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
    return min(low, round(below, 9)), max(high, round(above, 9))


def _rounded(value: float, step: float) -> float:
    return max(step, on_grid(value, 0, step))


def _whole_as_int(value: float) -> float:
    """A whole number as an int, as one would write it in a task.yaml."""
    return int(value) if float(value).is_integer() else value
