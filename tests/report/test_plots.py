"""The plots of a report as SVG: where their points lie, and that all their colours are those of the page."""

import re
from pathlib import Path

import pytest

import rarl.report.page
from helpers.runs import ARMS, asked, make_cell, make_collection, make_run, predictions, write_lines
from rarl.evaluation.results import load_metrics, write_metrics
from rarl.paper.arms import PAPER_ARMS
from rarl.report.plots import (
    arm_colour,
    position_bias,
    predicted_against_true,
    tau_by_length,
    training_curves,
    validation_curves,
)
from rarl.report.record import load_record, load_records

NUMBER = r"-?[\d.]+"
ARM = {name: arm.colour for name, arm in PAPER_ARMS.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def record(run):
    return load_record(run)


def points(svg, place, style="-"):
    """The corners of the lines in one arm's colour: pixels from the left, and from the top."""
    found = []
    for path, look in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg):
        if f"stroke: var(--arm-{place})" in look and "fill: none" in look:
            assert ("stroke-dasharray" in look) == (style == "--")
            found += [(float(x), float(y)) for x, y in re.findall(rf"[ML] ({NUMBER}) ({NUMBER})", path)]
    return found


def markers(svg, place):
    """The marks in one arm's colour."""
    uses = re.findall(r"<use [^>]*>", svg)
    return [
        tuple(float(re.search(rf' {axis}="({NUMBER})"', use).group(1)) for axis in "xy")
        for use in uses
        if f"fill: var(--arm-{place})" in use
    ]


def scale(svg, axis):
    """Value -> pixel, by the first and the last number at an axis."""
    ticks = []
    for tick in svg.split(f"-{axis}tick_")[1:]:
        pixel = re.search(rf'<use [^>]* {axis}="({NUMBER})"', tick).group(1)
        label = re.search(r"<text[^>]*>([^<]*)</text>", tick).group(1)
        ticks.append((float(pixel), float(label.replace("\u2212", "-"))))
    (start, low), (end, high) = ticks[0], ticks[-1]
    return lambda value: start + (value - low) * (end - start) / (high - low)


def one(plots, title):
    (svg,) = [plot.svg for plot in plots if plot.title == title]
    return svg


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────


def test_validation_curves_run_from_the_base_through_both_stages(record):
    """Logged at step 0 and the last: regression 0-20, rarl 20-60, SFT 0-40; MAE falls from 2 to 1."""
    plots = validation_curves(record)
    assert [plot.title for plot in plots] == [
        "MAE ↓, 1 image",
        "Kendall's τ ↑, 2 images",
        "Kendall's τ ↑, 4 images",
    ]
    svg = plots[0].svg
    across, up = scale(svg, "x"), scale(svg, "y")
    for arm, first, last in (("regression", 0, 20), ("rarl", 20, 60), ("sft", 0, 40)):
        (x0, y0), (x1, y1) = points(svg, ARM[arm])
        assert (x0, x1) == pytest.approx((across(first), across(last)), abs=0.1)
        assert (y0, y1) == pytest.approx((up(2), up(1)), abs=0.1)
    assert points(svg, ARM["base"]) == []


def test_training_curves_of_two_stages(record):
    """Every fifth step; the second stage's first line is the 25th step since the base."""
    plots = training_curves(record)
    assert len(plots) == 9
    svg = one(plots, "Entropy")
    across, up = scale(svg, "x"), scale(svg, "y")
    assert [x for x, _ in markers(svg, ARM["regression"])] == pytest.approx(
        [across(step) for step in (5, 10, 15, 20)], abs=0.1
    )
    assert [x for x, _ in markers(svg, ARM["rarl"])] == pytest.approx(
        [across(step) for step in (25, 30, 35, 40, 45, 50, 55, 60)], abs=0.1
    )
    assert markers(svg, ARM["rarl"])[3][1] == pytest.approx(up(2 / 20), abs=0.1)  # the policy's own
    assert points(svg, ARM["sft"]) == []  # its entropy is of imitation, not of a policy's responses


