"""Collections of which only orders are known: `orders.jsonl` in a split's folder, a line
`{"ids": [... ascending ...]}` for each, stands in for the values. An image may be in several orders or in
none; nothing is said of two images that share no order."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rarl.errors import DataError

if TYPE_CHECKING:
    from rarl.data.collection import Row

ORDERS = "orders.jsonl"


def load_orders(file: Path, rows: Sequence["Row"], fault: Callable[[DataError], None]) -> list["Row"]:
    """For each image of each order a row with its place as `value` and the order's number (its line, from 1).

    Args:
        file: the `orders.jsonl`.
        rows: the images of the split.
        fault: called with what is wrong with a line; where it returns, the line is passed over.

    Raises:
        DataError: if no order can be read.
    """
    by_id = {row.id: row for row in rows}
    found: list[Row] = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                ordered = _order(line, f"{file} line {number}", by_id)
            except DataError as error:
                fault(error)
            else:
                found += [replace(row, value=float(place), order=number) for place, row in enumerate(ordered)]
    if not found:
        raise DataError(f'{file}: no orders; write a line {{"ids": [...]}}, ascending, for each')
    return found


def contradictions(rows: Sequence["Row"]) -> list[list[str]]:
    """The images of which orders contradict each other: lists of ids, each image of a list before and after
    every other of it, in one order or through several. No total order agrees with them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids = list(dict.fromkeys(row.id for row in rows))
    number = {name: place for place, name in enumerate(ids)}
    next_to = [
        (number[a.id], number[b.id]) for a, b in pairwise(rows) if a.order == b.order and a.value < b.value
    ]
    before, after = zip(*next_to, strict=True) if next_to else ((), ())
    edges = coo_array(([1] * len(next_to), (before, after)), shape=(len(ids), len(ids)))
    _, labels = connected_components(edges, connection="strong")
    cycles: dict[int, list[str]] = {}
    for name, label in zip(ids, labels.tolist(), strict=True):
        cycles.setdefault(label, []).append(name)
    return [cycle for cycle in cycles.values() if len(cycle) > 1]


def _order(line: bytes, where: str, by_id: dict[str, "Row"]) -> list["Row"]:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}); an order is one JSON object on one line") from error
    ids = fields.get("ids") if isinstance(fields, dict) else None
    if not isinstance(ids, list) or len(ids) < 2:
        raise DataError(f'{where}: must be {{"ids": [...]}} with two ids or more, ascending')
    for number, name in enumerate(ids, 1):
        if not isinstance(name, str) or name not in by_id:
            raise DataError(f"{where}: id {number}, {name!r}, is that of no image of this split")
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{where}: {twice!r} is listed twice; an order has each image once")
    rows = [by_id[name] for name in ids]
    if any(row.rule != rows[0].rule for row in rows):
        raise DataError(f"{where}: images with different rules; an order is by one rule")
    return rows
