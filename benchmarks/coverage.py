"""Whether 95 % intervals hold the true number in 95 % of evaluations, and how often two equal arms differ
"beyond the interval": simulated evaluations of a model whose true numbers are known, drawn and measured with
the functions of `rarl`. Beside them stands how it was before: 200 lists of each length that share images, and
plain percentiles. Prints a Markdown table, which is in docs/evaluation.md.

    python benchmarks/coverage.py
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rarl.data.collection import Row
from rarl.data.groups import Group, disjoint_groups, draw_groups
from rarl.evaluation.intervals import bootstrap_resamples, expanded_interval
from rarl.evaluation.metrics import list_tau, mae

LISTS = 200
"""The default of `rarl evaluate --lists`."""
LENGTHS = (2, 4, 8)
METRICS = ("mae", *(f"tau{count}" for count in LENGTHS))

# A model of handwritten digits whose MAE is about 1 and whose tau of two images is about .75.
IMAGE_EFFECT = 1.5  # standard deviation of what an image adds to its value in every reply
COMMON_EFFECT = 0.5  # the share of that variance which two arms have in common
REPLY_NOISE = 0.5  # standard deviation of what is drawn anew for every picture of every reply


@dataclass(frozen=True)
class Interval:
    """A number of one evaluation with its interval."""

    value: float
    low: float
    high: float

    def holds(self, number: float) -> bool:
        return self.low <= number <= self.high


class Arms:
    """Two equal arms and the images they are asked about: `truths`, [image], and `effects`, [arm, image]."""

    def __init__(self, images: int, generator: np.random.Generator, invalid: float = 0.0) -> None:
        self.generator, self.invalid = generator, invalid
        self.truths = generator.integers(10, size=images).astype(np.float64)
        common, own = generator.normal(size=images), generator.normal(size=(2, images))
        shares = np.sqrt([COMMON_EFFECT, 1 - COMMON_EFFECT])
        self.effects = IMAGE_EFFECT * (shares[0] * common + shares[1] * own)
        self.rows = [Row(str(i), Path(str(i)), value) for i, value in enumerate(self.truths.tolist())]

    def replies(self, images: np.ndarray) -> np.ndarray:
        """The values that both arms give these images, [arm, ...]: anew at each call."""
        noise = self.generator.normal(scale=REPLY_NOISE, size=(2, *images.shape))
        return np.clip(self.truths[images] + self.effects[:, images] + noise, 0, 9)

    def errors(self) -> np.ndarray:
        """The absolute error of each single image, [arm, image]: its mean is the MAE."""
        return np.abs(self.replies(np.arange(len(self.truths))) - self.truths)

    def taus(self, lists: Sequence[Group]) -> np.ndarray:
        """Kendall's tau of each list, [arm, list]; pictures are listed by the values of the reply."""
        images = np.array([[int(row.id) for row in group.rows] for group in lists])
        places = self.replies(images).argsort(axis=-1).argsort(axis=-1)
        valid = self.generator.random(size=(2, len(lists))) >= self.invalid
        return np.where(valid, taus_of_places(places, self.truths[images]), 0.0)


