"""A check of a whole collection before anything is trained on it: what its values and images are like, and
what is wrong. Nothing is changed. `rarl.data.check.report` shows the result to a person."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rarl.data.check.duplicates import (
    Repeated,
    file_in_collection,
    listed,
    repeated,
    repetition_faults,
    repetition_notes,
)
from rarl.data.check.statistics import (
    Baseline,
    Bins,
    ImageTokens,
    PromptTokens,
    Sizes,
    Ties,
    Tokens,
    Values,
    baselines,
    bins_of,
    costs_of,
    sizes_of,
    ties_of,
    tokens_of,
    values_of,
)
from rarl.data.collection import Collection, Row, contradictions
from rarl.data.images import Progress, examine_all
from rarl.data.sources import SHOWN


@dataclass(frozen=True)
class SplitCheck:
    """One split.

    Attributes:
        rows: the number of lines with a value, or of places in orders.
        images: the number of different files.
        rules: the number of rows of each rule, if rows have rules of their own.
        values: None if only orders are known.
        ties: by the number of images in a list; empty if only orders are known.
        orders: the number of orders; None if values are known.
    """

    rows: int
    images: int
    rules: dict[str, int]
    values: Values | None
    ties: dict[int, Ties]
    orders: int | None


@dataclass(frozen=True)
class Check:
    """A collection as it was found.

    Attributes:
        problems: what is wrong with lines that can't be read, as given to `check_collection`.
        broken: for each file that can't be opened, why.
        faults: a line for each kind of mistake.
        notes: a line for each thing that is worth knowing, but no mistake.
    """

    root: str
    task: dict[str, Any]
    splits: dict[str, SplitCheck]
    bins: Bins
    baselines: dict[str, Baseline]
    sizes: Sizes | None
    tokens: Tokens | None
    problems: list[str]
    broken: dict[str, str]
    identical: Repeated
    alike: Repeated
    faults: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Everything as the lists, numbers and texts that JSON has."""
        return asdict(self)


def check_collection(
    collection: Collection,
    problems: Sequence[str] = (),
    image_tokens: ImageTokens | None = None,
    prompt_tokens: PromptTokens | None = None,
    counts: Sequence[int] = (2, 4, 8),
    progress: Progress | None = None,
) -> Check:
    """Opens every image once and looks at every row. Nothing that is wrong with the collection raises an
    error.

    Args:
        problems: what is wrong with rows that can't be read, as from `inspect_collection`.
        image_tokens, prompt_tokens: those of a model, to say what images and prompts cost it.
        counts: numbers of images in a list.
        progress: called after each file.
    """
    named = {
        str(row.path): file_in_collection(collection, row)
        for rows in collection.splits.values()
        for row in rows
    }
    examined = dict(zip(named, examine_all([Path(path) for path in named], progress), strict=True))
    broken = {named[path]: file.problem for path, file in examined.items() if file.problem is not None}
    same, alike = repeated(collection, examined)
    valued = {name: rows for name, rows in collection.splits.items() if collection.knows_values(name)}
    bins = bins_of([row for rows in valued.values() for row in rows])
    sizes = {named[path]: file.size for path, file in examined.items() if file.size is not None}
    costs, refused = costs_of(sizes, image_tokens)
    rules = {row.rule or collection.task.rule for rows in collection.splits.values() for row in rows}
    faults = [
        *_first_faults(problems, "lines of manifests are wrong"),
        *_first_faults(broken.values(), "images can't be opened"),
        *refused,
        *repetition_faults(same, alike),
    ]
    return Check(
        str(collection.root),
        collection.task.to_dict(),
        {name: _split(rows, bins, counts, name in valued) for name, rows in collection.splits.items()},
        bins,
        baselines(valued),
        sizes_of(list(sizes.values())),
        tokens_of(costs, prompt_tokens, sorted(rules), collection.task.value_range, counts),
        list(problems),
        broken,
        same,
        alike,
        [" ".join(fault.split()) for fault in faults],
        [*repetition_notes(same, alike), *_order_notes(collection)],
    )


def _split(rows: Sequence[Row], bins: Bins, counts: Sequence[int], knows_values: bool) -> SplitCheck:
    rules = Counter(row.rule for row in rows if row.rule is not None)
    return SplitCheck(
        len(rows),
        len({row.path for row in rows}),
        dict(rules.most_common()),
        values_of(rows, bins) if knows_values else None,
        {count: ties_of(rows, count) for count in counts if count > 1} if knows_values else {},
        None if knows_values else len({row.pool.order for row in rows}),
    )


def _first_faults(lines: Iterable[str], what: str) -> list[str]:
    """The first few of many faults, and their number."""
    every = list(lines)
    return every[:SHOWN] + ([f"... {len(every)} {what} in all"] if len(every) > SHOWN else [])


def _order_notes(collection: Collection) -> list[str]:
    notes = []
    for name in collection.splits:
        cycles = [] if collection.knows_values(name) else contradictions(collection.split(name))
        if cycles:
            ids = listed(" = ".join(cycle[:SHOWN]) for cycle in cycles)
            notes.append(f"{name}: orders that contradict each other, among the images {ids}")
    return notes
