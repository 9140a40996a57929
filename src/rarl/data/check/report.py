"""The result of `check_collection`, for a terminal of 80 columns and as a picture of the values. It shows
what was counted, and judges nothing."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rarl.data.check import Check, SplitCheck
from rarl.errors import DataError
from rarl.files import write_bytes
from rarl.method.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BAR = 12  # characters of the longest bar
SIDE_BY_SIDE = 3  # splits that fit next to each other
RULES, TICKS = 10, 12  # at most so many are named
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_check(check: Check, console: Console) -> None:
    """Prints everything. The faults come last, each on a line of its own, however long."""
    task = Task.from_dict(check.task, check.root)
    title = f"{task.name}: {task.rule}, {task.value_range} in steps of {task.step:g}"
    console.print(Text(title, style="bold"), Text(check.root), sep="\n", soft_wrap=True)
    _heading(console, "Splits")
    console.print(_splits_table(check))
    _print_lines(console, _rules(check))
    if check.bins:
        _heading(console, "Values, and how many rows have them")
        valued = _valued(check)
        for start in range(0, len(valued), SIDE_BY_SIDE):
            console.print(_histograms(check, valued[start : start + SIDE_BY_SIDE]))
        _heading(console, "Lists with two images of one value: as evaluation draws them / at random")
        console.print(_ties_table(check))
    if check.baselines:
        _heading(console, "The median of train, as the answer for every image")
        console.print(_baselines_table(check))
    _heading(console, "Images")
    _print_lines(console, _images(check))
    if check.notes:
        _heading(console, "Notes")
        _print_lines(console, check.notes)
    _heading(console, f"Faults: {len(check.faults)}" if check.faults else "No faults")
    _print_lines(console, check.faults, style="red")


def save_histograms(check: Check, path: str | os.PathLike[str]) -> None:
    """Writes a PNG with a histogram of the values for each split.

    Raises:
        DataError: if no split has values, because only orders are known.
        OSError: if the file can't be written.
    """
    # Without pyplot no window system is touched, and the user's choice of one stays.
    from matplotlib.figure import Figure

    splits = _valued(check)
    if not splits:
        raise DataError(f"{check.root}: only orders are known, and there are no values to plot")
    figure = Figure(figsize=(7.5, 1.0 + 2.1 * len(splits)), layout="constrained")
    axes = figure.subplots(len(splits), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, split) in zip(axes, splits, strict=True):
        _plot(axis, check, name, split)
    # A rule is in the user's own words: no formulas, and no warnings about letters that the font lacks.
    axes[-1].set_xlabel(check.task["rule"], parse_math=False)
    rows = sum(split.rows for _, split in splits)
    figure.suptitle(f"{check.task['name']}: values of {rows:,} rows", parse_math=False)
    picture = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(picture, format="png", dpi=150)
    # Written beside its place and renamed, since in a stranger's collection its name may be a link.
    write_bytes(Path(path), picture.getvalue())


def _valued(check: Check) -> list[tuple[str, SplitCheck]]:
    return [(name, split) for name, split in check.splits.items() if split.values is not None]


def _plot(axis: "Axes", check: Check, name: str, split: SplitCheck) -> None:
    from matplotlib.ticker import MaxNLocator

    values = split.values
    assert values is not None
    levels = all(low == high for low, high in check.bins)
    ends = [low for low, _ in check.bins]
    gaps = [after - before for before, after in pairwise(ends)]
    if levels:
        axis.bar(ends, values.histogram, width=0.8 * min(gaps, default=1.0), color="#4878a8")
        if len(ends) <= TICKS:
            axis.set_xticks(ends)
    else:
        axis.bar(ends, values.histogram, width=gaps[0], align="edge", color="#4878a8", edgecolor="white")
    axis.axvline(values.median, color="#c44e52", linewidth=1.5)
    title = f"{name}: {split.rows:,} rows, median {values.median:.6g} (line)"
    axis.set_title(title, loc="left", fontsize=10, parse_math=False)
    axis.set_ylabel("rows")
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.spines[["top", "right"]].set_visible(False)


def _plain_table(*names: str) -> Table:
    """A table without a frame, with names in the first column and numbers in the others."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="left" if place == 0 else "right")
    return table


