"""The table of results: the layout of Table 2, every number with its interval, for terminals and Markdown."""

import io

import pytest
from rich.console import Console

from rarl.method.tasks import AESTHETICS, COUNT, DIGITS
from rarl.report.tables import markdown_table, results_table


def entry(value, low, high, n=10):
    return {"value": value, "low": low, "high": high, "n": n}


SHARES = {"parsed": entry(1.0, 1.0, 1.0), "valid": entry(0.9875, 0.97, 1.0)}
METRICS = {
    "task": "digits",
    "split": "test",
    "seed": 0,
    "lists": {"2": {"n": 10, "tie_rate": 0.0}, "8": {"n": 10, "tie_rate": 0.0}},
    "arms": {
        "rarl": {
            "mae": entry(0.333, 0.3, 0.374),
            "accuracy": entry(0.714, 0.7, 0.75),
            "srcc": entry(0.9, 0.85, 0.95),
            "tau2": entry(0.891, 0.85, 0.93),
            "tau2_values": entry(0.9, 0.85, 0.93),
            "tau8": entry(0.6, 0.55, 0.65),
            **SHARES,
        },
        "my_own": SHARES,
        "base": {"mae": entry(0.887, 0.8, 0.96), "tau2": entry(-0.02, -0.1, 0.06), **SHARES},
    },
}


def test_markdown():
    assert markdown_table(METRICS, DIGITS, model_name="tiny") == (
        "| Methods | 1-img↓ | 2-imgs↑ | 8-imgs↑ | parsed | valid |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| tiny | 0.89<br>0.80–0.96 | -0.020<br>-0.10 – 0.06 | - | 100.0 | 98.8 |\n"
        "| + RARL | 0.33<br>0.30–0.37 | 0.891<br>0.85–0.93 | 0.600<br>0.55–0.65 | 100.0 | 98.8 |\n"
        "| + my_own | - | - | - | 100.0 | 98.8 |\n"
    )


@pytest.mark.parametrize(
    ("task", "head", "cell"),
    [
        (DIGITS, "1-img↓", "0.33<br>0.30–0.37"),
        (COUNT, "1-img↑", "71.40<br>70.0–75.0"),
        (AESTHETICS, "1-img↑", "0.900<br>0.85–0.95"),
    ],
)
def test_single_images_are_reported_by_the_tasks_metric(task, head, cell):
    header, _, *rows = markdown_table(METRICS, task).splitlines()
    assert header.split(" | ")[1] == head
    assert next(row for row in rows if row.startswith("| + RARL")).split(" | ")[1] == cell


def test_the_terminal_table_shows_the_same_within_80_columns():
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(METRICS, DIGITS, model_name="tiny"))
    shown = out.getvalue()
    for text in (
        "tiny",
        "+ RARL",
        "0.33",
        "0.30–0.37",
        "-0.10 – 0.06",
        "1-img↓",
        "98.8",
        "MAE",
        "test split",
    ):
        assert text in shown
    assert shown.index("tiny") < shown.index("+ RARL") < shown.index("+ my_own")
