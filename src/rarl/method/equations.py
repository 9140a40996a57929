"""Equations 2-9 of the paper, in the paper's order: numbers in, numbers out. This is the oracle for the
rewards, and for what TRL computes (Eqs. 2 and 8); what a text earns in which case is `replies` and
`rewards`. Nothing returned is ever NaN or infinite: every branch is written so that such a number falls
to the safe side.

A list over N images is indexed by picture: `positions[i]` is the place, from 0, at which picture i + 1 is
listed, `values[i]` the value given to it, `truths[i]` its true value; `None` stands for a picture missing
from the list. Numbers and lists may be numpy's; what is returned is Python's.
"""

import math
from collections.abc import Mapping, Sequence

STD_FLOOR = 1e-4
"""What TRL adds to the standard deviation before dividing by it."""

_BINARY_SLACK = 1 + 1e-9
"""Widens the tolerance of Eq. 3 by what decimals lose in binary: 0.8 - 0.7 is a little more than 0.1."""


def advantages(rewards: Sequence[float]) -> list[float]:
    """Eq. 2: each reward of a group, less the group's mean, over its standard deviation.

    As TRL computes it: the deviation is Bessel-corrected (G - 1) and 1e-4 is added to it. A group without
    variance has no advantage. Neither has a reward that is not finite, and the others' ignore it.
    """
    rewards = [_python(reward) for reward in rewards]
    scored = [reward for reward in rewards if _is_finite(reward)]
    if len(scored) < 2 or min(scored) == max(scored):
        return [0.0] * len(rewards)
    mean = sum(scored) / len(scored)
    std = math.sqrt(sum((reward - mean) * (reward - mean) for reward in scored) / (len(scored) - 1))
    return [_finite_or_zero((reward - mean) / (std + STD_FLOOR)) for reward in rewards]


def regression(predicted: float | None, truth: float, delta: float) -> float:
    """Eq. 3: the regression reward of one image: 1 at the truth, 1/4 at distance `delta`, 0 beyond it."""
    if predicted is None:
        return 0.0
    predicted, truth, delta = _python(predicted), _python(truth), _python(delta)
    reach = delta * _BINARY_SLACK
    if not (delta > 0 and _is_finite(reach) and _is_finite(truth)):
        return 0.0
    if not (truth - reach <= predicted <= truth + reach and _is_finite(predicted)):
        return 0.0
    # |y~ - y| / (2 delta), divided in this order because 2 delta can overflow.
    return (1 - min(abs(predicted - truth) / delta, 1.0) / 2) ** 2


def mean_regression(predicted: Sequence[float | None], truths: Sequence[float], delta: float) -> float:
    """R_reg (text below Eq. 3): the mean over all N images, a missing one counting 0. Within [0, 1]."""
    if len(truths) == 0:
        return 0.0
    earned = [regression(value, truth, delta) for value, truth in zip(predicted, truths, strict=True)]
    return sum(earned) / len(earned)


def length_compliance(listed: int, count: int) -> float:
    """Eq. 4: r_len of a list of `listed` entries where `count` images were shown. Within [0, 1]."""
    listed, count = int(listed), int(count)
    if not 0 <= listed <= count or count < 1:
        return 0.0
    return 1 - (count - listed) / count


def kendall_tau(pairs: Sequence[int]) -> float:
    """Kendall's tau, of Eqs. 5 and 6: (concordant - discordant) / pairs, within [-1, 1]; 0 without a pair.

    Args:
        pairs: +1 for each concordant pair, -1 for each discordant one, 0 for each that counts but is neither.
    """
    return float(sum(map(_python, pairs)) / len(pairs)) if len(pairs) else 0.0


