"""What a model says of one image: a value, and where it gives them an interval and a distribution over the
task's grid. How it is asked is up to `ranker`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rarl.scoring.distribution import Distributions


@dataclass(frozen=True, slots=True)
class Distribution:
    """How probable each value is.

    Attributes:
        values: of the task's grid, ascending.
        probabilities: of each of them; they add up to 1.
    """

    values: Sequence[float]
    probabilities: Sequence[float]

    @property
    def mean(self) -> float:
        """The expected value."""
        return float(self._row.mean[0])

    @property
    def median(self) -> float:
        """The least value that half of the probability is at or below."""
        return float(self._row.median[0])

    @property
    def _row(self) -> Distributions:
        return Distributions(np.array(self.values, float), np.array([self.probabilities], float))


@dataclass(frozen=True, slots=True)
class Measured:
    """One image, asked for alone.

    Attributes:
        value: in units of the task, of a greedy reply or the median of the distribution; None if the model
            gave none, or the image can't be shown to it. It may be outside the task's range: a model can
            write any number, and none is altered here.
        interval: the ends of the interval that the model is sure of; None where it wrote a reply, which has
            one value alone.
        distribution: None likewise.
        problem: why there is no value; None if there is one.
        mean: that of the distribution, by which images are put in order; without one, the value.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    distribution: Distribution | None = None
    problem: str | None = None
    mean: float | None = None

    def __post_init__(self) -> None:
        if self.mean is None:
            object.__setattr__(self, "mean", self.value)

    @property
    def median(self) -> float | None:
        """The value."""
        return self.value
