"""What `rarl data prepare` says when a collection is made: its parts, its scale, and what was left out."""

import shlex
from pathlib import Path

from rarl.data.preparing import PREPARATION, Prepared
from rarl.data.sources import SHOWN


def preparation_lines(prepared: Prepared, out: Path) -> list[str]:
    """What a user should know at once; the rest is in `preparation.json`."""
    splits = prepared.collection.splits
    # An image in several orders, or with several rules, is one image.
    counts = {split: len({row.path for row in rows}) for split, rows in splits.items()}
    rows = sum(map(len, splits.values()))
    task = prepared.collection.task
    placed = ", ".join(f"{number:,} {how}" for how, number in prepared.placed.items() if number)
    lines = [
        f"wrote {out}: {', '.join(f'{split} {number:,}' for split, number in counts.items())}"
        + (f" (images; {rows:,} rows)" if rows > sum(counts.values()) else ""),
        f"  {task.rule}: {task.value_range}, step {task.step:g}, delta {task.delta:g}, metric {task.metric}",
        *(
            f"  {_line(key.replace('_', ' '))}: {_line(_text(value))}"
            for key, value in prepared.notes.items()
        ),
        f"  image files: {placed}",
    ]
    same = prepared.identical
    if same.groups:
        lines.append(
            f"  byte-identical: {same.files:,} files in {same.groups:,} groups, {same.conflicting:,} of "
            f"them with several values; {same.across:,} of test are in another part too "
            "(--drop-duplicates leaves them out)"
        )
    if prepared.left_out:
        lines.append(f"  left out: {len(prepared.left_out):,}")
        lines += [f"    {_line(each.name)}: {_line(each.reason)}" for each in prepared.left_out[:SHOWN]]
        if (more := len(prepared.left_out) - SHOWN) > 0:
            lines.append(f"    and {more:,} more, all of them in {out / PREPARATION}")
    return [*lines, f"look at it with: {shlex.join(['rarl', 'data', 'check', str(out)])}"]


def _line(text: str) -> str:
    """A stranger's text as part of a line: without what a terminal would obey or can't show."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def _text(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(_text, value[:SHOWN]))
        return f"{shown} and {len(value) - SHOWN:,} more" if len(value) > SHOWN else shown or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return f"{value:.15g}" if isinstance(value, float) else str(value)
