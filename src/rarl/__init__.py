"""Ranking-Aware Reinforcement Learning (arXiv 2601.20585): teach a vision-language model to score images on
an ordinal scale and to rank them. These are the public names, each imported when it is first used: `import
rarl` alone imports no torch."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarl.ranker import Ranker
    from rarl.rewards import format_reward, ranking_reward, regression_reward
    from rarl.tasks import AESTHETICS, AGE, COUNT, DIGITS, Task
    from rarl.training.rarl_config import RARLConfig
    from rarl.training.trainer import RARLTrainer

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
    "AESTHETICS": "rarl.tasks",
    "AGE": "rarl.tasks",
    "COUNT": "rarl.tasks",
    "DIGITS": "rarl.tasks",
    "RARLConfig": "rarl.training.rarl_config",
    "RARLTrainer": "rarl.training.trainer",
    "Ranker": "rarl.ranker",
    "Task": "rarl.tasks",
    "format_reward": "rarl.rewards",
    "ranking_reward": "rarl.rewards",
    "regression_reward": "rarl.rewards",
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
