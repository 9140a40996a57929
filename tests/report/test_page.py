"""The page of a run and its Markdown: the same numbers in both, the same bytes for the same run, a page
whatever is missing, and one line where there is nothing to report."""

import html
import json
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from helpers.runs import SCORING, asked, entry, make_run, metrics_of, numbers, predictions, write_lines
from rarl.cli import main
from rarl.errors import DataError
from rarl.evaluation.results import load_metrics, write_metrics
from rarl.report.page import write_report

ARMS = ("base", "rarl")


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "complete", ARMS)
    # Few curves: drawing takes most of the time.
    measured = {"validation/mae": 1.0, "validation/tau2": 0.5, "validation/score": 2.0}
    lines = [
        measured | {"step": 0},
        {"policy/reward": 2.0, "entropy": 0.5, "step": 5},
        measured | {"step": 40},
    ]
    write_lines(run / "rarl/log.jsonl", lines)
    return run


@pytest.fixture
def run(complete, tmp_path):
    """A copy of the complete run, to take something away from."""
    copy = tmp_path / "run"
    shutil.copytree(complete, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(complete), str(copy)))
    return copy


def page_of(run):
    return write_report(run).read_text(encoding="utf-8")


def sections(page):
    return re.findall(r'<section id="(\w+)">', page)


def notes(page):
    return [html.unescape(note) for note in re.findall(r'<p class="note">([^<]*)</p>', page)]


def tables(page):
    """Caption -> rows of cells, a line break as "<br>"."""
    found = {}
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        caption = html.unescape(re.search("<caption>(.*?)</caption>", table).group(1))
        found[caption] = [
            [
                html.unescape(re.sub("<small>(.*)</small>", r"<br>\1", cell))
                for cell in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row)
            ]
            for row in re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
        ]
    return found


# ── what is in it ────────────────────────────────────────────────────────────────────────────────────────


def test_lists_that_share_images_are_told(run):
    assert not any("share images" in note for note in notes(page_of(run)))
    metrics = load_metrics(run / "metrics.json")
    metrics["lists"]["4"]["share_images"] = True
    write_metrics(run, metrics)
    said = "Lists of 4 share images (an earlier version drew them): their intervals are too narrow."
    assert said in notes(page_of(run))


def test_a_complete_run_has_every_section_and_misses_nothing(complete):
    page = page_of(complete)
    parts = ["results", "rankings", "predictions", "reliability", "curves", "responses", "run"]
    assert sections(page) == parts
    assert "no image" not in page
    assert notes(page) == [
        "MAE for single images, tau for lists, with 95 % intervals; parsed and valid in %.",
        "Lists of images: 3 of 2, 5 of 4; a reply that is no ranking of all its pictures counts 0.",
        "Each image has a distribution over all answers: MAE is that of its median, which is the image's "
        'value, and SRCC and lists go by its mean. "in 80 %" says how many true values lie in the interval '
        "that has 80 % of the probability, or more, since it ends on the grid; ECE is the calibration error "
        "of the likeliest value.",
        f"RARL as chosen: {SCORING.sentence}.",
        "MAE ↓ of single images, with 95 % intervals.",
        "accuracy, within_one, coverage, parsed and valid in %; docs/evaluation.md says what each of them "
        "is.",
    ]


def test_markdown_has_the_numbers_of_the_page(complete):
    shown = tables(page_of(complete))
    del shown["How the arms were trained"]
    parts = (complete / "report.md").read_text(encoding="utf-8").split("\n## ")
    assert parts[0] == "# shades: grey-eyes\n"
    written = {}
    for part in parts[1:]:
        title, *lines = part.split("\n")
        rows = [line[2:-2].split(" | ") for line in lines if line.startswith("| ")]
        written[title] = [rows[0], *rows[2:]]
    assert written == shown
    assert len(written) == 4


def test_the_same_run_gives_the_same_bytes(run):
    first = page_of(run).encode(), (run / "report.md").read_bytes()
    assert (page_of(run).encode(), (run / "report.md").read_bytes()) == first


def test_a_hundred_thousand_predictions_and_large_images_make_no_large_page(tmp_path):
    run = make_run(tmp_path / "large", ARMS)
    noise = np.random.default_rng(0).integers(0, 256, (2400, 3200, 3), dtype=np.uint8)
    for name in ("test/test-0", "train/train-1"):
        Image.fromarray(noise).save(run / f"data/{name}.png", compress_level=1)
    lines = []
    for arm in ARMS:
        alone = [asked(arm, [n % 16], [1], None, truth=[n % 9 + 0.0005 * n]) for n in range(960)]
        lines += [*alone * 50, *[asked(arm, [0, 1, 2, 3], [1, 2, 3, 4], 1.0)] * 2000]
    write_lines(run / "predictions.jsonl", lines)
    assert len(lines) == 100_000
    started = time.process_time()
    page = page_of(run)
    assert time.process_time() - started < 12
    assert len(page.encode()) < 3_000_000
    assert "no image" not in page


