"""Groups as the `datasets.Dataset` that TRL's trainers and the rewards read. The truth of each prompt stands
in columns; the prompt and its images are made when a row is read, and only then are image files opened."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from rarl.data.groups import Group
from rarl.data.images import open_image
from rarl.data.opening import Resizing
from rarl.method.prompts import messages
from rarl.method.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset


class _Reading:
    """Adds the prompt and the images to rows as they are read. It holds no rows, and is quick to pickle.

    The images of the last call are kept for the next, since TRL 1.16 reads a batch again for each of the
    micro-batches that it cuts it into.
    """

    def __init__(self, value_range: str, resizing: Resizing | None) -> None:
        self.value_range = value_range
        self.resizing = resizing
        self._opened: dict[str, Image.Image] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reading, (self.value_range, self.resizing)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "paths" not in batch or "rule" not in batch:  # one column was asked for by name
            return batch
        opened: dict[str, Image.Image] = {}
        for path in (path for paths in batch["paths"] for path in paths):
            if path not in opened:
                opened[path] = self._opened.get(path) or open_image(path, self.resizing)
        self._opened = opened
        prompts = [
            messages(len(p), r, self.value_range) for p, r in zip(batch["paths"], batch["rule"], strict=True)
        ]
        return {
            **batch,
            "prompt": prompts,
            "images": [[opened[p] for p in paths] for paths in batch["paths"]],
        }


def to_dataset(
    groups: Sequence[Group],
    task: Task,
    columns: Mapping[str, Sequence[Any]] | None = None,
    resizing: Resizing | None = None,
) -> "Dataset":
    """One row for each group, in memory, as TRL's trainers and the rewards of `rarl.method.rewards` read
    them.

    Columns: `values` (list of float, picture 1..N), `delta` (float), `range` ([low, high]), `step` (float),
    `rule` (text), `ids`, `paths`, and those of `columns`. Where only orders are known, `order` (list of int,
    the place of picture 1..N, from 0) stands in place of `values`. Reading rows adds `prompt` (chat messages)
    and `images` (RGB images; each file is opened once for all the rows that are read together).

    Args:
        resizing: of the model's processor (`rarl.models.processor.resizing_of`): images come at its size, as
            `Ranker` and the evaluation open them. None for whole images.

    Raises:
        DataError: when a row is read and one of its images can't be opened.
    """
    from datasets import Dataset  # slow to import

    size = len(groups)
    truths: list[dict[str, Any]] = [dict(group.truth) for group in groups] or [{"values": []}]
    fields: dict[str, list[Any]] = {
        **{name: [truth[name] for truth in truths[:size]] for name in truths[0]},
        "delta": [float(task.delta)] * size,
        "range": [[float(task.low), float(task.high)]] * size,
        "step": [float(task.step)] * size,
        "rule": [task.rule if group.rule is None else group.rule for group in groups],
        "ids": [[row.id for row in group.rows] for group in groups],
        "paths": [[str(row.path) for row in group.rows] for group in groups],
    }
    fields |= {name: list(column) for name, column in (columns or {}).items()}
    return Dataset.from_dict(fields).with_transform(_Reading(task.value_range, resizing))
