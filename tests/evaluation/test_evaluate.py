"""What evaluation measures and writes: the arithmetic by hand on scripted replies, the files and how arms
share them, and one pass of a real, untrained tiny model."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import rarl.evaluation.evaluate
from rarl.data.collection import load_collection
from rarl.data.groups import Group
from rarl.data.writing import write_collection
from rarl.errors import ConfigError, DataError
from rarl.evaluation.evaluate import evaluate, predict, summarize
from rarl.files import locked
from rarl.method.replies import parse, reference_reply
from rarl.method.tasks import Task

TASK = Task("toy", "brightness", low=0, high=10, step=1, delta=2)
SINGLE = {"mae", "accuracy", "within_one", "srcc", "plcc"}
METRICS = {*SINGLE, "tau2", "tau2_values", "tau4", "tau4_values", "parsed", "valid"}
ROTATED = {"agreement2", "position_bias2", "agreement4", "position_bias4"}


def image(value):
    return Image.new("RGB", (28, 28), (int(value) * 20,) * 3)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    values = {"test": [0, 1, 2, 3, 5, 8, 9, 10], "validation": [4, 6, 7, 7]}
    return write_collection(
        tmp_path_factory.mktemp("data") / "toy",
        TASK,
        {split: [(f"{split}{i}", v, image(v)) for i, v in enumerate(some)] for split, some in values.items()},
    )


@pytest.fixture
def script(monkeypatch):
    """Replies are a function of the images' own values, which the test gives. Returns what has been asked."""
    asked = []

    def use(answer):
        def scripted(model, processor, prompts, images, *, max_new_tokens, batch_size):
            assert len(prompts) == len(images) <= batch_size
            groups = [[round(picture.getpixel((0, 0))[0] / 20) for picture in group] for group in images]
            asked.extend(groups)
            return [answer(group) for group in groups]

        monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", scripted)
        return asked

    return use


def right(values):
    return reference_reply(values, TASK.step)


def run(collection, out, arm="base", images=(1, 2, 4), lists=6, position_lists=0, **options):
    options |= {"arm": arm, "images": images, "lists": lists, "position_lists": position_lists}
    return evaluate(None, None, collection, out, **options)


def read(out):
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return json.loads((out / "metrics.json").read_text()), [json.loads(line) for line in lines]


# ── the arithmetic ───────────────────────────────────────────────────────────────────────────────────────


def rows(collection, *values):
    by_value = {row.value: row for rows in collection.splits.values() for row in rows}
    return Group(tuple(by_value[value] for value in values))


LISTS = [  # truth of picture 1.., reply, parsed, valid, tau by listed order, tau by values
    ((1, 5), '[{"image_id": 1, "value": 2}, {"image_id": 2, "value": 3}]', True, True, 1, 1),
    ((1, 5), '[{"image_id": 2, "value": 2}, {"image_id": 1, "value": 3}]', True, True, -1, -1),
    ((1, 5), '[{"image_id": 2, "value": 3}, {"image_id": 1, "value": 2}]', True, True, -1, 1),
    ((1, 5), '[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 3}]', True, True, 1, 0),
    ((1, 5), '[{"image_id": 1, "value": 2}]', True, False, 0, 0),
    ((1, 5), '[{"image_id": 1, "value": 2}, {"image_id": 1, "value": 3}]', True, False, 0, 0),
    ((1, 5), '[{"image_id": 1, "value": 2}, {"image_id": 3, "value": 3}]', True, False, 0, 0),
    ((1, 5), "[]", True, False, 0, 0),
    ((1, 5), "one, then two", False, False, 0, 0),
    # By listed order 3, 1, 2 and truths 5, 1, 2: of (1,2) (1,3) (2,3) only the last disagrees.
    (
        (1, 5, 2),
        '[{"image_id": 1, "value": 1}, {"image_id": 2, "value": 6}, {"image_id": 3, "value": 2}]',
        True,
        True,
        1 / 3,
        1,
    ),
]


