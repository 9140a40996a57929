"""Where else a run's curves go: what `trainer.report_to` names (tensorboard, trackio, wandb, …). The trackers
are transformers' own; here they are checked before anything runs, and told which arm of which run they
follow. The run's own log is `log.jsonl`, whatever is tracked."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rarl.errors import nearest_word

PROJECT = "rarl"
TENSORBOARD = "tensorboard"
"""The tracker, and the folder of a run in which its files are, a folder for each arm."""


def tracker_problem(report_to: str | Sequence[str] | None) -> str | None:
    """Why the trackers can't be had; None if they can. It imports transformers."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    known = [*INTEGRATION_TO_CALLBACK]
    installed = get_available_reporting_integrations()
    for name in names:
        if name in ("none", "all"):
            continue
        if name not in known:
            return f"unknown tracker {name!r}{nearest_word(name, known) or '; there are'} {', '.join(known)}"
        if name not in installed:
            return f"{name} is not installed: pip install {name}"
    return None


def tracker_arguments(output: Path, arm: str) -> dict[str, str]:
    """The arguments of a trainer by which trackers name what they follow."""
    return {"run_name": f"{output.name}/{arm}", "project": PROJECT}


def follow(trainer: Any, output: Path, arm: str) -> None:
    """Tells the trackers of a trainer where to write. TensorBoard's files would go into the checkpoints,
    which are removed at the end; they go into the run's folder."""
    os.environ.setdefault("WANDB_PROJECT", trainer.args.project)
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ == "TensorBoardCallback":
            callback.logging_dir = str(output / TENSORBOARD / arm)


def leave(trainer: Any) -> None:
    """Ends what follows a trainer. wandb would add the next arm of this process to the same curves."""
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ == "WandbCallback":
            callback._wandb.finish()
