"""`training.json` of a model folder: with what, how long and until when an arm was trained. Nothing but a
report reads it: the numbers that must be the same for the same seed stand elsewhere."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

TRAINING = "training.json"
GROUPS = "groups.jsonl"  # of a model folder, too; `group_log` writes it


def training_record(step: int, device: str, seconds: float | None) -> dict[str, Any]:
    """What stands in the file.

    Args:
        step: whose weights were kept.
        device: what the model was on.
        seconds: the training took; None where it was continued, so that nobody has seen the whole.
    """
    libraries = {name: version(name) for name in ("rarl", "torch", "transformers", "trl")}
    return {
        "versions": {"python": platform.python_version(), **libraries},
        "device": device,
        "seconds": None if seconds is None else round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
    }
