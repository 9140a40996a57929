"""Ranking any images: the listed order where the reply is a permutation, values where it is not, and what the
user is told about a file that is no image. Replies are scripted, save for one pass of an untrained model."""

import json

import numpy as np
import pytest
from PIL import Image

import rarl.ranking.ranker
from rarl.errors import ConfigError, DataError, ModelError
from rarl.method.replies import Item, write_reply
from rarl.method.tasks import DIGITS
from rarl.models.tiny import build_model, build_processor
from rarl.ranking.measured import Measured
from rarl.ranking.ranker import NO_VALUE, Ranker
from rarl.ranking.table import Ranked


@pytest.fixture
def ranker(monkeypatch):
    """A ranker that replies `ranker.answer(levels of grey)` and keeps the questions in `ranker.asked`."""
    monkeypatch.setattr(rarl.ranking.ranker, "load_model", lambda name, **options: None)
    monkeypatch.setattr(rarl.ranking.ranker, "see_together", lambda model: None)
    monkeypatch.setattr(rarl.ranking.ranker, "load_processor", lambda name, **options: None)
    ranker = Ranker("any", DIGITS, batch_size=4)
    ranker.asked = []

    def scripted(model, processor, prompts, images, *, max_new_tokens, batch_size, share):
        assert len(images) == batch_size <= 4
        assert max_new_tokens == 1024
        groups = [[picture.getpixel((0, 0))[0] for picture in group] for group in images]
        assert [str(prompt).count("'type': 'image'") for prompt in prompts] == [
            len(group) for group in groups
        ]
        ranker.asked.extend(groups)
        return [ranker.answer(group) for group in groups]

    monkeypatch.setattr(rarl.ranking.ranker, "greedy_replies_so_far", scripted)
    return ranker


def grey(level):
    return Image.new("L", (28, 28), level)


def reply(*items):
    return write_reply("", [Item(*item) for item in items], step=1)


def right(levels):
    order = sorted(range(len(levels)), key=levels.__getitem__)
    return reply(*((i + 1, levels[i]) for i in order))


def test_up_to_eight_images_are_one_prompt_and_the_listed_order_is_the_ranking(ranker):
    # The values don't ascend with the list; the list is what counts, and it is said so.
    ranker.answer = lambda levels: reply((3, 9), (1, 4), (2, 4))
    assert list(ranker.rank([grey(5), grey(9), grey(1)])) == [
        Ranked(1, 2, 9.0, "listed"),
        Ranked(2, 0, 4.0, "listed"),
        Ranked(3, 1, 4.0, "listed"),
    ]
    assert ranker.asked == [[5, 9, 1]]


@pytest.mark.parametrize(
    "text",
    [
        "no list at all",
        "<answer>[]</answer>",
        reply((1, 1), (2, 2)),  # a picture is missing
        reply((1, 1), (2, 2), (2, 3)),  # one is there twice
        reply((1, 1), (2, 2), (4, 3)),  # one is not ours
    ],
)
def test_without_a_permutation_images_are_scored_alone(ranker, text):
    ranker.answer = lambda levels: text if len(levels) > 1 else right(levels)
    assert list(ranker.rank([grey(5), grey(9), grey(1)])) == [
        Ranked(1, 2, 1.0, "values"),
        Ranked(2, 0, 5.0, "values"),
        Ranked(3, 1, 9.0, "values"),
    ]
    assert ranker.asked == [[5, 9, 1], [5], [9], [1]]


def test_replies_in_another_format_are_read_leniently_and_counted(ranker):
    ranker.answer = lambda levels: (
        right(levels).replace("<answer>", "```json\n").replace("</answer>", "\n```")
    )
    assert [(entry.image, entry.method) for entry in ranker.rank([grey(5), grey(9), grey(1)])] == [
        (2, "listed"),
        (0, "listed"),
        (1, "listed"),
    ]
    assert ranker.read_leniently == 1
    ranker.answer = lambda levels: f'The value: {{"image_id": "1", "value": "{levels[0]}"}}'
    assert ranker.score([grey(5), grey(9)]) == [Measured(5.0), Measured(9.0)]
    assert ranker.read_leniently == 2
    ranker.answer = right
    ranker.rank([grey(5), grey(9)])
    assert ranker.read_leniently == 0


def test_equal_values_share_a_rank_in_order_and_images_without_a_value_come_last(ranker):
    ranker.answer = lambda levels: right(levels) if len(levels) == 1 and levels[0] != 7 else "?"
    levels = [7, 3, 2, 3, 5, 7]
    ascending = ranker.rank([grey(level) for level in levels])
    without = [Ranked(None, 0, None, "values", NO_VALUE), Ranked(None, 5, None, "values", NO_VALUE)]
    assert list(ascending) == [
        Ranked(1, 2, 2.0, "values"),
        Ranked(2, 1, 3.0, "values"),
        Ranked(2, 3, 3.0, "values"),
        Ranked(4, 4, 5.0, "values"),
        *without,
    ]
    assert list(ranker.rank([grey(level) for level in levels], descending=True)) == [
        Ranked(1, 4, 5.0, "values"),
        Ranked(2, 1, 3.0, "values"),
        Ranked(2, 3, 3.0, "values"),
        Ranked(4, 2, 2.0, "values"),
        *without,
    ]


