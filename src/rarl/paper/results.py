"""What the cells of a grid have measured: an arm's numbers over its seeds, and how far two arms are apart.
Intervals and p-values are Student's t over several seeds, and a bootstrap over images and lists within one
seed. Nothing is evaluated here."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr
from scipy.stats import t as student

from rarl.errors import ConfigError, DataError
from rarl.evaluation.intervals import bootstrap_resamples, expanded_interval
from rarl.evaluation.metrics import METRICS, MetricEntry
from rarl.evaluation.prediction import Prediction
from rarl.evaluation.results import load_metrics, read_predictions
from rarl.evaluation.summary import guesses_and_truths
from rarl.method.tasks import Task
from rarl.paper.grid import Cell, check_reply_lengths

Key = TypeVar("Key", bound=Hashable)


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

    For one seed the interval is that of a paired bootstrap, with the same images or lists drawn for both
    arms; for several it is Student's t of the seeds' differences. A seed that lacks one of the two arms is
    left out.

    Returns:
        Entries with `p`, the two-sided p-value of no difference; without it for lists of one seed that share
        images, as those of an earlier version do. Empty if no seed is left.
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
        values = {name: [seed[name] for seed in by_seed] for name in names}
        return {
            name: {**over_seeds([{"value": value} for value in of_seeds]), "p": student_p(of_seeds)}
            for name, of_seeds in values.items()
        }
    return {
        name: {"value": by_seed[0][name], **entry, "seeds": [by_seed[0][name]]}
        for name, entry in _paired_entries(*pairs[0], task).items()
    }


def holm(p_values: Mapping[Key, float], level: float = 0.05) -> set[Key]:
    """The hypotheses that Holm's correction rejects: with a probability of at most `level`, one or more of
    them is rejected although it is true (Holm 1979).

    The smallest p-value of m must be at most `level` / m, the next `level` / (m - 1), and so on, up to the
    first that is not.
    """
    rejected: set[Key] = set()
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        if p_values[key] > level / (len(p_values) - place):
            break
        rejected.add(key)
    return rejected


def student_p(values: Sequence[float]) -> float:
    """The two-sided p-value of a mean of 0, for two values or more."""
    deviation = float(np.std(values, ddof=1))
    return _t_p(float(np.mean(values)), deviation / math.sqrt(len(values)), len(values))


def bootstrap_p(value: float, resampled: np.ndarray, rows: int) -> float:
    """The two-sided p-value of 0, from the resamples of a statistic over `rows` rows.

    It is the level at which the expanded interval would end at 0: p < 0.05 goes with a 95 % interval that
    leaves 0 out. If 0 lies beyond all resamples, their tail is taken as that of Student's t with their own
    deviation, so that 1,000 resamples can tell 0.001 from 0.00001.

    Args:
        value: of the statistic.
    """
    deviation = float(np.std(resampled))
    if rows < 2 or np.ptp(resampled) <= 1e-12 * max(1.0, abs(value)):
        return _t_p(value, 0.0, rows)
    wider = math.sqrt(rows / (rows - 1))
    below = float(np.mean(resampled < 0) + np.mean(resampled == 0) / 2)
    beyond = min(below, 1 - below)
    least = 1 / (len(resampled) + 1)
    counted = 2 * float(stdtr(rows - 1, ndtri(max(beyond, least)) / wider))
    return counted if beyond > 0 else min(counted, _t_p(value, deviation * wider, rows))


def _t_p(value: float, error: float, rows: int) -> float:
    """The two-sided p-value of Student's t for a mean and its standard error. Where all numbers are equal it
    is that of the sign test, since an error of 0 would make any number of them certain."""
    if error <= 1e-12 * max(1.0, abs(value)):
        return 1.0 if abs(value) <= 1e-12 else 2.0 ** (1 - rows)
    return 2 * float(student.sf(abs(value) / error, rows - 1))


def _paired_entries(first: Cell, second: Cell, task: Task) -> dict[str, dict[str, float]]:
    """METRIC -> `low`, `high` and `p` of `first` minus `second` over replies to the same prompts, drawn
    together. Lists that share images have no `p`."""
    ours, theirs = _drawn_predictions(first), _drawn_predictions(second)
    assert [line.ids for line in ours] == [line.ids for line in theirs]  # `measured` compared the lists
    found: dict[str, dict[str, float]] = {}
    if any(line.images == 1 for line in ours):
        metric = METRICS[task.metric]
        alone = ([line for line in arm if line.images == 1] for arm in (ours, theirs))
        one, other = (guesses_and_truths(lines, task, metric) for lines in alone)
        score = metric.score
        assert score is not None  # it is a metric of single images
        found[task.metric] = paired_entry(
            np.column_stack([one[:, 0], other]),
            lambda ours, theirs, truths: score(ours, truths, task) - score(theirs, truths, task),
            seed=first.seed,
        )
    for count in sorted({line.images for line in ours} - {1}):
        taus = [[line.tau for line in arm if line.images == count] for arm in (ours, theirs)]
        between = np.subtract(*np.asarray(taus, dtype=np.float64))
        entry = paired_entry(between, seed=first.seed)
        images = [name for line in ours if line.images == count for name in line.ids]
        if len(set(images)) < len(images):  # lists of an earlier version are not independent
            del entry["p"]
        found[f"tau{count}"] = entry
    return found


def paired_entry(
    values: ArrayLike, statistic: Callable[..., float] = np.mean, *, seed: int
) -> dict[str, float]:
    """`low`, `high` and `p` of a difference; arguments as for `bootstrap_interval`."""
    rows = np.asarray(values, dtype=np.float64)
    resampled = bootstrap_resamples(rows, statistic, seed=seed)
    low, high = expanded_interval(resampled, len(rows))
    value = float(statistic(*rows.reshape(len(rows), -1).T))
    return {"low": low, "high": high, "p": bootstrap_p(value, resampled, len(rows))}


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
