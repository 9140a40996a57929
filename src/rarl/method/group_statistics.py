"""The numbers of one group that are not plain sums of its rewards: what TRL's `multi_objective_aggregation:
normalize_then_sum` makes of them, by which RMO must judge then, and advantages (Eq. 9) by the statistics of
the policy's own responses alone (LUFFY, arXiv 2504.14945). Numbers alone: which response is replaced is
decided in `mutation`, and TRL computes every other advantage."""

import math
from collections.abc import Sequence

from rarl.method.mutation import TOLERANCE

EPSILON = 1e-4
"""What TRL 1.16 adds to a standard deviation before it divides by it, as Eq. 2 has it here."""

Parts = Sequence[Sequence[float]]
"""For each response of a group one number for each reward; NaN where a reward is not defined."""


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the Bessel-corrected standard deviation of the numbers that are not NaN; a deviation
    within the tolerance of rewards is 0. NaN and 0 for none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, 0.0
    mean = math.fsum(known) / len(known)
    if len(known) < 2 or max(known) - min(known) <= TOLERANCE:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))


def normalized_sums(parts: Parts, weights: Sequence[float]) -> list[float]:
    """What each response of a group is worth with `normalize_then_sum`: each reward less its mean in the
    group, over its deviation there, then weighted and summed. NaN for a response that has no reward at all.
    TRL's advantages are these numbers, shifted and scaled alike for all groups of a batch."""
    statistics = [mean_and_deviation(column) for column in zip(*parts, strict=True)]
    sums = []
    for row in parts:
        terms = [
            0.0 if deviation == 0 else weight * (part - mean) / (deviation + EPSILON)
            for part, weight, (mean, deviation) in zip(row, weights, statistics, strict=True)
            if not math.isnan(part)
        ]
        sums.append(math.fsum(terms) if terms else math.nan)
    return sums


def normalized_references(parts: Parts, references: Parts, weights: Sequence[float]) -> list[float]:
    """What each response's replacement is worth beside `normalized_sums`: the response's own number and, for
    each reward, how much the replacement gains by the deviation of responses and replacements together. By
    that of the responses alone a reward in which they agree would count ten thousand times over."""
    together = [
        mean_and_deviation(column)[1] for column in zip(*(list(parts) + list(references)), strict=True)
    ]
    result = []
    for own, row, reference in zip(normalized_sums(parts, weights), parts, references, strict=True):
        gains = [
            weight * (after - before) / (deviation + EPSILON)
            for before, after, weight, deviation in zip(row, reference, weights, together, strict=True)
            if not math.isnan(before) and not math.isnan(after) and deviation > 0
        ]
        result.append(own + math.fsum(gains))
    return result


def own_advantages(own: Sequence[float], after: Sequence[float]) -> list[float] | None:
    """The advantages of a group after replacement, with the mean and deviation of the policy's own responses.

    Args:
        own: the rewards of all G responses that the policy gave, the replaced ones too; NaN for none.
        after: the rewards of the group after replacement.

    Returns:
        0 where a reward is NaN. None if the policy's own rewards don't differ: their deviation then says
        nothing, and one injected response would weigh ten thousand times as much as any other.
    """
    mean, deviation = mean_and_deviation(own)
    if deviation == 0:
        return None
    return [0.0 if math.isnan(reward) else (reward - mean) / (deviation + EPSILON) for reward in after]