def _heading(console: Console, words: str) -> None:
    console.print(Text(f"\n{words}", style="bold"))


def _print_lines(console: Console, lines: Iterable[str], style: str = "") -> None:
    for line in lines:
        # Text, because rich would take [...] for markup; soft, because a path is copied whole or not at all.
        console.print(Text(line, style=style), soft_wrap=True)


def _splits_table(check: Check) -> Table:
    table = _plain_table("", "rows", "images", "min", "median", "max", "distinct")
    for name, split in check.splits.items():
        if split.values is None:
            about = [f"{split.orders:,} orders", "", "", ""]
        else:
            values = split.values
            numbers = [f"{number:.6g}" for number in (values.low, values.median, values.high)]
            about = [*numbers, f"{values.distinct:,}"]
        table.add_row(Text(name), f"{split.rows:,}", f"{split.images:,}", *about)
    return table


def _rules(check: Check) -> list[str]:
    """One line with the rules of rows, the most frequent first; none if no row has a rule of its own."""
    counts: Counter[str] = Counter()
    for split in check.splits.values():
        counts.update(split.rules)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{rule} ({number:,})" for rule, number in ranked[:RULES])
    more = f", and {len(ranked) - RULES} more" if len(ranked) > RULES else ""
    return [f"{len(ranked)} rules of rows: {named}{more}"] if ranked else []


def _histograms(check: Check, splits: Sequence[tuple[str, SplitCheck]]) -> Table:
    """A row for each bar; the longest bar of each split has the same length."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("", justify="right", no_wrap=True)
    for name, _ in splits:
        table.add_column("", justify="right", no_wrap=True)
        table.add_column(Text(name), width=BAR, no_wrap=True)
    for place, (low, high) in enumerate(check.bins):
        cells: list[Text] = []
        for _, split in splits:
            histogram = split.values.histogram if split.values is not None else []
            cells += [Text(f"{histogram[place]:,}"), Text(_bar(histogram[place], max(histogram)))]
        label = f"{low:g}" if low == high else f"{low:g} - {high:g}"
        table.add_row(label, *cells)
    return table


def _bar(number: int, longest: int) -> str:
    """A bar of at most `BAR` characters. Any number above 0 is visible."""
    eighths = max(round(8 * BAR * number / longest), 1 if number else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _ties_table(check: Check) -> Table:
    counts = sorted({count for split in check.splits.values() for count in split.ties})
    table = _plain_table("", *(f"{count} images" for count in counts))
    for name, split in _valued(check):
        ties = [split.ties[count] for count in counts]
        table.add_row(Text(name), *(f"{_share(tie.drawn)} / {_share(tie.random)}" for tie in ties))
    return table


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _baselines_table(check: Check) -> Table:
    table = _plain_table("", "rows", "median", "MAE")
    for name, found in check.baselines.items():
        middle = "each rule's" if found.median is None else f"{found.median:.6g}"
        table.add_row(Text(name), f"{found.images:,}", middle, f"{found.mae:.3g}")
    return table


def _images(check: Check) -> list[str]:
    lines = []
    if check.sizes is not None:
        pixels = [f"{name} {width} x {height}" for name, (width, height) in vars(check.sizes).items()]
        lines.append(f"pixels: {', '.join(pixels)}")
    if check.tokens is not None:
        tokens = check.tokens
        lines.append(
            f"tokens: smallest {tokens.smallest:,}, median {tokens.median:,}, largest {tokens.largest:,}"
        )
        lines += [
            f"tokens of a prompt of {count} images: {cost.median:,}, of the {count} largest {cost.largest:,}"
            for count, cost in tokens.prompts.items()
        ]
    if check.broken:
        lines.append(f"can't be opened: {len(check.broken):,}")
    return lines
