"""The reward for EasyR1 (0.3): `worker.reward.reward_function=FILE:compute_score`, FILE being the path of
this one. Nothing of EasyR1 is imported."""

from collections.abc import Mapping, Sequence
from typing import Any

from rarl.integrations import WEIGHTS
from rarl.method.labels import columns_of
from rarl.method.rewards import scores, total

REWARD_NAME = "rarl"
REWARD_TYPE = "batch"


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]], weights: Sequence[float] = WEIGHTS
) -> list[dict[str, float]]:
    """Eq. 8 of each reply under `overall`, and by name those of its terms that are defined for the prompt.

    Args:
        reward_inputs: for each reply `response`, the text, and `ground_truth`, the label that
            `rarl data export easyr1` wrote.
        weights: of the terms, by `worker.reward.reward_function_kwargs`.

    Raises:
        DataError: if a label is none.
        ConfigError: if an entry of one is not what the rewards need.
    """
    results = []
    for given in reward_inputs:
        terms = scores(given["response"], columns_of(given["ground_truth"]))
        defined = {name: earned for name, earned in terms.items() if earned is not None}
        results.append({"overall": total(terms, weights), **defined})
    return results