@pytest.mark.parametrize(("count", "prompts"), [(1, 1), (2, 1), (8, 1), (9, 9)])
def test_how_many_prompts_a_number_of_images_takes(ranker, count, prompts):
    ranker.answer = right
    levels = list(range(count, 0, -1))
    ranked = ranker.rank([grey(level) for level in levels])
    assert [entry.value for entry in ranked] == sorted(levels)
    assert [entry.image for entry in ranked] == list(reversed(range(count)))
    assert [entry.rank for entry in ranked] == list(range(1, count + 1))
    assert {entry.method for entry in ranked} == {"listed" if 2 <= count <= 8 else "values"}
    assert len(ranker.asked) == prompts


def test_score_asks_for_each_image_alone(ranker):
    ranker.answer = lambda levels: "?" if levels == [6] else right(levels)
    assert ranker.score(grey(level) for level in (4, 6, 2)) == [
        Measured(4.0),
        Measured(None, problem=NO_VALUE),
        Measured(2.0),
    ]
    assert ranker.asked == [[4], [6], [2]]
    assert ranker.score([]) == []


def test_paths_come_back_as_given_and_go_into_json(ranker, tmp_path, monkeypatch):
    ranker.answer = right
    monkeypatch.chdir(tmp_path)
    for level in (8, 3):
        grey(level).save(f"{level}.png")
    ranked = ranker.rank(["8.png", tmp_path / "3.png"])
    nothing = {"low": None, "high": None, "problem": None}
    assert json.loads(json.dumps([entry.to_dict() for entry in ranked])) == [
        {"rank": 1, "file": str(tmp_path / "3.png"), "value": 3.0, "mean": 3.0, **nothing},
        {"rank": 2, "file": "8.png", "value": 8.0, "mean": 8.0, **nothing},
    ]


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "image", "array"])
def test_one_image_is_not_taken_for_several(ranker, tmp_path, kind):
    """The rows of an array would be images, and the letters of a path paths."""
    image = Image.new("RGB", (4, 3))
    image.save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    kinds = {
        "str": str(path),
        "path": path,
        "bytes": path.read_bytes(),
        "image": image,
        "array": np.asarray(image),
    }
    for ask in (ranker.score, ranker.rank):
        with pytest.raises(DataError, match=r"images are given as a list: for one, give \[image\]"):
            ask(kinds[kind])


def test_a_task_is_not_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"task must be a Task, such as rarl.AGE, not 'age'"):
        Ranker(tmp_path, "age")


def test_nothing_to_rank(ranker):
    with pytest.raises(DataError, match="no images to rank: give at least one"):
        ranker.rank([])


@pytest.fixture
def bad_files(tmp_path):
    """Damaged, missing, and of a shape that the processor refuses."""
    grey(1).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-40])
    Image.new("L", (900, 3)).save(tmp_path / "strip.png")
    return {
        tmp_path / "cut.jpg": "the image is damaged (",
        tmp_path / "missing.png": "no such image file",
        tmp_path / "strip.png": "an image of 900 x 3 pixels is not for this model (",
    }


@pytest.mark.parametrize("good", [1, 2, 5, 9])
def test_images_that_can_not_be_shown_alone_get_no_value(ranker, bad_files, tiny_processor, good):
    ranker._processor = tiny_processor
    ranker.answer = right
    images = [grey(level) for level in range(good, 0, -1)]
    pictures = [images[0], *bad_files, *images[1:]]
    ranked = ranker.rank(pictures)
    method = "listed" if 2 <= good <= 5 else "values"
    assert [entry.value for entry in ranked[:good]] == list(range(1, good + 1))
    assert [(entry.rank, entry.problem) for entry in ranked[:good]] == [(i + 1, None) for i in range(good)]
    for entry, (path, problem) in zip(ranked[good:], bad_files.items(), strict=True):
        assert (entry.rank, entry.image, entry.value, entry.method) == (None, str(path), None, method)
        assert entry.problem.startswith(problem)
    scores = [said.value for said in ranker.score(pictures)]
    assert scores == [good, None, None, None, *range(good - 1, 0, -1)]
    assert list(ranker.problems) == [1, 2, 3]
    assert ranker.score([images[0]]) == [Measured(good)]
    assert ranker.problems == {}


@pytest.mark.parametrize("count", [1, 2, 9])
def test_where_no_image_can_be_shown_it_is_an_error(ranker, bad_files, count):
    with pytest.raises(DataError, match=r"cut\.jpg: the image is damaged") as caught:
        ranker.rank([next(iter(bad_files))] * count)
    assert ("nor can any of the other" in str(caught.value)) == (count > 1)
    assert ranker.asked == []


@pytest.mark.parametrize("count", [2, 9])
def test_a_strict_ranker_names_a_file_that_is_no_image_before_the_model_runs(
    ranker, bad_files, tiny_processor, tmp_path, count
):
    ranker._processor = tiny_processor
    ranker.strict = True
    ranker.answer = right
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    grey(1).save(good)
    bad.write_text("no image")
    for last in (bad, *bad_files):
        with pytest.raises(DataError, match=last.name):
            ranker.rank([good] * (count - 1) + [last])
    with pytest.raises(DataError, match="a PIL image or an array, not a int"):
        ranker.rank([good] * (count - 1) + [3])
    assert ranker.asked == []


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="nothing"):
        Ranker(tmp_path / "nothing", DIGITS)


def test_a_real_model_from_its_folder(tmp_path):
    processor = build_processor(DIGITS)
    build_model(processor, seed=0).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ranker = Ranker(tmp_path, DIGITS, max_new_tokens=4)
    # Untrained, it gives no image a value: all are there, in the order given, and none has a rank.
    assert list(ranker.rank([grey(1), grey(2)])) == [
        Ranked(None, 0, None, "values", NO_VALUE),
        Ranked(None, 1, None, "values", NO_VALUE),
    ]