def ranking_consistency(
    positions: Sequence[int | None] | None, values: Sequence[float | None], truths: Sequence[float]
) -> float:
    """Eq. 5: r_consis: does the listed order agree with the order of the reply's own values? Within [0, 1].

    The pairs are those of all N images. One with a missing image counts 0. One tied in the reply's values
    counts 0 if the truths differ, so that constant values earn no more than a coin would, and is left out if
    the truths are tied too. `positions` is `None` for a list that is no ranking: that earns 0.
    """
    if positions is None:
        return 0.0
    pairs = []
    for i, j in _pairs_of(len(truths)):
        missing = None in (values[i], values[j])
        if missing or values[i] != values[j] or truths[i] != truths[j]:
            pairs.append(_order(positions[i], positions[j]) * _order(values[i], values[j]))
    return (kendall_tau(pairs) + 1) / 2


def ranking_accuracy(positions: Sequence[int | None] | None, truths: Sequence[float]) -> float:
    """Eq. 6: r_acc: does the listed order agree with the true order? Within [0, 1].

    The pairs are those of all N images whose truths differ; one with a missing image counts 0. `positions` is
    `None` for a list that is no ranking: that earns 0.
    """
    if positions is None:
        return 0.0
    return (kendall_tau(pairs_against_truth(positions, truths)) + 1) / 2


def pairs_against_truth(ranks: Sequence[float | None], truths: Sequence[float]) -> list[int]:
    """The pairs of Eq. 6, for `kendall_tau`: `ranks` are positions, or what else should rise with the truth.

    A pair tied in truth is left out; one tied in `ranks`, or with a missing image, counts 0.
    """
    different = [(i, j) for i, j in _pairs_of(len(truths)) if truths[i] != truths[j]]
    return [_order(ranks[i], ranks[j]) * _order(truths[i], truths[j]) for i, j in different]


def is_rankable(truths: Sequence[float]) -> bool:
    """Whether Eqs. 4-7 mean anything: there are two images whose truths differ."""
    return any(truth != truths[0] for truth in truths)


def ranking(length: float, consistency: float, accuracy: float) -> float:
    """Eq. 7: R_rank = r_len + r_consis + r_acc. Within [0, 3]."""
    return _finite_or_zero(_python(length) + _python(consistency) + _python(accuracy))


def final_reward(
    regression: float, ranking: float | None, format: float, weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> float:
    """Eq. 8: R_final, the weighted sum of R_reg, R_rank and R_format; `weights` are lambda 1, 2 and 3.

    R_rank is `None` where it is not defined (`is_rankable`) and is left out, as TRL leaves out a `None`.
    """
    terms = zip(weights, (regression, ranking, format), strict=True)
    return _finite_or_zero(
        sum(_python(weight) * _python(reward) for weight, reward in terms if reward is not None)
    )


def mutated_advantages(rewards: Sequence[float], mutated: Mapping[int, float]) -> list[float]:
    """Eq. 9: the advantages of a group after the Response Mutation Operation.

    They are Eq. 2 over the group *after* replacement. Over the group before, as Eq. 9 may also be read,
    std is 0 in exactly the case that RMO is for: a group whose rewards are all equal.

    Args:
        rewards: the rewards of the group as sampled.
        mutated: the place in the group of each mutated response, and that response's reward R(q, o'_j).

    Raises:
        IndexError: if a place is not in the group.
    """
    after = list(rewards)
    for place, reward in mutated.items():
        after[place] = reward
    return advantages(after)


def _pairs_of(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


def _order(first: float | None, second: float | None) -> int:
    """+1 if `first` is the greater, -1 if it is the less, 0 if neither: equal, or one is NaN or missing."""
    if first is None or second is None:
        return 0
    return int(first > second) - int(first < second)


def _python(number: float) -> float:
    """A number of numpy or torch as Python's own, which neither overflows nor is of few bits. Others stay."""
    item = getattr(number, "item", None)
    own: float = number if item is None else item()
    return own


def _is_finite(number: float) -> bool:
    return -math.inf < number < math.inf


def _finite_or_zero(number: float) -> float:
    return number if _is_finite(number) else 0.0