@pytest.mark.parametrize(("truths", "answer", "parsed", "valid", "tau", "tau_values"), LISTS)
def test_a_reply_to_a_list(collection, truths, answer, parsed, valid, tau, tau_values):
    line = predict(rows(collection, *truths), f"<answer>{answer}</answer>")
    assert (line["parsed"], line["valid"]) == (parsed, valid)
    assert (line["tau"], line["tau_values"]) == pytest.approx((tau, tau_values))


def test_a_line_holds_the_reply_as_written_and_as_read(collection):
    text = '<think>…</think> <answer>[{"image_id": 2, "value": 2.5}]</answer>\n'
    assert predict(rows(collection, 1, 5, 2), text) == {
        "images": 3,
        "ids": ["test1", "test4", "test2"],
        "truth": [1, 5, 2],
        "reply": text,
        "values": [None, 2.5, None],
        "positions": [None, 0, None],
        "parsed": True,
        "valid": False,
        "tau": 0,
        "tau_values": 0,
    }


def single(truth, value):
    return {"images": 1, "truth": [truth], "values": [value], "parsed": True, "valid": value is not None}


def test_single_images(collection):
    # Errors 0, 0.4, 3 (missing: the midpoint 5), 10 (1e300 counts as 10). 1.6 rounds to 2, so two are exact.
    lines = [single(3, 3.0), single(2, 1.6), single(8, None), single(0, 1e300)]
    metrics = summarize(lines, TASK, seed=0)
    assert set(metrics) == {*SINGLE, "parsed", "valid"}
    assert metrics["mae"]["value"] == pytest.approx(13.4 / 4)
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 4)
    assert metrics["within_one"]["value"] == pytest.approx(2 / 4)
    # Ranks of the truths 3, 2, 4, 1 and of what counts 2, 1, 3, 4: 1 - 6 * (1 + 1 + 1 + 9) / (4 * 15) = -0.2.
    assert metrics["srcc"]["value"] == pytest.approx(-0.2)
    # Truths 3, 2, 8, 0 less 3.25 and what counts, 3, 1.6, 5, 10, less 4.9, multiplied: 0.475 + 4.125 + 0.475
    # - 16.575 = -11.5; squares 34.75 and 3.61 + 10.89 + 0.01 + 26.01 = 40.52; sqrt(34.75 * 40.52) = 37.525.
    assert metrics["plcc"]["value"] == pytest.approx(-11.5 / 37.525, abs=1e-4)
    assert metrics["valid"]["value"] == pytest.approx(3 / 4)
    for entry in metrics.values():
        assert entry["n"] == 4
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_the_same_value_everywhere_correlates_with_nothing():
    metrics = summarize([single(truth, 5.0) for truth in (1, 2, 3)], TASK, seed=0)
    assert metrics["srcc"] == metrics["plcc"] == {"value": 0, "low": 0, "high": 0, "n": 3}


def test_the_mean_of_lists_is_by_image_count(collection):
    lines = [predict(rows(collection, *truths), f"<answer>{answer}</answer>") for truths, answer, *_ in LISTS]
    metrics = summarize(lines, TASK, seed=0)
    # The column above: 1 - 1 - 1 + 1 and five zeros over nine lists of two; 1/3 over one list of three.
    assert {key: metrics[key]["value"] for key in ("tau2", "tau2_values", "tau3", "tau3_values")} == (
        pytest.approx({"tau2": 0, "tau2_values": 1 / 9, "tau3": 1 / 3, "tau3_values": 1})
    )
    assert (metrics["tau2"]["n"], metrics["tau3"]["n"], metrics["valid"]["n"]) == (9, 1, 10)
    assert metrics["parsed"]["value"] == pytest.approx(9 / 10)
    assert metrics["valid"]["value"] == pytest.approx(5 / 10)
    assert metrics["tau2"]["low"] < 0 < metrics["tau2"]["high"]