def test_a_long_log_makes_no_large_page(run):
    keys = ("policy/reward", "entropy", "policy/r_len", "policy/r_acc", "policy/rewards/ranking_reward")
    noise = np.random.default_rng(0).random((20_000, len(keys))).tolist()
    write_lines(
        run / "rarl/log.jsonl",
        [{"step": step, **dict(zip(keys, row, strict=True))} for step, row in enumerate(noise, 1)],
    )
    assert len(page_of(run).encode()) < 3_000_000


# ── what may be missing ──────────────────────────────────────────────────────────────────────────────────


def remove(*patterns):
    def change(run):
        for pattern in patterns:
            found = list(run.glob(pattern))
            assert found, pattern
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def empty_images(run):
    for path in run.glob("data/*/*.png"):
        path.write_bytes(b"nothing")


def cut_off(name):
    """The last line has no end, as when the machine stopped."""

    def change(run):
        path = run / name
        path.write_bytes(path.read_bytes()[:-20])

    return change


def no_rotated_lists(run):
    lines = [line for arm in ARMS for line in predictions(arm) if not line.is_rotated]
    write_lines(run / "predictions.jsonl", lines)


def no_lists(run):
    write_lines(run / "predictions.jsonl", [line for arm in ARMS for line in predictions(arm)[:16]])
    metrics = load_metrics(run / "metrics.json")
    metrics["lists"] = {}
    for found in metrics["arms"].values():
        for name in [name for name in found if name[-1].isdigit() or name.endswith("_values")]:
            del found[name]
    write_metrics(run, metrics)


def as_of_old(run):
    """As they were written before lists were rotated and columns read."""
    metrics = load_metrics(run / "metrics.json")
    del metrics["subgroups"]
    for found in metrics["arms"].values():
        for name in ("within_one", "plcc", "agreement4", "position_bias4"):
            del found[name]
    write_metrics(run, metrics)
    no_rotated_lists(run)
    remove("*/groups.jsonl", "*/training.json")(run)


def no_distributions(run):
    path = run / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [{key: value for key, value in line.items() if key != "expected"} for line in lines])


def log_of_old(run):
    """Entropy and KL of all responses, and some of them were injected."""
    log = {"policy/reward": 2.0, "entropy": 0.5, "kl": 0.1, "mutation/fraction": 0.25, "step": 5}
    write_lines(run / "rarl/log.jsonl", [log])


ALL = {"results", "rankings", "predictions", "reliability", "curves", "responses", "run"}