@pytest.mark.parametrize(("title", "own", "earlier"), [("Entropy", 2, 1), ("KL from the reference", 3, 1)])
def test_the_policy_s_own_numbers_are_drawn_where_they_were_logged(tmp_path, title, own, earlier):
    """An earlier version logged those of all responses alone."""
    run = make_run(tmp_path / "run", ["base", "rarl"])
    up = scale(svg := one(training_curves(load_record(run)), title), "y")
    assert markers(svg, ARM["rarl"])[3][1] == pytest.approx(up(own / 20), abs=0.1)
    lines = [
        {key: value for key, value in line.items() if key not in ("policy/entropy", "policy/kl")}
        for line in load_record(run).arms["rarl"].log
    ]
    write_lines(run / "rarl/log.jsonl", lines)
    up = scale(svg := one(training_curves(load_record(run)), title), "y")
    assert markers(svg, ARM["rarl"])[3][1] == pytest.approx(up(earlier / 20), abs=0.1)


def test_stagnant_groups_after_mutation_are_dashed(record):
    (plot,) = [plot for plot in training_curves(record) if plot.title == "Stagnant groups, share"]
    assert plot.description.endswith("solid before mutation, dashed after")
    assert plot.svg.count("stroke-dasharray") == 2  # of two arms
    up = scale(plot.svg, "y")
    ends = re.findall(rf'd="M {NUMBER} ({NUMBER})[^"]*"[^>]*stroke: var\(--arm-7\)[^"]*"', plot.svg)
    assert sorted(float(y) for y in ends)[-2:] == pytest.approx([up(0.5), up(0.25)], abs=0.1)


def test_curves_of_cells(tmp_path):
    """A cell's model has the arm's name, and its last stage made it: rarl begins after 20 steps."""
    data = make_collection(tmp_path / "data").root
    cells = [make_cell(tmp_path, arm, data) for arm in ("regression", "rarl_no_mutation", "rarl")]
    svg = validation_curves(load_records(cells))[0].svg
    across = scale(svg, "x")
    ends = {arm: [x for x, _ in points(svg, ARM[arm])] for arm in ("regression", "rarl_no_mutation", "rarl")}
    assert ends["regression"] == pytest.approx([across(0), across(20)], abs=0.1)
    assert ends["rarl"] == ends["rarl_no_mutation"] == pytest.approx([across(20), across(60)], abs=0.1)


def test_a_reward_that_was_not_defined_is_a_gap(tmp_path):
    """TRL logs null or NaN where no response of the steps had a reward."""
    run = make_run(tmp_path / "run", ["base", "rarl"])
    key = "policy/rewards/ranking_reward"
    logged = [(1, 0.5), (2, None), (3, float("nan")), (4, 1.5)]
    write_lines(
        run / "rarl/log.jsonl", [{"step": step, "policy/reward": 1.0, key: value} for step, value in logged]
    )
    (svg,) = [plot.svg for plot in training_curves(load_record(run))]
    across = scale(svg, "x")
    assert [x for x, _ in markers(svg, ARM["rarl"])] == pytest.approx([across(21), across(24)], abs=0.1)


# ── points ───────────────────────────────────────────────────────────────────────────────────────────────


