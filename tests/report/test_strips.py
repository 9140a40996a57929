"""Which lists and groups a report shows, in which order their images stand, and the copies of images."""

import base64
import io

import pytest
from PIL import Image

from helpers.runs import SHADES, asked, group, make_run, predictions, write_lines
from rarl.evaluation.results import load_metrics, write_metrics
from rarl.report.record import load_record
from rarl.report.strips import Thumbnails, ranked_strips, response_groups


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", ["base", "rarl"])


def strips_of(run, lines):
    """What is shown of the lists of `rarl` with these lines, and of the base with its own."""
    write_lines(run / "predictions.jsonl", [*predictions("base"), *lines])
    record = load_record(run)
    return ranked_strips(record, Thumbnails(record.images))


def pictures(strip):
    return [(tile.picture, tile.truth, tile.given) for tile in strip.tiles]


def test_a_tile_has_the_interval_of_its_image(run):
    """Image 4 of values 0 to 9: mean 4.5, and 3 to 6; a line of before has none."""
    lines = [asked("rarl", [4, 0], [2, 1], 1.0), asked("base", [4, 0], [2, 1], 1.0, expected=None)]
    write_lines(run / "predictions.jsonl", lines)
    record = load_record(run)
    ((_, (ours, base)), *_) = ranked_strips(record, Thumbnails(record.images))
    bar = ours.tiles[1].bar
    assert (bar.low, bar.width, bar.mean, bar.truth) == (33.3, 33.4, 50.0, 44.4)
    assert bar.text == "mean 4.5, 80 % from 3 to 6"
    assert [tile.bar for tile in base.tiles] == [None, None]


def test_best_median_and_worst_of_five(run):
    """By tau: -1, 0, 2/3, 1, 1. Only the longest lists count, and rotated ones not at all."""
    shown = strips_of(run, predictions("rarl"))
    assert [heading for heading, _ in shown] == [
        f"{name} of 5 lists of 4" for name in ("Best", "Median", "Worst")
    ]
    assert [[(s.arm, round(s.tau, 2)) for s in strips] for _, strips in shown] == [
        [("+ RARL", 1.0), ("grey-eyes", 1.0)],
        [("+ RARL", 0.67), ("grey-eyes", 0.67)],
        [("+ RARL", -1.0), ("grey-eyes", -1.0)],
    ]
    assert {tile.picture for tile in shown[1][1][0].tiles} == {1, 2, 3, 4}
    assert sorted(truth for _, truth, _ in pictures(shown[1][1][0])) == ["5", "6", "7", "8"]


def test_images_stand_in_the_order_of_the_reply(run):
    """Pictures 3, 1, 4, 2 were listed, and said to be 9, 1, 9 and 1."""
    line = asked("rarl", [1, 9, 0, 4], [3, 1, 4, 2], 0.0, values=[1.0, 1.0, 9.0, 9.0])
    ((_, (strip,)), *_) = strips_of(run, [line])
    assert pictures(strip) == [(3, "0", "9"), (1, "1", "1"), (4, "4", "9"), (2, "9", "1")]
    assert [tile.right for tile in strip.tiles] == [False, True, False, False]
    assert strip.valid


def test_a_reply_that_is_no_ranking_leaves_the_order_of_the_prompt(run):
    """Three of four pictures were listed, one without need of its place."""
    changes = {"valid": False, "positions": [1, None, 0, 2], "values": [1.0, None, 0.0, 4.5]}
    line = asked("rarl", [1, 9, 0, 4], [3, 1, 4, 2], 0.0, **changes)
    ((_, (strip,)), *_) = strips_of(run, [line])
    assert pictures(strip) == [(1, "1", "1"), (2, "9", "–"), (3, "0", "0"), (4, "4", "4.5")]
    # 4.5 goes up to 5 on the grid of whole numbers.
    assert [tile.right for tile in strip.tiles] == [True, False, True, False]
    assert not strip.valid


def test_the_base_is_shown_with_the_same_list_or_not_at_all(run):
    known = asked("rarl", [4, 5, 6, 7], [1, 2, 3, 4], 1.0)
    shown = dict(strips_of(run, [known, asked("rarl", [7, 6, 5, 4], [1, 2, 3, 4], -1.0)]))
    assert [strip.tau for strip in shown["Best of 2 lists of 4"]] == [1.0, -1.0]
    assert [strip.tau for strip in shown["Worst of 2 lists of 4"]] == [-1.0]


