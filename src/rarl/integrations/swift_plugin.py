"""The rewards for ms-swift (4.6): `--external_plugins FILE --reward_funcs rarl_regression rarl_ranking
rarl_format`, FILE being the path of this one. Each is registered by itself, so that `--reward_weights` are
the weights of Eq. 8."""

from collections.abc import Callable
from typing import Any

from swift.rewards import ORM, orms

from rarl.method.rewards import COLUMNS, TERMS


def _registered(name: str, function: Callable[..., Any]) -> type:
    """A reward of ms-swift that is `function`, one of rarl's; ms-swift's metrics have the name of its
    class."""

    class Reward(ORM):
        def __call__(self, completions: list[str], **kwargs: Any) -> list[float | None]:
            known = {column: kwargs[column] for column in COLUMNS if kwargs.get(column) is not None}
            return list(function(completions, **known))

    Reward.__name__ = Reward.__qualname__ = name
    orms[name] = Reward
    return Reward


REWARDS = {term.name: _registered(f"rarl_{term.name}", term.function) for term in TERMS}
"""The classes by the names of `TERMS`."""
