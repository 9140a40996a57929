"""Statistics of a collection: the spread of its values, how often a list has equal ones, how well the median
does that looks at no image, and what its images and prompts cost a model. Splits of which only orders are
known have no values."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from rarl.data.check.duplicates import listed
from rarl.data.collection import Row
from rarl.data.groups import disjoint_groups, tie_rate
from rarl.data.images import Size, check_shape
from rarl.errors import DataError

LEVELS = 24  # with more distinct values than this, a bar of the histogram is an interval
INTERVALS = 20
DRAWN_LISTS = 200  # at most, as in evaluation

Bins = list[tuple[float, float]]
"""The lower and the upper end of each bar, which are equal if the bar is one value. An upper end belongs to
the next bar, except the last."""


@dataclass(frozen=True)
class Values:
    """The values of a split, in units of the task. `histogram` counts them in the bins of the collection."""

    low: float
    high: float
    median: float
    distinct: int
    histogram: list[int]


@dataclass(frozen=True)
class Ties:
    """The share of lists in which two images have the same value: of lists drawn as evaluation draws them,
    which avoids ties, and of lists drawn plainly at random (exact). None if no such list can be drawn."""

    drawn: float | None
    random: float | None


@dataclass(frozen=True)
class Baseline:
    """How well the median of train does on another split.

    Attributes:
        mae: its mean absolute error, in units of the value.
        median: of train; None if rows have rules of their own, since each rule has a median of its own.
        images: the number of rows, without those of rules that have no value in train.
    """

    mae: float
    median: float | None
    images: int


def bins_of(rows: Sequence[Row]) -> Bins:
    """A bar for each value, or intervals of equal width where there are more than `LEVELS` values."""
    levels = sorted({row.value for row in rows})
    if len(levels) <= LEVELS:
        return [(level, level) for level in levels]
    # The width is raised to a round number, so that whole numbers fall into bars evenly.
    width = _round_width((levels[-1] - levels[0]) / INTERVALS)
    first = int(np.floor(levels[0] / width))
    last = int(np.floor(levels[-1] / width)) + 1
    ends = [float(f"{place * width:.12g}") for place in range(first, last + 1)]
    return list(pairwise(ends))


def values_of(rows: Sequence[Row], bins: Bins) -> Values:
    """The spread of the values of the rows; at least one row."""
    values = np.array([row.value for row in rows])
    starts = np.array([low for low, _ in bins])
    # A value that rounding puts just below the first bar belongs to it.
    places = np.maximum(np.searchsorted(starts, values, side="right") - 1, 0)
    return Values(
        float(values.min()),
        float(values.max()),
        float(np.median(values)),
        len(np.unique(values)),
        np.bincount(places, minlength=len(bins)).tolist(),
    )


def ties_of(rows: Sequence[Row], count: int) -> Ties:
    """How often a list of `count` images has two with the same value."""
    try:
        drawn: float | None = tie_rate(disjoint_groups(rows, count, DRAWN_LISTS, seed=0))
    except DataError:
        drawn = None
    sizes: dict[str | None, Counter[float]] = {}
    for row in rows:
        sizes.setdefault(row.rule, Counter())[row.value] += 1
    pools = [list(pool.values()) for pool in sizes.values() if pool.total() >= count]
    images = sum(map(sum, pools))
    shares = [sum(pool) / images * random_tie_rate(pool, count) for pool in pools]
    return Ties(drawn, sum(shares) if shares else None)


def random_tie_rate(sizes: Sequence[int], count: int) -> float:
    """The probability that `count` images, drawn without replacement, have two with the same value.

    Args:
        sizes: the number of images of each value.
        count: at most their sum.
    """
    if max(sizes) == 1:
        return 0.0  # the sum below is off by rounding
    # ways[k]: the number of ordered draws of k images with different values, over that of any k images.
    total = sum(sizes)
    ways = np.zeros(count + 1)
    ways[0] = 1.0
    factors = np.arange(1, count + 1) / (total - np.arange(count))
    for size in sizes:
        ways[1:] += ways[:-1] * size * factors
    return float(min(1.0, max(0.0, 1.0 - ways[count])))


def baselines(splits: Mapping[str, Sequence[Row]]) -> dict[str, Baseline]:
    """How well the median of train does on every other split; empty if there is no train."""
    by_rule: dict[str | None, list[float]] = {}
    for row in splits.get("train", ()):
        by_rule.setdefault(row.rule, []).append(row.value)
    medians = {rule: float(median(values)) for rule, values in by_rule.items()}
    found = {}
    for name, rows in splits.items():
        errors = [abs(row.value - medians[row.rule]) for row in rows if row.rule in medians]
        if name != "train" and errors:
            one = next(iter(medians.values())) if len(medians) == 1 else None
            found[name] = Baseline(float(np.mean(errors)), one, len(errors))
    return found


def _round_width(width: float) -> float:
    """The next of ... 0.1, 0.2, 0.5, 1, 2, 5, 10 ..."""
    power = 10.0 ** np.floor(np.log10(width))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9)))


# ── sizes and tokens ─────────────────────────────────────────────────────────────────────────────────────

ImageTokens = Callable[[int, int], int]
"""From width and height in pixels to a number of tokens; a `DataError` if the model can't read such a
shape."""
PromptTokens = Callable[[str, str, int], int]
"""From rule, value range and number of images to the number of tokens of the prompt's text."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the image with the fewest pixels, of the middle one, and of the one with the most."""

    smallest: Size
    median: Size
    largest: Size


