"""How a model puts lists in order best: as it lists them, by the values of their images, or by these joined
with the values that images get in windows (`rarl.scoring.windows`). What is asked for it, and what is chosen
of the answers; `choose` does the asking."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rarl.data.collection import Row
from rarl.data.groups import Group, disjoint_groups
from rarl.errors import DataError
from rarl.evaluation.intervals import bootstrap_interval
from rarl.evaluation.metrics import list_tau, mae, srcc, tau_values
from rarl.evaluation.prediction import predict
from rarl.method.replies import parse_leniently
from rarl.method.tasks import Task
from rarl.scoring.scoring import Scoring
from rarl.scoring.windows import joined, values_in, window_length, windows_of

MOST_LISTS = 50  # of each number of images; no image is in two of them
LEAST = 10
"""With fewer windows, lists or images nothing is chosen by them: their interval would say little."""


def lists_of(rows: Sequence[Row], lengths: Sequence[int], seed: int) -> dict[int, list[Group]]:
    """Lists of each of these lengths, of which no two share an image; none of a length that the images do
    not suffice for."""
    found: dict[int, list[Group]] = {}
    for count in lengths:
        try:
            found[count] = disjoint_groups(rows, count, MOST_LISTS, seed)
        except DataError:
            continue
    return found


def windows_in(rows: Sequence[Row], lengths: Sequence[int], seed: int) -> list[Group]:
    """The images as one long list, in windows of `window_length`: each image in one, whatever its value.
    Images that are left over are in none, and there are no windows if they would be too few. That is at most
    one prompt for two images."""
    length = window_length(lengths, len(rows))
    windows: list[Group] = []
    for rule in dict.fromkeys(row.rule for row in rows):
        same = [row for row in rows if row.rule == rule]
        random.Random(f"{seed}:left over").shuffle(same)
        same = same[: len(same) - len(same) % length] if length else []
        places = windows_of(len(same), length, seed) if same else []
        windows += [Group(tuple(same[place] for place in window)) for window in places]
    return windows if len(windows) >= LEAST else []


def with_orders(
    scoring: Scoring,
    values: Mapping[Row, float],
    lists: Mapping[int, Sequence[Group]],
    windows: Sequence[Group],
    replies: Mapping[Group, str],
    task: Task,
    seed: int,
) -> Scoring:
    """`scoring` with the orders that are chosen, and the numbers behind them.

    A list goes by `values`, unless the order in which the model lists it has a higher mean tau, or that of
    the joined values one that is higher than both. Lists that the model doesn't know go by values, or by
    joined ones if their SRCC in the long list is higher. All beyond the 95 % interval of the paired
    difference: over lists, and over windows.

    Args:
        values: of each image, by the method of `scoring`: means, or those of greedy replies.
        lists: NUMBER OF IMAGES -> lists, from `lists_of`.
        windows: of the long list, from `windows_in`.
        replies: to all of these.
    """
    listed: dict[str, float] = {}
    in_windows: dict[str, float] = {}
    orders = {count: "values" for count in scoring.lengths}
    for count, groups in lists.items():
        taus = {"values": taus_by(values, groups), "listed": [], "windows": []}
        for group, by_values in zip(groups, taus["values"], strict=True):
            said = predict(group, replies[group]).read_leniently()
            taus["listed"].append(list_tau(said.positions, group.values) if said.valid else by_values)
            taus["windows"] += taus_by(_joined(values, group, replies[group], task), [group])
        listed[f"tau{count}"] = float(np.mean(taus["listed"]))
        in_windows[f"tau{count}"] = float(np.mean(taus["windows"]))
        if len(groups) < LEAST:
            continue
        if _is_higher(taus["listed"], taus["values"], seed):
            orders[count] = "listed"
        if all(_is_higher(taus["windows"], taus[other], seed) for other in ("listed", "values")):
            orders[count] = "windows"
    others: Literal["values", "windows"] = "values"
    if windows:
        numbers, is_better = _long_list(values, windows, replies, task, seed)
        in_windows |= numbers
        others = "windows" if is_better else "values"
    return replace(
        scoring,
        listed=tuple(count for count in scoring.lengths if orders[count] == "listed"),
        windows=tuple(count for count in scoring.lengths if orders[count] == "windows"),
        others=others,
        measured={**scoring.measured, "listed": listed, "windows": in_windows},
    )


def taus_by(values: Mapping[Row, float], groups: Sequence[Group]) -> list[float]:
    """Kendall's tau of each list, sorted by the values of its images."""
    return [tau_values(range(len(g.rows)), [values[row] for row in g.rows], g.values) for g in groups]


def _joined(values: Mapping[Row, float], group: Group, reply: str, task: Task) -> dict[Row, float]:
    """The values of the images of a list, joined with those that they get in it."""
    count = len(group.rows)
    own = [values[row] for row in group.rows]
    found = joined(own, [range(count)], [values_in(parse_leniently(reply, count), count, task)])
    return {row: value for row, value in zip(group.rows, found, strict=True) if value is not None}


def _long_list(
    values: Mapping[Row, float], windows: Sequence[Group], replies: Mapping[Group, str], task: Task, seed: int
) -> tuple[dict[str, float], bool]:
    """The numbers of the long list, with windows and by values alone, and whether its SRCC is higher with
    them."""
    length = len(windows[0].rows)
    table = np.empty((len(windows), 3, length))  # joined values, values, truths
    for window, numbers in zip(windows, table, strict=True):
        numbers[0] = list(_joined(values, window, replies[window], task).values())
        numbers[1] = [values[row] for row in window.rows]
        numbers[2] = window.values

    def gain(*columns: np.ndarray) -> float:
        some, others, truths = np.reshape(columns, (3, -1))
        return srcc(some, truths) - srcc(others, truths)

    low, _ = bootstrap_interval(table, gain, seed=seed)  # the images of a window have one reply in common
    some, others, truths = table.swapaxes(0, 1).reshape(3, -1)
    measured = {"images": float(truths.size)}
    for name, given in (("", some), ("_values", others)):
        inside = np.clip(given, task.low, task.high)
        measured |= {f"mae{name}": mae(inside, truths), f"srcc{name}": srcc(given, truths)}
    return measured, low > 0


def _is_higher(some: ArrayLike, others: ArrayLike, seed: int) -> bool:
    """Whether the mean of some numbers is higher, beyond the 95 % interval of the paired difference."""
    low, _ = bootstrap_interval(np.asarray(some) - np.asarray(others), seed=seed)
    return low > 0