@pytest.mark.parametrize(
    ("change", "gone", "sentence"),
    [
        (remove("predictions.jsonl"), {"rankings", "reliability"}, "predictions"),
        (no_distributions, {"reliability"}, "so there are no expected values"),
        (no_rotated_lists, set(), "No list was asked in several orders"),
        (no_lists, {"rankings"}, "No list was asked in several orders"),
        (remove("*/groups.jsonl"), {"responses"}, "No groups of responses were kept"),
        (remove("*/log.jsonl"), {"curves"}, "log"),
        (log_of_old, set(), "Entropy and KL are of injected responses, too"),
        (remove("*/training.json"), set(), "how long"),
        (remove("data"), set(), "its images are not shown"),
        (remove("data/test/*.png"), set(), "images are not shown"),
        (as_of_old, {"responses"}, "No groups of responses were kept"),
        (cut_off("rarl/log.jsonl"), set(), "cut off"),
        (cut_off("rarl/groups.jsonl"), set(), "cut off"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_page_says_what_is_missing(run, change, gone, sentence):
    change(run)
    page = page_of(run)
    assert set(sections(page)) == ALL - gone
    assert [note for note in notes(page) if sentence in note], notes(page)


def test_images_that_cannot_be_opened_are_gaps(run):
    empty_images(run)
    # Best, median and worst of lists of four, of two arms; three groups of two.
    assert page_of(run).count("no image") == 3 * 2 * 4 + 3 * 2


def test_one_damaged_image_is_a_gap_where_it_stands(run):
    (run / "data/test/test-5.png").write_bytes(b"nothing")
    # Of the median and the worst list, for two arms each.
    assert page_of(run).count("no image") == 4


def test_only_the_base(run):
    metrics = load_metrics(run / "metrics.json")
    metrics["arms"] = {"base": metrics["arms"]["base"]}
    write_metrics(run, metrics)
    page = page_of(run)
    assert sections(page) == ["results", "rankings", "predictions", "reliability", "run"]
    assert "1 arm, from grey-eyes" in page
    assert page.count('<div class="strip">') == 3
    assert [row[0] for row in tables(page)["shades, test split, seed 0"]] == ["Methods", "grey-eyes"]


@pytest.fixture
def orders(run):
    """As of a collection of which only orders are known: no single images, and places for values."""
    metrics = load_metrics(run / "metrics.json")
    for found in metrics["arms"].values():
        for name in ("mae", "accuracy", "within_one", "srcc", "plcc"):
            del found[name]
    del metrics["subgroups"]
    write_metrics(run, metrics)
    lines = [line for arm in ARMS for line in predictions(arm) if line.images > 1]
    write_lines(run / "predictions.jsonl", lines)
    return run


def test_orders_alone(orders):
    """Places, from 1, stand where values would."""
    metadata = orders / "data/test/metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    for row in rows:
        del row["value"]
    write_lines(metadata, rows)
    write_lines(orders / "data/test/orders.jsonl", [{"ids": [f"test-{number}" for number in range(10)]}])
    write_lines(
        orders / "rarl/groups.jsonl",
        [
            {"step": 5, "ids": ["train-1", "train-2"], "truth": None, "order": [1, 0], "rule": "x"}
            | {"responses": [{"text": "", "rewards": {}, "reward": 0, "advantage": 0, "mutated": False}]}
        ],
    )
    page = page_of(orders)
    assert set(sections(page)) == ALL - {"reliability"}  # nothing is asked alone
    assert "Predicted against true values" not in page
    header = tables(page)["shades, test split, seed 0"][0]
    assert header == ["Methods", "2-imgs↑", "4-imgs↑", "parsed", "valid"]
    worst = page.split("<h3>Worst")[1].split("<details>")[0]
    assert re.findall(r'class="true">true ([^<]*)<', worst) == ["place 8", "place 7", "place 6", "place 5"]
    assert "no image" not in page
    groups = page.split("<h3>Step 25 since the base</h3>")[1]
    assert re.findall(r'class="true">true ([^<]*)<', groups) == ["place 2", "place 1"]


def test_lists_of_images_with_values_show_their_values(orders):
    """That no single image was asked for does not make places of values."""
    worst = page_of(orders).split("<h3>Worst")[1].split("<details>")[0]
    assert re.findall(r'class="true">true ([^<]*)<', worst) == ["7", "6", "5", "4"]
    assert worst.count('class="right"') == 4


# ── what is no run ───────────────────────────────────────────────────────────────────────────────────────


def error_of(capsys, folder):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder)])
    out, error = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in error
    assert error.endswith("\n")
    return stopped.value.code, error[:-1]


@pytest.mark.parametrize(
    ("name", "say"),
    [
        ("absent", "no such folder; give that of a run, such as runs/demo"),
        ("run/config.yaml", "no such folder; give that of a run, such as runs/demo"),
        ("run/rarl", "it has a config.yaml and a metrics.json"),
        ("run/data", "it has a config.yaml and a metrics.json"),
    ],
)
def test_what_is_no_run_is_an_error_of_one_line(capsys, run, name, say):
    code, line = error_of(capsys, run.parent / name)
    assert code == 1
    assert line.startswith(f"error: {run.parent / name}: ")
    assert say in line
    assert "\n" not in line
    assert not (run.parent / name / "report.html").exists()


def test_a_run_that_was_not_evaluated_yet(run):
    write_metrics(run, metrics_of({}))
    with pytest.raises(DataError, match=r"metrics\.json: no arm was evaluated yet"):
        write_report(run)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.jsonl"])
def test_a_file_that_was_damaged_is_named(capsys, run, name):
    """These are replaced whole, so nothing but a change from outside cuts one off."""
    cut_off(name)(run)
    code, line = error_of(capsys, run)
    assert code == 1
    assert f"{run / name}" in line
    assert "\n" not in line


def test_bytes_that_are_no_text_are_an_error_of_one_line(capsys, run):
    (run / "predictions.jsonl").write_bytes(b'{"arm": "\xe9"}\n')
    code, line = error_of(capsys, run)
    assert code == 1
    assert f"{run / 'predictions.jsonl'}" in line


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_says_what_it_wrote(capsys, run):
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(run)])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"wrote {run}/report.html and report.md\n"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_arm_evaluated_elsewhere_has_its_row(run):
    """Under its own name, below the known ones."""
    metrics = load_metrics(run / "metrics.json")
    metrics["arms"] = {"mine": numbers(0.25) | {"mae": entry(0.25, 0.125, 0.5)}} | metrics["arms"]
    write_metrics(run, metrics)
    rows = tables(page_of(run))["shades, test split, seed 0"]
    assert rows[-1][:2] == ["+ mine", "0.25<br>0.12–0.50"]