@dataclass(frozen=True)
class PromptCost:
    """The tokens of a prompt, text and images: with images of median cost, and with the costliest images and
    the longest rule."""

    median: int
    largest: int


@dataclass(frozen=True)
class Tokens:
    """The tokens of an image, from the fewest to the most, and those of a prompt by its number of images."""

    smallest: int
    median: int
    largest: int
    prompts: dict[int, PromptCost]


def sizes_of(sizes: Sequence[Size]) -> Sizes | None:
    """The spread of the sizes by the number of pixels; None for no images."""
    ranked = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return Sizes(ranked[0], ranked[len(ranked) // 2], ranked[-1]) if ranked else None


def costs_of(
    sizes: Mapping[str, Size], image_tokens: ImageTokens | None = None
) -> tuple[list[int], list[str]]:
    """The tokens of each image, ascending, and a fault if there are files that the model can't read. Without
    a model there are no tokens, and the shapes are those that the models of the paper take."""
    costs: dict[Size, int] = {}
    refused: dict[Size, str] = {}
    for size in sorted(set(sizes.values())):
        try:
            if image_tokens is None:
                check_shape(*size)
            else:
                costs[size] = image_tokens(*size)
        except DataError as error:
            refused[size] = str(error)
    files = [name for name, size in sizes.items() if size in refused]
    faults = (
        [f"images that the model can't read: {listed(files)}; {next(iter(refused.values()))}"]
        if files
        else []
    )
    return sorted(costs[size] for size in sizes.values() if size in costs), faults


def tokens_of(
    costs: Sequence[int],
    prompt_tokens: PromptTokens | None,
    rules: Sequence[str],
    value_range: str,
    counts: Sequence[int],
) -> Tokens | None:
    """What images and prompts cost a model; None if there are no images.

    Args:
        costs: the tokens of each image, ascending.
        rules: every rule of the collection; at least one.
        counts: numbers of images in a prompt; those above the number of images are left out.
    """
    if not costs:
        return None
    median = costs[len(costs) // 2]
    prompts = {}
    if prompt_tokens is not None:
        for count in (count for count in counts if count <= len(costs)):
            texts = sorted(prompt_tokens(rule, value_range, count) for rule in rules)
            typical, most = texts[len(texts) // 2] + count * median, texts[-1] + sum(costs[-count:])
            prompts[count] = PromptCost(typical, most)
    return Tokens(costs[0], median, costs[-1], prompts)
