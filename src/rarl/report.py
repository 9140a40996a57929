"""`metrics.json` as a table in the layout of the paper's Table 2: a row per arm, a column per image count,
every number with its 95 % interval. It shows what was measured, and measures and concludes nothing."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from rarl.tasks import Metric, Task

# In the order of the rows. Anything else that stands in the file comes after these, under its own name.
ARM_NAMES = {
    "sft": "+ SFT",
    "sft_answer_only": "+ SFT, answer only",
    "regression": "+ Regression",
    "ranking": "+ Ranking",
    "joint": "+ Joint",
    "rarl_no_mutation": "+ RARL, no RMO",
    "rarl": "+ RARL",
}
ARROWS: dict[Metric, str] = {"mae": "↓", "accuracy": "↑", "srcc": "↑"}
# How a metric is written: what it is multiplied with, the decimals of the value and those of its interval,
# None for no interval (it stands in the file). Shares are in per cent, as there.
STYLES: dict[str, tuple[int, int, int | None]] = {
    "mae": (1, 2, 2),
    "accuracy": (100, 2, 1),
    "srcc": (1, 3, 2),
    "tau": (1, 3, 2),
    "parsed": (100, 1, None),
    "valid": (100, 1, None),
}
MISSING = "-"


def results_table(metrics: Mapping[str, Any], task: Task, *, model_name: str = "base") -> Table:
    """The table for a terminal.

    Args:
        metrics: what stands in `metrics.json`.
        task: names the metric of single images.
        model_name: what the row of the arm `base` is called, such as "Qwen2.5-VL-3B".
    """
    header, rows = _cells(metrics, task, model_name, separator="\n")
    table = Table(title=_title(metrics, task), box=box.SIMPLE_HEAD, pad_edge=False)  # 80 columns are enough
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place == 0 else "right")
    for row in rows:
        # Text, because rich would take [...] for markup.
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown_table(metrics: Mapping[str, Any], task: Task, *, model_name: str = "base") -> str:
    """The same table in Markdown, without the title; ends with a newline."""
    header, rows = _cells(metrics, task, model_name, separator="<br>")
    rule = ["---", *["---:" for _ in header[1:]]]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])


def _title(metrics: Mapping[str, Any], task: Task) -> str:
    names = {"mae": "MAE", "accuracy": "accuracy in %", "srcc": "SRCC"}
    where = f"{metrics['task']}, {metrics['split']} split, seed {metrics['seed']}"
    what = f"{names[task.metric]} for single images, tau for lists, with 95 % intervals"
    return f"{where}\n{what}; parsed and valid in %"


def _cells(
    metrics: Mapping[str, Any], task: Task, model_name: str, separator: str
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows. A column is there if any arm has its metric."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    counts = sorted(
        {int(key[3:]) for arm in arms.values() for key in arm if key[:3] == "tau" and key[3:].isdigit()}
    )
    columns: dict[str, str] = {}
    if any(task.metric in arm for arm in arms.values()):
        columns[f"1-img{ARROWS[task.metric]}"] = task.metric
    columns |= {f"{count}-imgs↑": f"tau{count}" for count in counts}
    columns |= {"parsed": "parsed", "valid": "valid"}
    names = {
        "base": model_name,
        **ARM_NAMES,
        **{arm: f"+ {arm}" for arm in arms if arm not in {"base", *ARM_NAMES}},
    }
    rows = [
        [names[arm], *(_cell(arms[arm].get(key), key, separator) for key in columns.values())]
        for arm in names
        if arm in arms
    ]
    return ["Methods", *columns], rows


def _cell(entry: Mapping[str, float] | None, key: str, separator: str) -> str:
    if entry is None:
        return MISSING
    factor, decimals, finer = STYLES["tau" if key.startswith("tau") else key]
    value = f"{entry['value'] * factor:.{decimals}f}"
    if finer is None:
        return value
    low, high = (f"{entry[end] * factor:.{finer}f}" for end in ("low", "high"))
    return f"{value}{separator}{low} – {high}" if low.startswith("-") else f"{value}{separator}{low}–{high}"
