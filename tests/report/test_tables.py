"""The table of results: the layout of Table 2, every number with its interval, for terminals and Markdown."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from rarl.method.tasks import AESTHETICS, COUNT, DIGITS
from rarl.report.tables import (
    expected_table,
    headline_table,
    markdown_table,
    markdown_text,
    metrics_table,
    results_table,
)
from rarl.scoring.scoring import Scoring


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


# ── the two readings ─────────────────────────────────────────────────────────────────────────────────────


def twice(mae, mae_lenient, tau, tau_lenient):
    numbers = {"mae": mae, "tau2": tau, "parsed": 1.0, "valid": 1.0}
    lenient = {"mae": mae_lenient, "tau2": tau_lenient, "parsed": 1.0, "valid": 1.0}
    both = numbers | {f"{key}_lenient": value for key, value in lenient.items()}
    return {key: entry(value, value, value) for key, value in both.items()}


def test_a_row_for_the_lenient_reading_and_how_much_of_the_gain_is_format():
    arms = {"base": twice(4.5, 2.0, 0.0, 0.4), "rarl": twice(1.0, 1.0, 0.9, 0.9)}
    table = headline_table(METRICS | {"arms": arms}, DIGITS, "tiny")
    assert [row[:3] for row in table.rows] == [
        ("tiny", "4.50\n4.50–4.50", "0.000\n0.00–0.00"),
        ("tiny, read leniently", "2.00\n2.00–2.00", "0.400\n0.40–0.40"),
        ("+ RARL", "1.00\n1.00–1.00", "0.900\n0.90–0.90"),
    ]
    # By MAE 4.5 - 1 less 2 - 1, of 3.5; by tau 0.9 less 0.5, of 0.9.
    assert table.notes[1] == (
        "Of the gain of RARL over tiny, this much is format: 1-img 2.50 of 3.50, 2-imgs 0.400 of 0.900, "
        "parsed 0.0 of 0.0, valid 0.0 of 0.0."
    )
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(METRICS | {"arms": arms}, DIGITS, model_name="tiny"))
    assert "this much is format: 1-img 2.50 of 3.50" in " ".join(out.getvalue().split())


def test_no_row_where_the_readings_agree_as_shown():
    arms = {"base": twice(4.5, 4.5001, 0.0, 0.0001), "rarl": twice(1.0, 1.0, 0.9, 0.9)}
    table = headline_table(METRICS | {"arms": arms}, DIGITS, "tiny")
    assert [row[0] for row in table.rows] == ["tiny", "+ RARL"]
    assert table.notes == ()


def test_all_metrics_have_both_readings():
    arms = {"base": twice(4.5, 2.0, 0.0, 0.4)}
    table = metrics_table(METRICS | {"arms": arms}, "tiny")
    assert dict(table.rows)["tau2_lenient"] == "0.400\n0.40–0.40"
    assert table.notes[0].endswith("What ends in _lenient is of the same replies, read leniently.")


def test_expected_values_of_the_arms_that_have_them():
    means = {"mae_mean": entry(0.75, 0.5, 1.0), "mae_median": entry(0.25, 0.125, 0.5)}
    means |= {"tau8_mean": entry(0.75, 0.5, 1.0)}
    calibrated = {"ece": entry(0.0625, 0.05, 0.1), "coverage": entry(0.875, 0.75, 1.0)}
    arms = {**METRICS["arms"], "rarl": METRICS["arms"]["rarl"] | means | calibrated}
    chosen = {"rarl": Scoring("mean", lengths=(8,), split="validation", images=200), "base": Scoring()}
    table = expected_table({**METRICS, "arms": arms}, "tiny", chosen)
    assert table.markdown() == (
        "| Methods | MAE↓ | 8-imgs↑ | ECE↓ | in 80 % |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| + RARL | 0.25<br>0.12–0.50 | 0.750<br>0.50–1.00 | 0.062<br>0.05–0.10 | 87.5<br>75.0–100.0 |\n"
    )
    assert "MAE is that of its median, which is the image's value, and SRCC and lists go by" in table.notes[0]
    assert table.notes[1:] == (f"RARL as chosen: {chosen['rarl'].sentence}.",)
    windows = {"images": 176.0, "srcc": 0.9375, "srcc_values": 0.95}
    chosen = {"rarl": replace(chosen["rarl"], measured={"windows": windows})}
    table = expected_table({**METRICS, "arms": arms}, "tiny", chosen)
    assert table.notes[1].endswith(
        "(chosen on 200 images of validation); a list of 176 images has SRCC 0.950 by values, and 0.938 "
        "joined with those in windows."
    )
    assert expected_table(METRICS, "tiny", chosen) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("![x](http://x.org/p.png)", "!\\[x](http://x.org/p.png)"),
        ("\\[x](y)", "\\\\\\[x](y)"),
        ("a\x1b[2J\u202eb", "a\\x1b\\[2J\\u202eb"),
        ("two\nlines", "two lines"),
        ("rarl_no_mutation, 0.5–1", "rarl_no_mutation, 0.5–1"),
    ],
)
def test_markdown_shows_the_texts_of_strangers_as_they_are(text, shown):
    assert markdown_text(text) == shown
