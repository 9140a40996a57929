"""Shows the rows of `step_cost.py` to readers: tables in Markdown, and a plot of a sweep. It measures
nothing."""

from pathlib import Path
from typing import Any

POINT = {"images": "images", "generations": "G", "tokens": "tokens/image", "new_tokens": "new tokens"}
RATIOS = ("step", "generation", "reference", "update")
PARTS = ("step", "generation", "reference", "update", "other")
COLORS = {"step": "#1f5fa8", "generation": "#e8a33d", "reference": "#7fa7d9", "update": "#1a7f37"}
AXES = {
    "images": "images a prompt",
    "generations": "responses a prompt (G)",
    "tokens": "tokens an image",
    "new_tokens": "tokens a response",
}


def report(results: dict[str, Any]) -> str:
    """Writes the settings and two tables, one of ratios (stock over ours) and one of seconds."""
    rows = results["rows"]
    ratios = [
        [
            *_point(row),
            str(row["prompt_tokens"]),
            *(f"{row['ratios'][part]:.2f}" for part in RATIOS),
            f"{row['token_bound']:.2f}",
            f"{row['memory_ratio']:.2f}",
            f"{row['max_logprob_difference']:.1e}",
            "-" if row["stock_rounding"] is None else f"{row['stock_rounding']:.1e}",
        ]
        for row in rows
    ]
    header = [
        *POINT.values(),
        "prompt tokens",
        *RATIOS,
        "token bound",
        "memory",
        "log-prob difference",
        "of stock to float32",
    ]
    seconds = [
        [*_point(row), kind, *(_spread(row[kind][part]) for part in PARTS), f"{row[kind]['memory_mib']:.0f}"]
        for row in rows
        for kind in ("stock", "ours")
    ]
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    return (
        f"Settings: {settings}.\n\n"
        "Time, stock over ours (medians); token bound: tokens through the language model in one pass, stock "
        "over ours; memory: peak, ours over stock; the greatest difference in a token's log-prob, ours to "
        "stock, and stock to its own in float32.\n\n"
        f"{_table(header, ratios)}\n"
        "Seconds a step, median (least-most); peak memory in MiB.\n\n"
        f"{_table([*POINT.values(), '', *PARTS, 'MiB'], seconds)}"
    )


def _point(row: dict[str, Any]) -> list[str]:
    return [str(row[name]) for name in POINT]


def _spread(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f}-{spread['max']:.2f})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(3, *(len(row[at]) for row in [header, *rows])) for at in range(len(header))]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: list[dict[str, Any]], base: dict[str, int], path: Path) -> None:
    """Draws one column of panels for each number. In it that number varies, and the others are the base
    point's."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, 4, figsize=(13, 6), dpi=150, sharex="col", sharey="row", layout="constrained"
    )
    for name, (above, below) in zip(POINT, panels.T, strict=True):
        shown = sorted(
            (row for row in rows if all(row[other] == base[other] for other in POINT if other != name)),
            key=lambda row: row[name],
        )
        values = [row[name] for row in shown]
        for part in RATIOS:
            style = {"linewidth": 2.5, "marker": "o"} if part == "step" else {"linewidth": 1.2, "marker": "."}
            ratios = [row["ratios"][part] for row in shown]
            above.plot(values, ratios, color=COLORS[part], label=part, **style)
        bounds = [row["token_bound"] for row in shown]
        above.plot(values, bounds, color="#555555", linestyle="--", linewidth=1, label="token bound")
        memory = [row["memory_ratio"] for row in shown]
        below.plot(values, memory, color=COLORS["step"], marker="o", linewidth=2)
        below.set_xlabel(AXES[name])
        below.set_xscale("log", base=2)
        below.set_xticks(values, [str(value) for value in values])
        below.minorticks_off()
        for axes in (above, below):
            axes.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
            axes.spines[["top", "right"]].set_visible(False)
    for row in panels:
        row[0].set_ylim(bottom=0)
    panels[0, 0].set_ylabel("time, stock / ours")
    panels[1, 0].set_ylabel("peak memory, ours / stock")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(path)
    plt.close(figure)
