"""What was measured as tables: in the layout of the paper's Table 2, a row per arm and a column per image
count, every number with its 95 % interval, and with all metrics. A table is texts, for a terminal, Markdown
or a page; it measures and concludes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from rarl.method.tasks import Metric, Task

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
NAMES: dict[Metric, str] = {"mae": "MAE", "accuracy": "accuracy in %", "srcc": "SRCC"}
# How a metric is written: what it is multiplied with, the decimals of the value and those of its interval,
# None for no interval (it stands in the file). Shares are in per cent, as there.
STYLES: dict[str, tuple[int, int, int | None]] = {
    "mae": (1, 2, 2),
    "accuracy": (100, 2, 1),
    "within_one": (100, 1, 1),
    "srcc": (1, 3, 2),
    "plcc": (1, 3, 2),
    "tau": (1, 3, 2),
    "agreement": (1, 3, 2),
    "position_bias": (1, 3, 2),
    "parsed": (100, 1, None),
    "valid": (100, 1, None),
}
MISSING = "-"


@dataclass(frozen=True)
class Laid:
    """A table as texts; the first column names the row, and within a cell lines are parted by newlines."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The rows in Markdown, without title and notes; ends with a newline."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        rows = [[_escaped(cell) for cell in row] for row in (self.header, rule, *self.rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def terminal(self) -> Table:
        """The table for a terminal of 80 columns."""
        table = Table(title=Text(self.title), box=box.SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if place == 0 else "right", no_wrap=place > 0)
        for row in self.rows:
            # Text, because rich would take [...] for markup.
            table.add_row(*(Text(cell) for cell in row))
        return table


def results_table(metrics: Mapping[str, Any], task: Task, *, model_name: str = "base") -> Table:
    """The table for a terminal.

    Args:
        metrics: what stands in `metrics.json`.
        task: names the metric of single images.
        model_name: what the row of the arm `base` is called, such as "Qwen2.5-VL-3B".
    """
    return results(metrics, task, model_name).terminal()


def markdown_table(metrics: Mapping[str, Any], task: Task, *, model_name: str = "base") -> str:
    """The same table in Markdown, without the title; ends with a newline."""
    return results(metrics, task, model_name).markdown()


def results(metrics: Mapping[str, Any], task: Task, model_name: str) -> Laid:
    """The headline metrics. A column is there if any arm has its metric."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    columns: dict[str, str] = {}
    if any(task.metric in arm for arm in arms.values()):
        columns[f"1-img{ARROWS[task.metric]}"] = task.metric
    columns |= {f"{count}-imgs↑": f"tau{count}" for count in list_lengths(arms)}
    columns |= {"parsed": "parsed", "valid": "valid"}
    where = f"{metrics['task']}, {metrics['split']} split, seed {metrics['seed']}"
    what = f"{NAMES[task.metric]} for single images, tau for lists, with 95 % intervals"
    title = f"{where}\n{what}; parsed and valid in %"
    return Laid(title, ("Methods", *columns), _rows(arms, tuple(columns.values()), model_name))


def all_metrics(metrics: Mapping[str, Any], model_name: str) -> Laid:
    """Every metric that an arm has, a row for each and a column for each arm."""
    arms: Mapping[str, Mapping[str, Any]] = metrics["arms"]
    names = arm_names(arms, model_name)
    keys = list(dict.fromkeys(key for arm in arms.values() for key in arm))
    rows = tuple((key, *(cell(arms[arm].get(key), key) for arm in names)) for key in keys)
    note = "accuracy, within_one, parsed and valid in %; docs/evaluation.md says what each of them is."
    return Laid("All metrics", ("Metric", *names.values()), rows, (note,))


def arm_names(arms: Mapping[str, Any], model_name: str) -> dict[str, str]:
    """What the rows of these arms are called, in their order."""
    known = {"base": model_name, **ARM_NAMES}
    return {arm: known[arm] for arm in known if arm in arms} | {
        arm: f"+ {arm}" for arm in arms if arm not in known
    }


def list_lengths(arms: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """The numbers of images of the lists that were ranked."""
    keys = {key for arm in arms.values() for key in arm if key.startswith("tau") and key[3:].isdigit()}
    return sorted(int(key[3:]) for key in keys)


def cell(entry: Mapping[str, Any] | None, key: str, *, signed: bool = False) -> str:
    """A value with its interval below it; `signed` is for differences."""
    if entry is None:
        return MISSING
    family = key.rstrip("0123456789").removesuffix("_values").rstrip("0123456789")
    factor, decimals, finer = STYLES.get(family, (1, 3, 3))
    sign = "+" if signed else ""
    value = f"{entry['value'] * factor:{sign}.{decimals}f}"
    if finer is None:
        return value
    low, high = (f"{entry[end] * factor:{sign}.{finer}f}" for end in ("low", "high"))
    return f"{value}\n{low} – {high}" if low[0] in "+-" else f"{value}\n{low}–{high}"


def _rows(
    arms: Mapping[str, Mapping[str, Any]], keys: tuple[str, ...], model_name: str
) -> tuple[tuple[str, ...], ...]:
    names = arm_names(arms, model_name)
    return tuple((names[arm], *(cell(arms[arm].get(key), key) for key in keys)) for arm in names)


def _escaped(text: str) -> str:
    """A cell of Markdown: a line end and a bar would end it."""
    return text.replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")


Entries = Mapping[str, Mapping[str, float]]
SUBGROUP_NAMES: dict[Metric, str] = {"mae": "MAE↓", "accuracy": "accuracy↑", "srcc": "SRCC↑"}


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
    table.add_column(SUBGROUP_NAMES[task.metric], justify="right")
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