# ── the files ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_perfect_model(collection, tmp_path, script):
    asked = script(right)
    returned = run(collection, tmp_path, position_lists=25)
    metrics, predictions = read(tmp_path)
    assert metrics["arms"]["base"] == returned
    zeros = {"mae", "position_bias2", "position_bias4"}
    assert {key: entry["value"] for key, entry in returned.items()} == pytest.approx(
        {key: float(key not in zeros) for key in METRICS | ROTATED}
    )
    assert "subgroups" not in metrics  # there are no further columns
    assert [metrics[key] for key in ("task", "split", "seed")] == ["toy", "test", 0]
    assert metrics["lists"] == {"2": {"n": 6, "tie_rate": 0}, "4": {"n": 6, "tie_rate": 0}}
    # Every image of the split alone, once; then the lists; then these in their other rotations. Every line is
    # what was asked; lists as they were drawn stand among the rotated ones once more.
    assert sorted(values[0] for values in asked[:8]) == [0, 1, 2, 3, 5, 8, 9, 10]
    assert [len(values) for values in asked] == [1] * 8 + [2] * 6 + [4] * 6 + [2] * 6 + [4] * 18
    assert [line["truth"] for line in predictions if "rotation" not in line] == asked[:20]
    assert [line["truth"] for line in predictions if line.get("rotation")] == asked[20:]
    assert [line["truth"] for line in predictions if line.get("rotation") == 0] == asked[8:20]
    assert all((line["arm"], line["split"]) == ("base", "test") for line in predictions)
    assert all(parse(line["reply"]).values(line["images"]) == line["truth"] for line in predictions)
    assert not list(tmp_path.glob("*.partial"))


def test_arms_see_the_same_lists_and_keep_each_other(collection, tmp_path, script):
    asked = script(right)
    run(collection, tmp_path)
    first = list(asked)
    script(lambda values: "nothing")
    run(collection, tmp_path, arm="rarl")
    assert asked[len(first) :] == first
    metrics, predictions = read(tmp_path)
    assert list(metrics["arms"]) == ["base", "rarl"]
    assert metrics["arms"]["base"]["tau4"]["value"] == 1
    assert metrics["arms"]["rarl"]["tau4"] == {"value": 0, "low": 0, "high": 0, "n": 6}
    assert metrics["arms"]["rarl"]["parsed"]["value"] == 0
    # No value at all: all are the midpoint 5; |0..10 - 5| = 5 4 3 2 0 3 4 5.
    assert metrics["arms"]["rarl"]["mae"]["value"] == pytest.approx(26 / 8)
    assert [line["arm"] for line in predictions] == ["base"] * 20 + ["rarl"] * 20


def test_arms_that_are_evaluated_at_once_keep_each_other(collection, tmp_path, script):
    """The other arm's are being written when this one is done, which then reads them first."""
    script(right)
    run(collection, tmp_path, arm="other")
    others = (tmp_path / "metrics.json").read_bytes()
    (tmp_path / "metrics.json").unlink()
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path, "results"):
            mine = pool.submit(run, collection, tmp_path, arm="rarl")
            time.sleep(0.3)
            assert not mine.done()
            (tmp_path / "metrics.json").write_bytes(others)
        mine.result(timeout=60)
    metrics, predictions = read(tmp_path)
    assert list(metrics["arms"]) == ["other", "rarl"]
    assert {line["arm"] for line in predictions} == {"other", "rarl"}


def test_again_is_the_same(collection, tmp_path, script):
    script(right)
    run(collection, tmp_path)
    run(collection, tmp_path, arm="rarl")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {".results.lock", "lists-test-0.json", "metrics.json", "predictions.jsonl"}
    run(collection, tmp_path, arm="rarl")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_arm_evaluated_again_is_replaced(collection, tmp_path, script):
    script(lambda values: "nothing")
    run(collection, tmp_path)
    script(right)
    run(collection, tmp_path, images=[2])
    metrics, predictions = read(tmp_path)
    assert set(metrics["arms"]["base"]) == {"tau2", "tau2_values", "parsed", "valid"}
    assert len(predictions) == 6


def test_lists_of_another_length_are_added_to_the_saved_ones(collection, tmp_path, script):
    asked = script(right)
    run(collection, tmp_path, images=[2])
    twos = list(asked)
    run(collection, tmp_path, images=[4], arm="rarl")
    asked.clear()
    run(collection, tmp_path, images=[4, 2], arm="sft")
    assert asked[:6] == twos
    saved = json.loads((tmp_path / "lists-test-0.json").read_text())
    assert [len(ids) for ids in saved] == [2] * 6 + [4] * 6
    assert set(read(tmp_path)[0]["lists"]) == {"2", "4"}