def taus_of_places(places: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """`list_tau` of many lists at once.

    Args:
        places: of each picture in its list, [arm, list, picture].
        truths: [list, picture].
    """
    first, second = np.triu_indices(places.shape[-1], 1)
    order = np.sign(truths[:, second] - truths[:, first])
    listed = np.sign(places[..., second] - places[..., first])
    compared = np.abs(order).sum(axis=-1)
    return (order * listed).sum(axis=-1) / np.maximum(compared, 1)


def intervals(numbers: np.ndarray, seed: int) -> tuple[Interval, Interval]:
    """Of the mean: the interval as it is, and plain percentiles of the same resamples."""
    value, resampled = float(numbers.mean()), bootstrap_resamples(numbers, seed=seed)
    plain = np.quantile(resampled, [0.025, 0.975])
    return (
        Interval(value, *expanded_interval(resampled, len(numbers))),
        Interval(value, float(plain[0]), float(plain[1])),
    )


def true_numbers(generator: np.random.Generator, images: int, invalid: float = 0.0) -> dict[str, float]:
    """The model's numbers over so many images that chance plays no part."""
    arms = Arms(images, generator, invalid)
    numbers = {"mae": float(arms.errors().mean())}
    for count in LENGTHS:
        numbers[f"tau{count}"] = float(arms.taus(draw_groups(arms.rows, count, images // count, 0)).mean())
    return numbers


@dataclass
class Tally:
    """Of one metric at one number of images: how often an interval held the true number, and how often the
    interval of the difference between the two arms left 0 out."""

    lists: int = 0
    evaluations: int = 0
    held: int = 0
    differed: int = 0

    def add(self, of_one: Interval, of_difference: Interval, true: float) -> None:
        self.evaluations += 1
        self.held += of_one.holds(true)
        self.differed += not of_difference.holds(0.0)

    @property
    def coverage(self) -> float:
        return self.held / self.evaluations

    @property
    def differing(self) -> float:
        return self.differed / self.evaluations


def simulate(
    images: int,
    evaluations: int,
    true: dict[str, float],
    *,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
    invalid: float = 0.0,
) -> dict[str, tuple[Tally, Tally]]:
    """METRIC -> the tallies of so many evaluations on new images each: as it is now, and as it was."""
    generator = np.random.default_rng([seed, images])
    found = {name: (Tally(), Tally()) for name in metrics}
    for number in range(evaluations):
        arms = Arms(images, generator, invalid)
        if "mae" in metrics:
            errors = arms.errors()
            of_one, of_difference = intervals(errors[0], number), intervals(errors[0] - errors[1], number)
            for tally, one, difference in zip(found["mae"], of_one, of_difference, strict=True):
                tally.add(one, difference, true["mae"])
        for count in (int(name[3:]) for name in metrics if name != "mae"):
            drawn = (
                disjoint_groups(arms.rows, count, LISTS, number),
                draw_groups(arms.rows, count, LISTS, number),
            )
            for way, (tally, lists) in enumerate(zip(found[f"tau{count}"], drawn, strict=True)):
                taus = arms.taus(lists)
                tally.lists = max(tally.lists, len(lists))
                one, difference = (intervals(some, number)[way] for some in (taus[0], taus[0] - taus[1]))
                tally.add(one, difference, true[f"tau{count}"])
    return found


def check_against_rarl() -> None:
    """The errors and taus of this file are those of `rarl`."""
    arms = Arms(40, np.random.default_rng(1))
    guesses = arms.replies(np.arange(40))[0]
    assert np.isclose(np.abs(guesses - arms.truths).mean(), mae(guesses, arms.truths))
    truths = np.random.default_rng(2).integers(6, size=(30, 4)).astype(np.float64)
    places = np.random.default_rng(3).permuted(np.tile(np.arange(4), (1, 30, 1)), axis=-1)
    slow = [list_tau(list(map(int, p)), list(map(float, t))) for p, t in zip(places[0], truths, strict=True)]
    assert np.allclose(taus_of_places(places, truths)[0], slow)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", default="100,400,2000", help="numbers of images in the test split")
    parser.add_argument("--evaluations", type=int, default=2000, help="simulated evaluations of each cell")
    parser.add_argument(
        "--invalid", type=float, default=0.0, help="the share of lists that are no ranking and count 0"
    )
    parser.add_argument(
        "--population", type=int, default=400_000, help="images that the true numbers are taken from"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    check_against_rarl()
    started = time.perf_counter()
    true = true_numbers(np.random.default_rng(options.seed), options.population, options.invalid)
    print(", ".join(f"true {name} {number:.3f}" for name, number in true.items()), file=sys.stderr)
    print("| images | metric | lists | held | equal arms differ | before: held | before: equal arms differ |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for images in map(int, options.images.split(",")):
        found = simulate(images, options.evaluations, true, seed=options.seed, invalid=options.invalid)
        for name, (now, before) in found.items():
            cells = [
                f"{100 * tally.coverage:.1f} % | {100 * tally.differing:.1f} %" for tally in (now, before)
            ]
            label = "MAE" if name == "mae" else f"τ{name[3:]}"
            print(f"| {images:,} | {label} | {now.lists or '-'} | {cells[0]} | {cells[1]} |", flush=True)
        print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
