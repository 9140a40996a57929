"""What the cells of a grid have measured: an arm's numbers over its seeds, and how far two arms are apart.
Intervals are Student's t over several seeds, and a bootstrap over replies within one seed. Nothing is
evaluated here."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from rarl.errors import ConfigError, DataError
from rarl.evaluation.metrics import METRICS, MetricEntry, bootstrap_interval
from rarl.evaluation.prediction import Prediction
from rarl.evaluation.results import load_metrics, read_predictions
from rarl.evaluation.summary import guesses_and_truths
from rarl.method.tasks import Task
from rarl.paper.grid import Cell, check_reply_lengths


def measured(grid: Sequence[Cell]) -> dict[int, dict[str, dict[str, Any]]]:
    """SEED -> ARM -> what stands in the cell's `metrics.json`; cells that have none are left out.

    Raises:
        ConfigError: if two cells were evaluated on different images or lists, or their replies were cut at
            different lengths.
    """
    check_reply_lengths(grid)
    found: dict[int, dict[str, dict[str, Any]]] = {}
    firsts: dict[int | None, tuple[Path, dict[str, Any]]] = {}
    for cell in grid:
        path = cell.folder / "metrics.json"
        if not path.is_file() or cell.arm not in (metrics := load_metrics(path))["arms"]:
            continue
        of_all = {key: metrics.get(key) for key in ("task", "split", "collection")}
        for seed, same in ((None, of_all), (cell.seed, {"lists": metrics["lists"]})):
            place, known = firsts.setdefault(seed, (path, same))
            wrong = [key for key in same if same[key] != known[key]]
            if not wrong:
                continue
            raise ConfigError(
                f"{path} and {place} are not of the same {' and '.join(wrong)}: remove the cell that is "
                "not of this grid, and it is made again"
            )
        found.setdefault(cell.seed, {})[cell.arm] = metrics
    return found


def over_seeds(entries: Sequence[MetricEntry]) -> dict[str, Any]:
    """The mean of a metric over seeds with the 95 % interval of Student's t, and the value of each seed. For
    one seed, its own value and interval."""
    values = [entry["value"] for entry in entries]
    if len(values) == 1:
        return {**entries[0], "seeds": values}
    low, high = _student_interval(values)
    return {"value": float(np.mean(values)), "low": low, "high": high, "n": len(values), "seeds": values}


def differences(grid: Sequence[Cell], arm: str, other: str, task: Task) -> dict[str, dict[str, Any]]:
    """METRIC -> how much higher it is for `arm` than for `other`, on the same images and lists.

    For one seed the interval is that of a paired bootstrap, with the same replies drawn for both arms; for
    several it is Student's t of the seeds' differences. A seed that lacks one of the two arms is left out.

    Returns:
        Empty if no seed is left.
    """
    by_seed: list[dict[str, float]] = []
    pairs: list[tuple[Cell, Cell]] = []
    for first in (cell for cell in grid if cell.arm == arm):
        second = next((c for c in grid if c.arm == other and c.seed == first.seed), None)
        if second is None or not all(_evaluated(cell) for cell in (first, second)):
            continue
        ours, theirs = (load_metrics(c.folder / "metrics.json")["arms"][c.arm] for c in (first, second))
        by_seed.append({k: ours[k]["value"] - theirs[k]["value"] for k in ours if k in theirs})
        pairs.append((first, second))
    if not pairs:
        return {}
    names = [name for name in by_seed[0] if all(name in seed for seed in by_seed)]
    if len(pairs) > 1:
        return {name: over_seeds([{"value": seed[name]} for seed in by_seed]) for name in names}
    intervals = _paired_intervals(*pairs[0], task)
    return {
        name: {"value": by_seed[0][name], "low": low, "high": high, "seeds": [by_seed[0][name]]}
        for name, (low, high) in intervals.items()
    }


def _paired_intervals(first: Cell, second: Cell, task: Task) -> dict[str, tuple[float, float]]:
    """METRIC -> the interval of `first` minus `second` over replies to the same prompts, drawn together."""
    ours, theirs = _drawn_predictions(first), _drawn_predictions(second)
    assert [line.ids for line in ours] == [line.ids for line in theirs]  # `measured` compared the lists
    found: dict[str, tuple[float, float]] = {}
    if any(line.images == 1 for line in ours):
        one, other = (guesses_and_truths([x for x in arm if x.images == 1], task) for arm in (ours, theirs))
        score = METRICS[task.metric].score
        assert score is not None  # it is a metric of single images
        found[task.metric] = bootstrap_interval(
            np.column_stack([one[:, 0], other]),
            lambda ours, theirs, truths: score(ours, truths, task) - score(theirs, truths, task),
            seed=first.seed,
        )
    for count in sorted({line.images for line in ours} - {1}):
        taus = [[line.tau for line in arm if line.images == count] for arm in (ours, theirs)]
        between = np.subtract(*np.asarray(taus, dtype=np.float64))
        found[f"tau{count}"] = bootstrap_interval(between, seed=first.seed)
    return found


def _drawn_predictions(cell: Cell) -> list[Prediction]:
    """The predictions of the cell's arm, without those of rotated lists."""
    path = cell.folder / "predictions.jsonl"
    try:
        lines = list(read_predictions(path))
    except (OSError, DataError) as error:
        raise DataError(
            f"{path}: can't be read ({error}); remove {cell.folder}, and it is made again"
        ) from error
    return [line for line in lines if line.arm == cell.arm and not line.is_rotated]


def _evaluated(cell: Cell) -> bool:
    path = cell.folder / "metrics.json"
    return path.is_file() and cell.arm in load_metrics(path)["arms"]


def _student_interval(values: Sequence[float]) -> tuple[float, float]:
    mean, count = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean - half, mean + half