def test_line_ends_inside_a_reply_do_no_harm(collection, tmp_path, script):
    script(lambda values: "a\u2028b\x85c\nd\x1c")
    run(collection, tmp_path, images=[2])
    script(right)
    run(collection, tmp_path, images=[2], arm="rarl")
    assert [line["reply"] for line in read(tmp_path)[1]][:6] == ["a\u2028b\x85c\nd\x1c"] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "is of split 'test', not 'validation': evaluate into another folder"),
        ({"seed": 1}, "is of seed 0, not 1"),
        ({"lists": 5}, "lists-test-0.json holds 6 lists of 2 images, not 5"),
        ({"images": []}, "at least 1 image"),
        ({"images": [0]}, "at least 1 image"),
        ({"lists": 0}, "at least 1 image a prompt and 1 list"),
    ],
)
def test_what_does_not_fit_the_folder_is_refused_before_the_model_runs(
    collection, tmp_path, script, options, message
):
    asked = script(right)
    run(collection, tmp_path)
    before, count = read(tmp_path), len(asked)
    with pytest.raises(ConfigError, match=message):
        run(collection, tmp_path, **options)
    assert (read(tmp_path), len(asked)) == (before, count)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"task": "toy", "split": "test", "seed": 0, "lists": {}, "arms": []}'),
        ("predictions.jsonl", "not json\n"),
        ("predictions.jsonl", '{"id": 1}\n'),
        ("lists-test-0.json", '[["no such image"]]'),
    ],
)
def test_a_foreign_file_is_not_overwritten(collection, tmp_path, script, file, text):
    script(right)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=file):
        run(collection, tmp_path)
    assert (tmp_path / file).read_text() == text


def test_a_split_that_is_not_there(collection, tmp_path, script):
    script(right)
    with pytest.raises(DataError, match="train"):
        run(collection, tmp_path, split="train")


def test_progress_counts_to_the_end(collection, tmp_path, script):
    script(right)
    seen = []
    run(collection, tmp_path, progress=lambda done, total: seen.append((done, total)), batch_size=3)
    assert seen == [(done, 20) for done in range(1, 21)]


def test_a_rows_own_rule_is_asked_for(tmp_path, monkeypatch):
    entries = [(f"{rule}{i}", i, image(i), rule) for rule in ("horses", "boats") for i in (1, 2)]
    collection = write_collection(tmp_path / "toy", TASK, {"test": entries})
    asked = []

    def scripted(model, processor, prompts, images, **options):
        asked.extend(prompt[1]["content"][-1]["text"] for prompt in prompts)
        return [""] * len(prompts)

    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", scripted)
    run(collection, tmp_path / "out", images=[1])
    assert ["horses" in text for text in asked] == [True, True, False, False]
    assert not any(TASK.rule in text for text in asked)


# ── rotations ────────────────────────────────────────────────────────────────────────────────────────────


def as_shown(values):
    """A reply that lists the pictures as they stand in the prompt."""
    return reference_reply(list(range(len(values))), TASK.step)


def rotated(lines):
    return [line for line in lines if "rotation" in line]


def test_the_first_lists_are_asked_in_every_rotation(collection, tmp_path, script):
    asked = script(right)
    run(collection, tmp_path, images=(2, 4), position_lists=2)
    lines = read(tmp_path)[1]
    drawn = asked[:12]
    a, b, c, d = drawn[6]
    assert asked[12:14] == [drawn[0][::-1], drawn[1][::-1]]
    assert asked[14:17] == [[b, c, d, a], [c, d, a, b], [d, a, b, c]]
    assert len(asked) == 12 + 2 * 1 + 2 * 3
    keys = [(line["images"], line["list"], line["rotation"]) for line in rotated(lines)]
    assert keys == [(count, number, turn) for count in (2, 4) for number in (0, 1) for turn in range(count)]
    # Every image of a list once at every place.
    for line in rotated(lines):
        ids = lines[6 * (line["images"] == 4) + line["list"]]["ids"]
        turn = line["rotation"]
        assert line["ids"] == ids[turn:] + ids[:turn]
    for count in (2, 4):
        for number in (0, 1):
            of_list = [x["ids"] for x in rotated(lines) if (x["images"], x["list"]) == (count, number)]
            assert all(len({ids[place] for ids in of_list}) == count for place in range(count))


