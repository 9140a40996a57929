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
        value: in units of the task; None if the model gave none, or the image can't be shown to it. It may be
            outside the task's range: a model can write any number, and none is altered here.
        interval: the ends of the interval that the model is sure of; None where it wrote a reply, which has
            one value alone.
        distribution: None likewise.
        problem: why there is no value; None if there is one.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    distribution: Distribution | None = None
    problem: str | None = None

    @property
    def mean(self) -> float | None:
        """The mean of the distribution; without one, the value."""
        return self.value if self.distribution is None else self.distribution.mean

    @property
    def median(self) -> float | None:
        """The median of the distribution; without one, the value."""
        return self.value if self.distribution is None else self.distribution.median
