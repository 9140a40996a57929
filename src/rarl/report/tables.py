"""What was measured, as tables: in the layout of the paper's Table 2 with a row for each arm and a column for
each number of images, with all metrics, and for groups of images. Every number has its 95 % interval. A table
is texts, for a terminal, Markdown or a page; it measures and concludes nothing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from rarl.evaluation.metrics import LENIENT, METRICS, STRICT_METRICS, list_lengths, metric_of
from rarl.method.tasks import HeadlineMetric, Task
from rarl.paper.arms import PAPER_ARMS
from rarl.scoring.scoring import Scoring

MISSING = "-"
Entries = Mapping[str, Mapping[str, float]]
"""METRIC -> entry, as for one arm of `metrics.json`."""


@dataclass(frozen=True)
class TextTable:
    """A table as texts. The first column names the row; a newline parts the lines within a cell."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The rows in Markdown, without title and notes; ends with a newline."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        rows = [[_markdown_cell(text) for text in row] for row in (self.header, rule, *self.rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def terminal(self) -> Table:
        """The table for a terminal of 80 columns."""
        table = Table(title=Text(self.title), box=box.SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if place == 0 else "right", no_wrap=place > 0)
        for row in self.rows:
            # Text, because rich would take [...] for markup.
            table.add_row(*(Text(text) for text in row))
        return table


# ── the headline metrics ─────────────────────────────────────────────────────────────────────────────────


def results_table(metrics: Mapping[str, Any], task: Task, *, model_name: str = "base") -> Table:
    """The headline table for a terminal.

    Args:
        metrics: what stands in `metrics.json`.
        task: says which metric of single images heads the table.
        model_name: what the row of the arm `base` is called, such as "Qwen2.5-VL-3B".
    """
    table = headline_table(metrics, task, model_name)
    shown = table.terminal()
    if table.notes:
        shown.caption, shown.caption_justify = Text(" ".join(table.notes)), "left"
    return shown


def markdown_table(metrics: Mapping[str, Any], task: Task, *, model_name: str = "base") -> str:
    """The same table in Markdown, without the title; ends with a newline."""
    return headline_table(metrics, task, model_name).markdown()


def headline_table(metrics: Mapping[str, Any], task: Task, model_name: str) -> TextTable:
    """A row for each arm: the task's metric for single images, tau for lists, and the shares of replies that
    are parsed and valid. A column is there if any arm has its metric. An arm whose numbers differ where its
    replies are read leniently has a second row for these."""
    arms: Mapping[str, Entries] = metrics["arms"]
    keys = {key for arm in arms.values() for key in arm}
    columns = headline_columns(task.metric if task.metric in keys else None, list_lengths(keys))
    columns |= {"parsed": "parsed", "valid": "valid"}
    where = f"{metrics['task']}, {metrics['split']} split, seed {metrics['seed']}"
    what = f"{METRICS[task.metric].title} for single images, tau for lists, with 95 % intervals"
    names = arm_names(arms, model_name)
    rows = twice_read_rows(arms, names, columns.values())
    title = f"{where}\n{what}; parsed and valid in %"
    return TextTable(title, ("Methods", *columns), rows, format_notes(arms, names, columns))


def headline_columns(metric: HeadlineMetric | None, lengths: Iterable[int]) -> dict[str, str]:
    """The heads of the paper's columns, each with its key in `metrics.json`.

    Args:
        metric: of single images; None leaves their column out.
        lengths: the numbers of images of the lists.
    """
    single = {} if metric is None else {f"1-img{METRICS[metric].arrow}": metric}
    return single | {f"{count}-imgs{METRICS['tauN'].arrow}": f"tau{count}" for count in lengths}


def arm_rows(
    arms: Mapping[str, Entries], names: Mapping[str, str], keys: Iterable[str], *, signed: bool = False
) -> tuple[tuple[str, ...], ...]:
    """For each arm in `names` what it is called there, and its numbers under these keys."""
    wanted = list(keys)
    return tuple(
        (name, *(number_cell(arms.get(arm, {}).get(key), key, signed=signed) for key in wanted))
        for arm, name in names.items()
    )


def twice_read_rows(
    arms: Mapping[str, Entries], names: Mapping[str, str], keys: Iterable[str]
) -> tuple[tuple[str, ...], ...]:
    """As `arm_rows`, with a second row for an arm some of whose shown numbers differ where its replies are
    read leniently."""
    wanted, rows = list(keys), []
    for arm, name in names.items():
        strict, lenient = arm_rows(arms, {arm: name}, wanted) + arm_rows(
            arms, {arm: f"{name}, read leniently"}, [f"{key}{LENIENT}" for key in wanted]
        )
        rows += [strict, lenient] if _differs(arms.get(arm, {}), wanted) else [strict]
    return tuple(rows)


def format_notes(
    arms: Mapping[str, Entries], names: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[str, ...]:
    """What the rows of the lenient reading are, and how much of the last arm's gain over the base is format:
    its gain as read strictly minus its gain as read leniently. Empty where no shown number differs.

    Args:
        names: ARM -> what its row is called, in the order of the rows.
        columns: HEAD -> key of the strict metric.
    """
    if not any(_differs(arms.get(arm, {}), columns.values()) for arm in names):
        return ()
    what = "Rows read leniently count lists in another format, too; arms without one have the same numbers."
    *_, last = names
    parts = []
    for head, key in columns.items():
        pair = [arms.get(arm, {}) for arm in ("base", last)]
        if last == "base" or not all(key in arm and f"{key}{LENIENT}" in arm for arm in pair):
            continue
        metric, _ = metric_of(key)
        sign = -1 if metric.better == "lower" else 1
        gain, skill = (
            sign * metric.factor * (pair[1][name]["value"] - pair[0][name]["value"])
            for name in (key, f"{key}{LENIENT}")
        )
        parts.append(f"{head.rstrip('↓↑')} {gain - skill:.{metric.decimals}f} of {gain:.{metric.decimals}f}")
    if not parts:
        return (what,)
    over = f"{names[last].removeprefix('+ ')} over {names.get('base', 'base').removeprefix('+ ')}"
    return (what, f"Of the gain of {over}, this much is format: {', '.join(parts)}.")


def _differs(entries: Entries, keys: Iterable[str]) -> bool:
    """Whether some of these numbers differs, as shown, from that of the lenient reading."""
    return any(
        number_cell(entries.get(key), key) != number_cell(entries[f"{key}{LENIENT}"], key)
        for key in keys
        if f"{key}{LENIENT}" in entries
    )


def arm_names(arms: Iterable[str], model_name: str) -> dict[str, str]:
    """What the rows of these arms are called: those of the paper in its order, then the others in theirs."""
    there = list(arms)
    known = {name: arm.label or model_name for name, arm in PAPER_ARMS.items() if name in there}
    return known | {arm: f"+ {arm}" for arm in there if arm not in known}


def number_cell(entry: Mapping[str, Any] | None, key: str, *, signed: bool = False) -> str:
    """A value with its interval below it.

    Args:
        key: of the metric in `metrics.json`; it decides unit and decimals.
        signed: whether positive numbers get a sign, as for differences.
    """
    if entry is None:
        return MISSING
    metric, _ = metric_of(key)
    return _number_and_interval(
        entry, metric.factor, metric.decimals, metric.interval_decimals, "\n", "+" if signed else ""
    )


def _number_and_interval(
    entry: Mapping[str, Any], factor: int, decimals: int, finer: int | None, gap: str, sign: str = ""
) -> str:
    """A value, and after a gap its interval with `finer` decimals; None leaves the interval out."""
    value = f"{entry['value'] * factor:{sign}.{decimals}f}"
    if finer is None:
        return value
    low, high = (f"{entry[end] * factor:{sign}.{finer}f}" for end in ("low", "high"))
    dash = " – " if low[0] in "+-" else "–"
    return f"{value}{gap}{low}{dash}{high}"


def markdown_text(text: str, line_end: str = " ") -> str:
    """A text that Markdown shows as it is: names and values of strangers are among them, which must be no
    tags, links or pictures, and nothing that a terminal obeys.

    Args:
        line_end: what stands for a line end.
    """
    marked = re.sub(r"[\\\[]", r"\\\g<0>", text).replace("<", "&lt;")
    lines = marked.split("\n")
    return line_end.join(
        "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in line) for line in lines
    )


def _markdown_cell(text: str) -> str:
    """A cell of Markdown: a line end or a bar would end it."""
    return markdown_text(text, "<br>").replace("|", "\\|")


# ── all metrics ──────────────────────────────────────────────────────────────────────────────────────────


def metrics_table(metrics: Mapping[str, Any], model_name: str) -> TextTable:
    """Every metric that an arm has, a row for each and a column for each arm."""
    arms: Mapping[str, Entries] = metrics["arms"]
    names = arm_names(arms, model_name)
    keys = list(dict.fromkeys(key for arm in arms.values() for key in arm))
    rows = tuple((key, *(number_cell(arms[arm].get(key), key) for arm in names)) for key in keys)
    *shares, last = (metric.name for metric in STRICT_METRICS.values() if metric.percent)
    note = f"{', '.join(shares)} and {last} in %; docs/evaluation.md says what each of them is."
    if any(key.endswith(LENIENT) for key in keys):
        note += f" What ends in {LENIENT} is of the same replies, read leniently."
    return TextTable("All metrics", ("Metric", *names.values()), rows, (note,))


EXPECTED_COLUMNS = {"MAE↓": "mae_median", "SRCC↑": "srcc_mean"}
CALIBRATION_COLUMNS = {"ECE↓": "ece", "in 80 %": "coverage"}


def expected_table(
    metrics: Mapping[str, Any], model_name: str, scorings: Mapping[str, Scoring]
) -> TextTable | None:
    """The medians and means of the distributions over all answers, and how well these are calibrated; None
    where no arm has any.

    Args:
        metrics: what stands in `metrics.json`.
        scorings: ARM -> how it was chosen to score, for those that have a choice.
    """
    arms: Mapping[str, Entries] = metrics["arms"]
    keys = {key for arm in arms.values() for key in arm}
    lists = {f"{count}-imgs↑": f"tau{count}_mean" for count in list_lengths(keys, "tauN_mean")}
    columns = {
        head: key for head, key in (EXPECTED_COLUMNS | lists | CALIBRATION_COLUMNS).items() if key in keys
    }
    if not columns:
        return None
    names = {
        arm: name
        for arm, name in arm_names(arms, model_name).items()
        if set(columns.values()) & set(arms[arm])
    }
    notes = [
        "Each image has a distribution over all answers: MAE is that of its median, which is the image's "
        'value, and SRCC and lists go by its mean. "in 80 %" says how many true values lie in the interval '
        "that has 80 % of the probability, or more, since it ends on the grid; ECE is the calibration error "
        "of the likeliest value.",
        *(
            f"{names[arm].removeprefix('+ ')} as chosen: "
            + "; ".join(filter(None, (scorings[arm].sentence, scorings[arm].of_windows)))
            + "."
            for arm in names
            if arm in scorings
        ),
    ]
    return TextTable(
        "Expected values", ("Methods", *columns), arm_rows(arms, names, columns.values()), tuple(notes)
    )


def expected_line(metrics: Entries) -> str:
    """As `expected_table`, of one arm in a short line; empty where there are none."""
    parts = [
        f"{head.rstrip('↓↑')} {metrics[key]['value']:.{metric_of(key)[0].decimals}f}"
        for head, key in EXPECTED_COLUMNS.items()
        if key in metrics
    ]
    if counts := list_lengths(metrics, "tauN_mean"):
        taus = [f"{metrics[f'tau{count}_mean']['value']:.2f}" for count in counts]
        parts.append(f"τ of {'/'.join(map(str, counts))} images {'/'.join(taus)}")
    if "coverage" in metrics:
        parts.append(f"80 % intervals hold {100 * metrics['coverage']['value']:.0f} %")
    return f"expected values: {', '.join(parts)}" if parts else ""


def order_line(metrics: Entries) -> str:
    """Agreement and position bias of one arm in a short line; empty where no list was rotated."""
    counts = list_lengths(metrics, "agreementN")
    if not counts:
        return ""
    agreements = [f"{metrics[f'agreement{count}']['value']:.2f}" for count in counts]
    biases = [metrics.get(f"position_bias{count}") for count in counts]
    shown = [MISSING if bias is None else f"{bias['value']:.2f}" for bias in biases]
    images = "/".join(map(str, counts))
    return f"rotated lists of {images}: agreement {'/'.join(agreements)}, position bias {'/'.join(shown)}"


# ── groups of images ─────────────────────────────────────────────────────────────────────────────────────


def column_tables(
    arms: Mapping[str, Mapping[str, Mapping[str, Entries]]], task: Task, model_name: str
) -> list[TextTable]:
    """A table for each column of the metadata: its values, and the task's metric of each arm there.

    Args:
        arms: ARM -> what stands under its `subgroups` in `metrics.json`.
    """
    names, metric = arm_names(arms, model_name), METRICS[task.metric]
    tables = []
    for column in dict.fromkeys(column for columns in arms.values() for column in columns):
        found = [arms[name].get(column, {}) for name in names]
        rows = []
        for value in dict.fromkeys(value for groups in found for value in groups):
            entries = [groups.get(value, {}) for groups in found]
            cells = [number_cell(numbers.get(task.metric), task.metric) for numbers in entries]
            rows.append((value, _image_count(entries), *cells))
        header = (column, "images", *names.values())
        note = f"{metric.title} {metric.arrow} of single images, with 95 % intervals."
        tables.append(TextTable(f"By {column}", header, tuple(rows), (note,)))
    return tables


def subgroup_table(columns: Mapping[str, Mapping[str, Entries]], task: Task, arm: str) -> Table:
    """The groups of one arm for a terminal: the task's metric for each value of each column, with its 95 %
    interval and the number of images.

    Args:
        columns: what stands under `subgroups` of one arm in `metrics.json`.
    """
    metric = METRICS[task.metric]
    table = Table(title=f"{arm}: single images, by column", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("column")
    table.add_column("value")
    table.add_column("images", justify="right")
    table.add_column(f"{metric.label}{metric.arrow}", justify="right")
    for column, values in columns.items():
        for place, (value, entries) in enumerate(values.items()):
            entry = entries.get(task.metric)
            number = MISSING if entry is None else _number_and_interval(entry, metric.factor, 2, 2, "  ")
            # Text, because rich would take [...] for markup.
            table.add_row(Text("" if place else column), Text(value), _image_count([entries]), number)
    return table


def _image_count(arms: Sequence[Entries]) -> str:
    """The number of images of a group, which is the same for all arms that have it."""
    return str(next(entries["mae"]["n"] for entries in arms if "mae" in entries))