def test_a_list_as_it_was_drawn_is_not_asked_again(collection, tmp_path, script):
    replies = iter(range(1000))
    script(lambda values: f"reply {next(replies)}")
    run(collection, tmp_path, images=[2], lists=3, position_lists=2)
    lines = read(tmp_path)[1]
    assert [line["reply"] for line in lines] == [f"reply {n}" for n in (0, 1, 2, 0, 3, 1, 4)]
    for plain, again in ((lines[0], lines[3]), (lines[1], lines[5])):
        assert {**plain, "list": again["list"], "rotation": 0} == again


def test_who_lists_the_pictures_as_shown_is_found_out(collection, tmp_path, script):
    script(as_shown)
    metrics = run(collection, tmp_path, position_lists=25)
    found = {key: metrics[key]["value"] for key in ROTATED}
    expected = {"agreement2": -1, "position_bias2": 1, "agreement4": -1 / 9, "position_bias4": 1}
    assert found == pytest.approx(expected)
    assert all(metrics[key]["n"] == 6 for key in ROTATED)


def test_without_a_valid_reply_there_is_no_position_bias(collection, tmp_path, script):
    script(lambda values: "nothing")
    metrics = run(collection, tmp_path, position_lists=25)
    assert set(metrics) == METRICS | {"agreement2", "agreement4"}
    assert metrics["agreement4"] == {"value": 0, "low": 0, "high": 0, "n": 6}


def test_rotations_change_no_other_number(collection, tmp_path, script):
    """Valid as drawn, and nothing in any other rotation: no other number sees it."""
    drawn = script(right)
    plain = run(collection, tmp_path / "a")
    known = [tuple(values) for values in drawn]
    script(lambda values: right(values) if tuple(values) in known else "nothing")
    with_rotations = run(collection, tmp_path / "b", position_lists=3)
    assert {key: with_rotations[key] for key in plain} == plain
    assert set(with_rotations) - set(plain) <= ROTATED
    first, second = read(tmp_path / "a"), read(tmp_path / "b")
    assert second[0]["lists"] == first[0]["lists"]
    assert second[1][:20] == first[1]
    assert all("rotation" in line for line in second[1][20:])


def test_no_batch_holds_both_lists_and_rotations(collection, tmp_path, script, monkeypatch):
    """A reply may depend on what stands beside it in a batch; that of a list does not on rotations."""
    script(right)
    scripted, sizes = rarl.evaluation.evaluate.greedy_replies, []

    def counted(model, processor, prompts, images, **options):
        sizes.append(len(prompts))
        return scripted(model, processor, prompts, images, **options)

    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", counted)
    run(collection, tmp_path, images=[2], position_lists=6, batch_size=4)
    assert sizes == [4, 2, 4, 2]


def test_progress_counts_rotations_too(collection, tmp_path, script):
    script(right)
    seen = []
    run(collection, tmp_path, position_lists=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 28) for done in range(1, 29)]  # 20, and 2 * 1 + 2 * 3


# ── subgroups ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def divided(tmp_path):
    """0, 2, 4, 6 are taken by camera 9 and outdoors, 1, 3, 5 by camera 10, 7 by none; 1, 3, 5, 7 indoors."""
    collection = write_collection(
        tmp_path / "divided", TASK, {"test": [(f"i{value}", value, image(value)) for value in range(8)]}
    )
    file = collection.root / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["indoors"] = row["value"] % 2 == 1
        row["camera"] = None if row["value"] == 7 else 10 if row["indoors"] else 9
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_collection(collection.root)


