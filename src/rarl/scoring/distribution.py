"""Distributions over the values of a task's grid, one for each image: mean, median, spread, intervals and
temperature. Where the probabilities come from is no matter here; no model is asked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_SLACK = 1e-9
"""A cumulative probability that misses a level by rounding alone has reached it."""


@dataclass(frozen=True)
class Distributions:
    """The probabilities of V values, for each of N images.

    Attributes:
        grid: float[V], the values, ascending, in units of the task.
        probabilities: float[N, V]; each row sums to 1.
    """

    grid: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_log_probs(cls, grid: ArrayLike, log_probs: ArrayLike) -> "Distributions":
        """Normalizes the log-probs of V answers, float[N, V]; a constant added to a row changes nothing."""
        logs = np.asarray(log_probs, dtype=np.float64)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return cls(np.asarray(grid, dtype=np.float64), weights / weights.sum(axis=1, keepdims=True))

    @classmethod
    def joined(cls, parts: "list[Distributions]") -> "Distributions":
        """The rows of several, of one grid, one after the other."""
        return cls(parts[0].grid, np.concatenate([part.probabilities for part in parts]))

    @classmethod
    def averaged(cls, several: "list[Distributions]") -> "Distributions":
        """The mean of several of the same images, of one grid: a mixture in equal parts."""
        return cls(several[0].grid, np.mean([some.probabilities for some in several], axis=0))

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def mean(self) -> np.ndarray:
        """float[N], the expected value."""
        return self.probabilities @ self.grid

    @property
    def median(self) -> np.ndarray:
        """float[N], the smallest value that half of the probability does not exceed."""
        return self.quantile(0.5)

    @property
    def std(self) -> np.ndarray:
        """float[N], the standard deviation."""
        apart = self.grid[None, :] - self.mean[:, None]
        return np.sqrt((self.probabilities * apart**2).sum(axis=1))

    @property
    def mode(self) -> np.ndarray:
        """float[N], the likeliest value; the smallest of several."""
        return self.grid[self.probabilities.argmax(axis=1)]

    def quantile(self, level: float) -> np.ndarray:
        """float[N], the smallest value up to which there is a probability of `level`, between 0 and 1."""
        reached = np.cumsum(self.probabilities, axis=1) >= level - _SLACK
        reached[:, -1] = True  # rounding must leave no row without one
        return self.grid[reached.argmax(axis=1)]

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The lower and the upper end, float[N] each, of the central interval that has `level` of the
        probability. On a grid it has that or more."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def tempered(self, temperature: float) -> "Distributions":
        """The same with all probabilities to the power of 1 / `temperature`: above 1 they are wider.

        Raises:
            ValueError: if the temperature is not above 0.
        """
        if not temperature > 0:
            raise ValueError(f"a temperature must be above 0, not {temperature}")
        if temperature == 1:
            return self
        with np.errstate(divide="ignore"):
            return Distributions.from_log_probs(self.grid, np.log(self.probabilities) / temperature)

    def rows(self) -> "list[Distributions]":
        """Each image's own."""
        return [Distributions(self.grid, row[None]) for row in self.probabilities]

    def nearest(self, values: ArrayLike) -> np.ndarray:
        """float[M], the value of the grid that is nearest to each; the smaller of two."""
        return self.grid[self._places(values)]

    def probability_of(self, values: ArrayLike) -> np.ndarray:
        """float[N], the probability of one value for each image: of that of the grid which is nearest."""
        return self.probabilities[np.arange(len(self)), self._places(values)]

    def _places(self, values: ArrayLike) -> np.ndarray:
        return np.abs(self.grid[None, :] - np.asarray(values, dtype=np.float64)[:, None]).argmin(axis=1)
