"""The reward for verl (0.9): `reward.custom_reward_function.path=pkg://rarl.integrations.verl_reward`. The
group edit of section 3.2 is in `verl_mutation`. Nothing of verl is imported."""

import math
from collections.abc import Sequence
from typing import Any

from rarl.integrations import WEIGHTS
from rarl.method.labels import columns_of
from rarl.method.rewards import scores, total


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Any = None,
    weights: Sequence[float] = WEIGHTS,
    **rest: Any,
) -> dict[str, float]:
    """Eq. 8 of one reply under `score`, and each of its terms by name; NaN for a term that is not defined for
    the prompt. verl averages them over a `data_source`, which is of one number of images.

    Args:
        solution_str: the reply, without special tokens.
        ground_truth: the label that `rarl data export verl` wrote.
        weights: of the terms, by `reward.custom_reward_function.reward_kwargs`.
        data_source, extra_info, rest: what else verl hands over; unused.

    Raises:
        DataError: if the label is none.
        ConfigError: if an entry of it is not what the rewards need.
    """
    terms = scores(solution_str, columns_of(ground_truth))
    return {
        "score": total(terms, weights),
        **{name: math.nan if earned is None else earned for name, earned in terms.items()},
    }