def test_the_base_alone_is_not_shown_beside_itself(run):
    metrics = load_metrics(run / "metrics.json")
    write_metrics(run, metrics | {"arms": {"base": metrics["arms"]["base"]}})
    assert [len(strips) for _, strips in strips_of(run, [])] == [1, 1, 1]


def test_without_lists_there_are_no_strips(run):
    assert strips_of(run, [asked("rarl", [3], [1], None)]) == []


def steps_shown(run, lines):
    write_lines(run / "rarl/groups.jsonl", lines)
    record = load_record(run)
    # They are counted since the base, and the stage before has 20.
    return [shown.step - 20 for shown in response_groups(record, Thumbnails(record.images))]


@pytest.mark.parametrize(
    ("mutated", "shown"),
    [
        ([], [10, 30, 50]),  # first, middle and last
        ([20], [20]),
        ([20, 40], [20, 40]),
        ([10, 20, 30, 50], [10, 30, 50]),
        ([10, 20, 30, 40, 50], [10, 30, 50]),
    ],
)
def test_groups_of_the_beginning_the_middle_and_the_end_with_mutation_first(run, mutated, shown):
    lines = [group(step, "a", "b", mutated=[1] if step in mutated else []) for step in (10, 20, 30, 40, 50)]
    assert steps_shown(run, lines) == shown


def test_groups_of_several_images_come_before_single_ones(run):
    alone = {"ids": ["train-1"], "truth": [1.0]}
    assert steps_shown(run, [group(1, "a", **alone), group(2, "a"), group(3, "a", **alone)]) == [2]
    assert steps_shown(run, [group(1, "a", **alone)]) == [1]


def test_a_group_as_it_was_trained_on(run):
    write_lines(run / "rarl/groups.jsonl", [group(7, "one", "two", mutated=[1])])
    record = load_record(run)
    (shown,) = response_groups(record, Thumbnails(record.images))
    assert [(tile.picture, tile.truth, tile.given) for tile in shown.tiles] == [(1, "1", ""), (2, "2", "")]
    assert all(tile.source for tile in shown.tiles)
    first, second = shown.responses
    assert (first.text, first.reward, first.advantage, first.mutated) == ("one", "4.50", "+1.25", False)
    assert first.rewards == [("regression", "0.50"), ("ranking", "3.00"), ("format", "1.00")]
    assert (second.text, second.advantage, second.mutated) == ("two", "-0.25", True)
    assert second.rewards[1] == ("ranking", "–")


@pytest.mark.parametrize(
    ("size", "kind", "copied"),
    [((64, 64), "png", (64, 64)), ((400, 200), "jpeg", (128, 64)), ((8, 8), "png", (8, 8))],
)
def test_copies_are_small_and_small_images_exact(tmp_path, size, kind, copied):
    image = Image.new("RGB", size, (200, 10, 10))
    image.putpixel((1, 1), (0, 255, 3))
    image.save(tmp_path / "image.png")
    head, data = Thumbnails({"a": tmp_path / "image.png"}).of("a").split(",")
    assert head == f"data:image/{kind};base64"
    copy = Image.open(io.BytesIO(base64.b64decode(data)))
    assert copy.size == copied
    if size == copied:
        assert copy.convert("RGB").tobytes() == image.tobytes()


def test_an_image_that_is_gone_or_broken_has_no_copy(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    thumbnails = Thumbnails({"gone": tmp_path / "gone.png", "broken": tmp_path / "broken.png"})
    assert [thumbnails.of(name) for name in ("gone", "broken", "unknown")] == [None, None, None]


def test_values_within_half_a_step_are_right_on_a_fine_grid(run):
    """With steps of a half, 1.7 is nearest to 1.5 and 1.8 to 2."""
    fine = SHADES.to_dict() | {"step": 0.5}
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("step: 1\n", "step: 0.5\n", 1))
    assert load_record(run).task.to_dict() == fine
    line = asked("rarl", [1, 2], [1, 2], 1.0, truth=[1.5, 1.5], values=[1.7, 1.8])
    ((_, (strip,)), *_) = strips_of(run, [line])
    assert [tile.right for tile in strip.tiles] == [True, False]
