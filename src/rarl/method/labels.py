"""The truth of a prompt as one line of JSON, for engines that hand their rewards a text for each sample. The
numbers read back as the same floats, so a reward that reads it is that of the columns to the last bit."""

import json
from collections.abc import Mapping
from typing import Any

from rarl.errors import DataError
from rarl.method.rewards import COLUMNS

LABEL_KEYS = (*COLUMNS, "step")
"""What a label may have: the columns of the rewards, and the step, which a reference is written with."""


def label_of(columns: Mapping[str, Any]) -> str:
    """The columns of one prompt, such as {"values": [3.0, 7.0], "delta": 2.0, …}, as a text. Keys that are
    not in `LABEL_KEYS` are left out."""
    return json.dumps({key: columns[key] for key in LABEL_KEYS if key in columns}, allow_nan=False)


def columns_of(label: object) -> dict[str, Any]:
    """The inverse of `label_of`.

    Raises:
        DataError: if it is no such text. What the entries are is checked by the rewards.
    """
    try:
        columns = json.loads(label) if isinstance(label, str) else None
    except (ValueError, RecursionError):
        columns = None
    if not isinstance(columns, dict) or not columns.keys() & {"values", "order"}:
        raise DataError(
            f"the truth of a sample is {str(label)[:80]!r}, not what `rarl data export` writes: train on "
            "its files, and let the engine hand that column to the reward"
        )
    return {key: columns[key] for key in LABEL_KEYS if key in columns}
