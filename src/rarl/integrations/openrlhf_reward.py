"""The reward for OpenRLHF (0.11): `--reward.remote_url FILE`, FILE being the path of this one. Nothing of
OpenRLHF is imported. OpenRLHF hands over prompt and reply as one text, with special tokens; the reply is cut
out here."""

import math
import re
from collections.abc import Sequence
from typing import Any

from rarl.errors import ConfigError
from rarl.integrations import WEIGHTS
from rarl.method.labels import columns_of
from rarl.method.prompts import INSTRUCT
from rarl.method.replies import opening_of
from rarl.method.rewards import TERMS, scores, total

_LAST_SENTENCE = INSTRUCT[INSTRUCT.rindex("Ensure") :]
_SPECIAL = re.compile(r"(?:<\|[^<>|]*\|>|<end_of_turn>|</s>|<eos>|<pad>|\s)+\Z")


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Eq. 8 of each reply under `rewards` and `scores`, and its terms by name under `extra_logs`; NaN for a
    term that is not defined for the prompt.

    Args:
        queries: prompt and reply as decoded, where the placeholder of an image stands many times.
        prompts: as the chat template has them, where it stands once.
        labels: those that `rarl data export openrlhf` wrote.

    Raises:
        ConfigError: if the prompt is not the exported one.
        DataError: if a label is none.
    """
    rewards: list[float] = []
    logs: dict[str, list[float]] = {term.name: [] for term in TERMS}
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        terms = scores(reply_in(query, prompt), columns_of(label))
        rewards.append(total(terms, WEIGHTS))
        for name, earned in terms.items():
            logs[name].append(math.nan if earned is None else earned)
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def reply_in(query: str, prompt: str) -> str:
    """The reply in a query: what follows the prompt, without the special tokens at its end, and with what the
    chat template had begun of it.

    Only the end of the prompt is looked for, from its last sentence on: before it the images are.

    Raises:
        ConfigError: if the query does not hold that end.
    """
    end = prompt[prompt.rfind(_LAST_SENTENCE) :] if _LAST_SENTENCE in prompt else ""
    _, found, reply = query.partition(end) if end else ("", "", "")
    if not found:
        raise ConfigError(
            "the prompt is not one that `rarl data export openrlhf` wrote, or the chat template changed it: "
            "give --data.input_key prompt and --data.apply_chat_template"
        )
    return opening_of(prompt) + _SPECIAL.sub("", reply)