def two_more_indoors(values):
    """Right outdoors; indoors 1, 3, 5, 7 are taken for 2, 5, 8, and nothing."""
    replies = {1: 2, 3: 5, 5: 8}
    if len(values) > 1 or values[0] % 2 == 0:
        return right(values)
    return right([replies[values[0]]]) if values[0] in replies else "nothing"


def test_single_images_are_measured_for_each_value_of_a_column(divided, tmp_path, script):
    script(two_more_indoors)
    run(divided, tmp_path / "out", by=["camera", "indoors"])
    groups = read(tmp_path / "out")[0]["subgroups"]["base"]
    # Numbers by size, and what has no value last.
    assert {column: list(values) for column, values in groups.items()} == {
        "camera": ["9", "10", "(none)"],
        "indoors": ["false", "true"],
    }
    nine, ten, none = groups["camera"].values()
    assert {key: entry["value"] for key, entry in nine.items()} == pytest.approx(
        {"mae": 0, "accuracy": 1, "within_one": 1, "srcc": 1, "plcc": 1}
    )
    # Errors 1, 2 and 3.
    assert {key: entry["value"] for key, entry in ten.items()} == pytest.approx(
        {"mae": 2, "accuracy": 0, "within_one": 1 / 3, "srcc": 1, "plcc": 1}
    )
    assert {entry["n"] for entry in nine.values()} == {4}
    assert ten["mae"]["n"] == 3
    assert 1 <= ten["mae"]["low"] < 2 < ten["mae"]["high"] <= 3
    # One image, and no value for it: the midpoint 5 where 7 is true. One truth correlates with nothing.
    two, zero = ({"value": value, "low": value, "high": value, "n": 1} for value in (2, 0))
    assert none == {"mae": two, "accuracy": zero, "within_one": zero}
    assert groups["indoors"]["true"]["mae"]["value"] == (1 + 2 + 3 + 2) / 4


def test_columns_with_a_few_values_are_found(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out")
    groups = read(tmp_path / "out")[0]["subgroups"]["base"]
    assert groups.keys() == {"indoors"}  # one of eight has no camera: fewer than nine rows of ten


def test_none_are_divided_where_none_is_named(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out", by=())
    assert "subgroups" not in read(tmp_path / "out")[0]


def test_lists_have_no_subgroups(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out", images=[2])
    assert "subgroups" not in read(tmp_path / "out")[0]


def test_arms_keep_each_others_subgroups(divided, tmp_path, script):
    script(right)
    run(divided, tmp_path / "out")
    before = read(tmp_path / "out")[0]["subgroups"]
    script(two_more_indoors)
    run(divided, tmp_path / "out", arm="rarl", by=["camera"])
    groups = read(tmp_path / "out")[0]["subgroups"]
    assert groups["base"] == before["base"]
    assert groups["rarl"].keys() == {"camera"}
    run(divided, tmp_path / "out", arm="rarl", by=())
    assert read(tmp_path / "out")[0]["subgroups"] == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": ["colour"]}, DataError, "no column 'colour'; there are indoors, camera"),
        ({"by": ["camera"], "images": [2]}, ConfigError, "divided by camera, and none is asked for"),
        ({"position_lists": -1}, ConfigError, "position_lists must be 0 or more, not -1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_runs(
    divided, tmp_path, script, options, error, message
):
    asked = script(right)
    with pytest.raises(error, match=message):
        run(divided, tmp_path / "out", **options)
    assert not asked
    assert not (tmp_path / "out").exists()


# ── where only orders are known ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ordered(tmp_path):
    """Two orders of the brightness that `script` sees, no image in both: 0 < 2 < 4 < 6, 1 < 3 < 5 < 7."""
    collection = write_collection(
        tmp_path / "ordered", TASK, {"test": [(f"i{value}", value, image(value)) for value in range(8)]}
    )
    file = collection.root / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: row[k] for k in ("file_name", "id")}) + "\n" for row in rows))
    orders = [[f"i{value}" for value in values] for values in ((0, 2, 4, 6), (1, 3, 5, 7))]
    (file.parent / "orders.jsonl").write_text("".join(json.dumps({"ids": ids}) + "\n" for ids in orders))
    return load_collection(collection.root)


