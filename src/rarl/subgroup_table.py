"""What `rarl evaluate` prints of one model below the table of results: how much the order of the pictures
matters, and the numbers of single images for each group that a column makes. It measures nothing."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from rarl.tasks import Metric, Task

Entries = Mapping[str, Mapping[str, float]]
NAMES: dict[Metric, str] = {"mae": "MAE↓", "accuracy": "accuracy↑", "srcc": "SRCC↑"}


def order_line(metrics: Entries) -> str:
    """Agreement and position bias of one arm in a short line; empty where no list was rotated."""
    counts = sorted(int(key[9:]) for key in metrics if key.startswith("agreement"))
    if not counts:
        return ""
    agreements = [f"{metrics[f'agreement{count}']['value']:.2f}" for count in counts]
    biases = [metrics.get(f"position_bias{count}") for count in counts]
    shown = ["-" if bias is None else f"{bias['value']:.2f}" for bias in biases]
    images = "/".join(map(str, counts))
    return f"rotated lists of {images}: agreement {'/'.join(agreements)}, position bias {'/'.join(shown)}"


def subgroup_table(columns: Mapping[str, Mapping[str, Entries]], task: Task, arm: str) -> Table:
    """The task's own metric for each value of each column, with its 95 % interval and number of images.

    Args:
        columns: what stands under `subgroups` of one arm in `metrics.json`.
    """
    table = Table(title=f"{arm}: single images, by column", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("column")
    table.add_column("value")
    table.add_column("images", justify="right")
    table.add_column(NAMES[task.metric], justify="right")
    for column, values in columns.items():
        for place, (value, metrics) in enumerate(values.items()):
            # Text, because rich would take [...] for markup.
            name = Text(column if place == 0 else "")
            table.add_row(name, Text(value), str(metrics["mae"]["n"]), _cell(metrics, task))
    return table


def _cell(metrics: Mapping[str, Mapping[str, Any]], task: Task) -> str:
    entry = metrics.get(task.metric)
    if entry is None:
        return "-"
    factor = 100 if task.metric == "accuracy" else 1
    value, low, high = (f"{entry[key] * factor:.2f}" for key in ("value", "low", "high"))
    return f"{value}  {low} – {high}" if low.startswith("-") else f"{value}  {low}–{high}"
