"""Ranking-Aware Reinforcement Learning (arXiv 2601.20585): teach a vision-language model to score images on
an ordinal scale and to rank them. These are the public names, each imported when it is first used: `import
rarl` alone imports no torch."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarl.method.rewards import format_reward, ranking_reward, regression_reward
    from rarl.method.tasks import AESTHETICS, AGE, COUNT, DIGITS, Task
    from rarl.ranking.ranker import Ranker
    from rarl.training.trainer import RARLConfig, RARLTrainer

__version__ = version("rarl")

__all__ = [
    "AESTHETICS",
    "AGE",
    "COUNT",
    "DIGITS",
    "RARLConfig",
    "RARLTrainer",
    "Ranker",
    "Task",
    "__version__",
    "format_reward",
    "ranking_reward",
    "regression_reward",
]

_MODULES = {
    "AESTHETICS": "rarl.method.tasks",
    "AGE": "rarl.method.tasks",
    "COUNT": "rarl.method.tasks",
    "DIGITS": "rarl.method.tasks",
    "RARLConfig": "rarl.training.trainer",
    "RARLTrainer": "rarl.training.trainer",
    "Ranker": "rarl.ranking.ranker",
    "Task": "rarl.method.tasks",
    "format_reward": "rarl.method.rewards",
    "ranking_reward": "rarl.method.rewards",
    "regression_reward": "rarl.method.rewards",
}


def __getattr__(name: str) -> Any:
    """A public name on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rarl' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