def test_single_images_of_orders_are_refused_with_a_mend(ordered, tmp_path, script):
    asked = script(right)
    with pytest.raises(ConfigError, match=r"test knows orders alone, .* lists, as with --images 2,4"):
        run(ordered, tmp_path / "out")
    assert not asked
    assert not (tmp_path / "out").exists()


def test_lists_are_of_one_order(ordered, tmp_path, script):
    asked = script(right)
    metrics = run(ordered, tmp_path / "out", images=(2, 4))
    assert len(asked) == 12
    assert all(len({value % 2 for value in values}) == 1 for values in asked)
    assert {values[0] % 2 for values in asked} == {0, 1}
    assert metrics.keys() == {"tau2", "tau2_values", "tau4", "tau4_values", "parsed", "valid"}
    assert {entry["value"] for entry in metrics.values()} == {1}
    assert read(tmp_path / "out")[0]["lists"] == {"2": {"n": 6, "tie_rate": 0}, "4": {"n": 6, "tie_rate": 0}}


def test_tau_of_lists_of_an_order(ordered, tmp_path, script):
    """The two greatest of four exchanged, with the values following the list: five of six pairs are right, so
    (5 - 1)/6. All listed right with one value for all: by values every pair counts 0."""

    def reply(values):
        ascending = sorted(range(4), key=values.__getitem__)
        if values[0] % 2:
            listed, given = ascending, [4, 4, 4, 4]
        else:
            listed, given = [*ascending[:2], ascending[3], ascending[2]], [1, 2, 3, 4]
        entries = [{"image_id": i + 1, "value": v} for i, v in zip(listed, given, strict=True)]
        return f"<answer>{json.dumps(entries)}</answer>"

    asked = script(reply)
    run(ordered, tmp_path / "out", images=[4])
    lines = read(tmp_path / "out")[1]
    assert len(lines) == 6
    for values, line in zip(asked, lines, strict=True):
        expected = (1, 0) if values[0] % 2 else (2 / 3, 2 / 3)
        assert (line["tau"], line["tau_values"]) == pytest.approx(expected)
        # Places in the order, not values: 0 < 2 < 4 < 6 are 0, 1, 2, 3.
        assert line["truth"] == [value // 2 for value in values]


def test_rotated_lists_of_an_order(ordered, tmp_path, script):
    script(lambda values: right(values) if len(values) == 2 else as_shown(values))
    metrics = run(ordered, tmp_path / "out", images=(2, 4), position_lists=3)
    assert {key: metrics[key]["value"] for key in ROTATED} == pytest.approx(
        {"agreement2": 1, "position_bias2": 0, "agreement4": -1 / 9, "position_bias4": 1}
    )
    for line in rotated(read(tmp_path / "out")[1]):
        if line["images"] == 2:
            assert line["tau"] == 1  # the truths were turned with the pictures


def test_a_second_arm_has_the_same_lists_of_orders(ordered, tmp_path, script):
    asked = script(right)
    run(ordered, tmp_path / "out", images=(2, 4))
    first = list(asked)
    run(load_collection(ordered.root), tmp_path / "out", images=(2, 4), arm="rarl")
    assert asked[len(first) :] == first
    metrics, lines = read(tmp_path / "out")
    assert metrics["arms"]["rarl"] == metrics["arms"]["base"]
    assert [line["truth"] for line in lines[:12]] == [line["truth"] for line in lines[12:]]


def test_a_real_model(collection, tmp_path):
    from rarl.models.tiny import build_model, build_processor

    processor = build_processor(TASK)
    model = build_model(processor, seed=0)
    options = {"images": (1, 2), "lists": 3, "max_new_tokens": 4, "position_lists": 2}
    first = evaluate(model, processor, collection, tmp_path / "a", arm="base", batch_size=2, **options)
    again = evaluate(model, processor, collection, tmp_path / "b", arm="base", batch_size=64, **options)
    assert first == again
    # It has learned nothing: nothing parses, and every image counts as the midpoint.
    assert first["valid"]["value"] == 0
    assert first["mae"]["value"] == pytest.approx(26 / 8)
    assert all(np.isfinite(list(entry.values())).all() for entry in first.values())