def centres(svg, place):
    """Middles of the discs in one arm's colour, which are paths of four curves."""
    discs = re.findall(rf'<path d="([^"]*)"[^>]*fill: var\(--arm-{place}\)', svg)
    found = []
    for disc in discs:
        numbers = [(float(x), float(y)) for x, y in re.findall(rf"({NUMBER}) ({NUMBER})(?= |\n)", disc)]
        xs, ys = zip(*numbers, strict=True)
        found.append(((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2))
    return found


def test_predicted_values_stand_against_true_ones_on_the_grid_and_in_the_range(tmp_path):
    """True 3 and said 5.4, near 5; true 4 and said -7, below the range; and one without a value."""
    run = make_run(tmp_path / "run", ["base"])
    lines = [asked("base", [n], [1], None, values=[said]) for n, said in ((3, 5.4), (4, -7.0), (5, None))]
    write_lines(run / "predictions.jsonl", lines)
    (plot,) = predicted_against_true(load_record(run))
    assert plot.title == "grey-eyes"
    across, up = scale(plot.svg, "x"), scale(plot.svg, "y")
    found = sorted(centres(plot.svg, 0))
    assert found == [pytest.approx((across(x), up(y)), abs=0.3) for x, y in ((3, 5), (4, 0))]


def test_tau_by_length_has_every_interval(record):
    """tau2 is 0.5 within 0.25 and 0.75, tau4 -0.125 within -0.5 and 0.25, in all four arms."""
    svg = tau_by_length(record).svg
    up = scale(svg, "y")
    for arm in ARMS:
        ends = sorted(y for _, y in points(svg, ARM[arm]))
        assert ends == pytest.approx(sorted(map(up, (0.25, 0.75, -0.5, 0.25))), abs=0.1)
        dots = [y for _, y in markers(svg, ARM[arm])]
        assert any(y == pytest.approx(up(0.5), abs=0.1) for y in dots)
        assert any(y == pytest.approx(up(-0.125), abs=0.1) for y in dots)
    places = [points(svg, ARM[arm])[0] for arm in ARMS]
    assert places == sorted(set(places))  # beside each other


def test_position_bias_is_of_the_rotated_lists(record):
    """Every reply lists the pictures as they stand: place 1 to 4 for picture 1 to 4."""
    svg = position_bias(record).svg
    across, up = scale(svg, "x"), scale(svg, "y")
    assert markers(svg, ARM["rarl"]) == [
        pytest.approx((across(place), up(place)), abs=0.1) for place in (1, 2, 3, 4)
    ]


def test_without_lists_and_single_images_there_are_no_plots_of_them(run, tmp_path):
    metrics = load_metrics(run / "metrics.json")
    copy = make_run(tmp_path / "run")
    for found in metrics["arms"].values():
        del found["tau2"], found["tau4"]
    write_metrics(copy, metrics)
    write_lines(copy / "predictions.jsonl", [line for line in predictions("rarl") if line.images == 2])
    record = load_record(copy)
    assert predicted_against_true(record) == []
    assert tau_by_length(record) is None
    assert position_bias(record) is None


# ── colours and texts ────────────────────────────────────────────────────────────────────────────────────


def test_arms_of_any_names_have_colours_of_their_own():
    known = list(PAPER_ARMS)
    assert sorted(arm_colour(arm, known) for arm in known) == list(range(len(PAPER_ARMS)))
    own = ["base", "warm-up", "middle", "rarl", "end", "sft"]
    found = [arm_colour(arm, own) for arm in own]
    assert len(set(found)) == 6
    assert (found[0], found[3], found[5]) == (0, 7, 1)
    assert set(found) <= set(range(len(PAPER_ARMS)))
    many = [f"stage{number}" for number in range(20)]  # more than there are
    assert set(arm_colour(arm, many) for arm in many) == set(range(len(PAPER_ARMS)))
    assert len({arm_colour(arm, many[:10]) for arm in many[:10]}) == 10


def test_the_page_has_a_colour_for_every_arm_of_the_paper():
    """Light, dark and in print, and none that two arms share."""
    assert sorted(arm.colour for arm in PAPER_ARMS.values()) == list(range(len(PAPER_ARMS)))
    style = Path(rarl.report.page.__file__).with_name("page.css").read_text(encoding="utf-8")
    schemes = re.findall(r":root {(.*?)}", style, re.DOTALL)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--arm-(\d+): (#[0-9a-f]{6})", scheme))
        assert [int(place) for place in colours] == list(range(len(PAPER_ARMS)))
        assert len(set(colours.values())) == len(colours)


def test_all_colours_are_variables_of_the_page(record):
    plots = [
        *training_curves(record),
        *validation_curves(record),
        *predicted_against_true(record),
        tau_by_length(record),
        position_bias(record),
    ]
    assert len(plots) == 18
    for plot in plots:
        for stand_in in ("#010203", "#020304", "#030405", "#0a0b"):
            assert stand_in not in plot.svg
        used = set(re.findall(r"(?:fill|stroke|stop-color|color): ?([^;\"]+)", plot.svg))
        assert {colour for colour in used if not colour.startswith("var(--")} <= {"none"}
        assert {re.sub(r"\d", "", name) for name in used} <= {
            "none",
            "var(--ink)",
            "var(--muted)",
            "var(--grid)",
            "var(--arm-)",
        }
        assert "<style" not in plot.svg
        assert "<script" not in plot.svg


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "a$\\frac$b", "模型-3B", "a<b>&amp;\"'c"])
def test_a_model_of_any_name(tmp_path, name):
    """It stands above its plot as it is written, no font is asked for what it has not, and nothing warns."""
    run = make_run(tmp_path / "run", ["base"], model=f"models/{name}")
    (plot,) = predicted_against_true(load_record(run))
    assert plot.title == name
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)
    assert name in [text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for text in texts]
