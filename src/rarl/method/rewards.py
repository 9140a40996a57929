"""R_reg, R_rank and R_format of Eq. 8 as reward functions for TRL: completions and the dataset's columns in,
one number per completion out. Each text is read once (`replies`) and scored by the paper's equations
(`equations`); TRL's `reward_weights` weigh and add the three (Eq. 8). `TERMS` says what they are, in order.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real  # numpy's numbers are some too
from typing import Any

from rarl.errors import ConfigError
from rarl.method.equations import (
    is_rankable,
    length_compliance,
    mean_regression,
    ranking,
    ranking_accuracy,
    ranking_consistency,
)
from rarl.method.replies import Reply, parse

Completion = str | Sequence[Mapping[str, Any]]
"""A text, or a list of chat messages of which the last is the reply."""

COLUMNS = {
    "values": "the true value of each picture, such as [3, 7]",
    "order": "the place of each picture in the true order, from 0, such as [1, 0]",
    "delta": "the tolerance of Eq. 3, greater than 0, such as 2.0",
    "range": "the ends of the value range, such as [0, 9]",
}
"""What the rewards need of a prompt, as columns of the dataset; where only orders are known, `order` is there
in place of `values`."""


def regression_reward(
    completions: Sequence[Completion],
    *,
    values: Sequence[Sequence[float]] | None = None,
    order: Sequence[Sequence[int]] | None = None,
    delta: Sequence[float] | None = None,
    range: Sequence[Sequence[float]] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    """R_reg (Eq. 3, mean over all N true images): within [0, 1], one number per completion.

    An image counts 0 if it is missing, listed twice, or given a value outside the task's range.

    Args:
        completions: what the model wrote.
        values, delta, range: one entry per completion; see `COLUMNS`.
        log_metric, columns: what else TRL hands over; unused.

    Raises:
        ConfigError: if a column is missing or an entry of it is not what it should be; also if there is an
            `order` and no `values`: an order has no distance.
    """
    if values is None and order is not None:
        raise ConfigError(
            "the regression reward needs values, and this dataset knows orders alone (column 'order'): train "
            "with the rewards for ranking and format, the weight of regression 0"
        )
    count = len(completions)
    rewards = []
    for completion, truths, tolerance, (low, high) in zip(
        completions,
        _lists("values", values, count),
        _tolerances(delta, count),
        _lists("range", range, count, length=2),
        strict=True,
    ):
        given = reply_of(completion).values(len(truths))
        allowed = [value if value is not None and low <= value <= high else None for value in given]
        rewards.append(mean_regression(allowed, truths, tolerance))
    return rewards


def ranking_reward(
    completions: Sequence[Completion],
    *,
    values: Sequence[Sequence[float]] | None = None,
    order: Sequence[Sequence[int]] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """R_rank (Eq. 7): within [0, 3]; `None` where there is nothing to rank, one image or all truths tied.

    A list that is no ranking (nothing parsed, empty, an id twice, an id that is no picture) earns 0.

    Args:
        completions: what the model wrote.
        values: one entry per completion; see `COLUMNS`.
        order: in place of `values`; only who is before whom counts in either.
        log_metric: gets the means of `r_len`, `r_consis` and `r_acc` over the completions that have them.
        columns: what else TRL hands over; unused.

    Raises:
        ConfigError: if `values` and `order` are missing or an entry is not what it should be.
    """
    name, column = ("order", order) if values is None and order is not None else ("values", values)
    rewards: list[float | None] = []
    terms: dict[str, list[float]] = {"r_len": [], "r_consis": [], "r_acc": []}
    for completion, truths in zip(completions, _lists(name, column, len(completions)), strict=True):
        if not is_rankable(truths):
            rewards.append(None)
            continue
        length, consistency, accuracy = ranking_terms(reply_of(completion), truths)
        rewards.append(ranking(length, consistency, accuracy))
        for part, term in zip(terms, (length, consistency, accuracy), strict=True):
            terms[part].append(term)
    if log_metric is not None:
        for part, logged in terms.items():
            if logged:
                log_metric(part, sum(logged) / len(logged))
    return rewards


def format_reward(
    completions: Sequence[Completion],
    *,
    values: Sequence[Sequence[float]] | None = None,
    order: Sequence[Sequence[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """R_format: 1 for a reply in exactly the form the prompt asks for (`Reply.well_formed`), else 0.

    Where there is nothing to rank, an id twice or one that is no picture costs it too: elsewhere it costs
    R_rank, which is not defined there.

    Args:
        completions: what the model wrote.
        values, order: one entry per completion, see `COLUMNS`; without either, the form alone counts.
        columns: what else TRL hands over; unused.

    Raises:
        ConfigError: if an entry of `values` or `order` is not what it should be.
    """
    replies = [reply_of(completion) for completion in completions]
    formed = [reply.well_formed for reply in replies]
    name, column = ("order", order) if values is None else ("values", values)
    if column is not None:
        for row, truths in enumerate(_lists(name, column, len(replies))):
            if not is_rankable(truths) and replies[row].positions(len(truths)) is None:
                formed[row] = False
    return [float(right) for right in formed]


@dataclass(frozen=True)
class Term:
    """A term of Eq. 8.

    Attributes:
        name: as in a stage's `weights`; the function is called NAME_reward, and so are TRL's metrics.
        function: a reward function of TRL.
        label: in the line that is printed while a model trains.
        title: of its curve in a report.
        needs_values: whether it is left out where only orders are known.
        weight: its lambda, where a stage says none.
        parts: what the function logs by `log_metric`: name -> title of its curve.
    """

    name: str
    function: Callable[..., Any]
    label: str
    title: str
    needs_values: bool = False
    weight: float = 1.0
    parts: Mapping[str, str] = field(default_factory=dict)


TERMS = (
    Term("regression", regression_reward, "reg", "Reward for regression (Eq. 3)", needs_values=True),
    Term(
        "ranking",
        ranking_reward,
        "rank",
        "Reward for ranking (Eq. 7)",
        parts={
            "r_len": "Length r_len (Eq. 4)",
            "r_consis": "Consistency r_consis (Eq. 5)",
            "r_acc": "Accuracy r_acc (Eq. 6)",
        },
    ),
    Term("format", format_reward, "format", "Reward for format"),
)
"""The terms of Eq. 8, in the order of lambda 1 to 3. The trainer, the sections of the YAML, the validation,
the progress line and the plots read them here. To add a reward, write its function above, and a row."""


def score(text: str, columns: Mapping[str, Any], weights: Sequence[float]) -> float:
    """Eq. 8 for one reply: within [0, 5] if all weights are 1. A term that is not defined for the prompt is
    left out, as TRL leaves it out.

    Args:
        text: the reply.
        columns: of the prompt, each with its one entry, as in `COLUMNS`: {"order": [1, 0], ...}.
        weights: of `TERMS`.
    """
    return total(scores(text, columns), weights)


def total(earned: Mapping[str, float | None], weights: Sequence[float]) -> float:
    """The weighted sum of what `scores` gives."""
    result = 0.0
    for term, weight in zip(earned.values(), weights, strict=True):
        result += 0.0 if term is None else weight * term
    return result


def scores(text: str, columns: Mapping[str, Any]) -> dict[str, float | None]:
    """What each of `TERMS` gives for one reply, by its name; None where it is not defined for the prompt.
    Arguments as for `score`."""
    batch = {name: [entry] for name, entry in columns.items()}
    return {
        term.name: None
        if term.needs_values and "values" not in columns
        else term.function([text], **batch)[0]
        for term in TERMS
    }


def ranking_terms(reply: Reply, truths: Sequence[float]) -> tuple[float, float, float]:
    """r_len, r_consis and r_acc (Eqs. 4-6) of one reply to the pictures with these true values."""
    positions = reply.positions(len(truths))
    listed = 0 if positions is None else sum(place is not None for place in positions)
    return (
        length_compliance(listed, len(truths)),
        ranking_consistency(positions, reply.values(len(truths)), truths),
        ranking_accuracy(positions, truths),
    )


def reply_of(completion: Completion) -> Reply:
    """The reply in a completion: a text, or messages whose last one holds a text or a list of text parts."""
    if isinstance(completion, str):
        return parse(completion)
    content = completion[-1].get("content") if completion else None
    if isinstance(content, str):
        return parse(content)
    return parse("".join(part.get("text") or "" for part in content or () if part.get("type") == "text"))


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────


def _tolerances(column: Any, count: int) -> list[float]:
    """The column `delta`, or a `ConfigError` that names the row."""
    tolerances = [
        _finite_number("delta", row, entry) for row, entry in enumerate(_rows("delta", column, count))
    ]
    for row, tolerance in enumerate(tolerances):
        if tolerance <= 0:
            raise _wrong("delta", row, tolerance)
    return tolerances


def _lists(name: str, column: Any, count: int, length: int | None = None) -> list[list[float]]:
    """`column` as `count` lists of finite numbers, not empty or of this `length`."""
    lists = []
    for row, entry in enumerate(_rows(name, column, count)):
        if not _is_list(entry) or len(entry) == 0 or length not in (None, len(entry)):
            raise _wrong(name, row, entry)
        lists.append([_finite_number(name, row, number) for number in entry])
    return lists


def _rows(name: str, column: Any, count: int) -> Any:
    if column is None:
        raise ConfigError(f"the rewards need a column '{name}' in the dataset: {COLUMNS[name]}")
    if not _is_list(column) or len(column) != count:
        raise ConfigError(f"column '{name}' must have one entry for each of the {count} completions")
    return column


def _is_list(entry: object) -> bool:
    return isinstance(entry, Sequence) and not isinstance(entry, str | bytes)


def _finite_number(name: str, row: int, number: Any) -> float:
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    if not is_number or not abs(number) <= sys.float_info.max:  # false for NaN, and for an int like 10**400
        raise _wrong(name, row, number)
    return float(number)


def _wrong(name: str, row: int, given: object) -> ConfigError:
    return ConfigError(f"column '{name}', completion {row}: {given!r} is not {COLUMNS[name]}")
