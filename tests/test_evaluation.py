"""What evaluation measures and writes: the arithmetic by hand on scripted replies, the files and how arms
share them, and one pass of a real, untrained tiny model."""

import json

import numpy as np
import pytest
from PIL import Image

import rarl.evaluation
from rarl.data.collection import load_collection
from rarl.data.groups import Group
from rarl.data.writing import write_collection
from rarl.errors import ConfigError, DataError
from rarl.evaluation import evaluate, predict, summarize
from rarl.replies import parse, reference_reply
from rarl.tasks import Task

TASK = Task("toy", "brightness", low=0, high=10, step=1, delta=2)
METRICS = {"mae", "accuracy", "srcc", "tau2", "tau2_values", "tau4", "tau4_values", "parsed", "valid"}


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

        monkeypatch.setattr(rarl.evaluation, "greedy_replies", scripted)
        return asked

    return use


def right(values):
    return reference_reply(values, TASK.step)


def run(collection, out, arm="base", images=(1, 2, 4), lists=6, **options):
    return evaluate(None, None, collection, out, arm=arm, images=images, lists=lists, **options)


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
    assert set(metrics) == {"mae", "accuracy", "srcc", "parsed", "valid"}
    assert metrics["mae"]["value"] == pytest.approx(13.4 / 4)
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 4)
    # Ranks of the truths 3, 2, 4, 1 and of what counts 2, 1, 3, 4: 1 - 6 * (1 + 1 + 1 + 9) / (4 * 15) = -0.2.
    assert metrics["srcc"]["value"] == pytest.approx(-0.2)
    assert metrics["valid"]["value"] == pytest.approx(3 / 4)
    for entry in metrics.values():
        assert entry["n"] == 4
        assert entry["low"] <= entry["value"] <= entry["high"]


def test_the_same_value_everywhere_correlates_with_nothing():
    metrics = summarize([single(truth, 5.0) for truth in (1, 2, 3)], TASK, seed=0)
    assert metrics["srcc"] == {"value": 0, "low": 0, "high": 0, "n": 3}


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
    returned = run(collection, tmp_path)
    metrics, predictions = read(tmp_path)
    assert metrics["arms"]["base"] == returned
    assert set(returned) == METRICS
    assert {key: entry["value"] for key, entry in returned.items()} == {key: key != "mae" for key in METRICS}
    assert [metrics[key] for key in ("task", "split", "seed")] == ["toy", "test", 0]
    assert metrics["lists"] == {"2": {"n": 6, "tie_rate": 0}, "4": {"n": 6, "tie_rate": 0}}
    # Every image of the split alone, once; then the lists; every line is what was asked.
    assert sorted(values[0] for values in asked[:8]) == [0, 1, 2, 3, 5, 8, 9, 10]
    assert [len(values) for values in asked] == [1] * 8 + [2] * 6 + [4] * 6
    assert [line["truth"] for line in predictions] == asked
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


def test_again_is_the_same(collection, tmp_path, script):
    script(right)
    run(collection, tmp_path)
    run(collection, tmp_path, arm="rarl")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"lists-test-0.json", "metrics.json", "predictions.jsonl"}
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

    monkeypatch.setattr(rarl.evaluation, "greedy_replies", scripted)
    run(collection, tmp_path / "out", images=[1])
    assert ["horses" in text for text in asked] == [True, True, False, False]
    assert not any(TASK.rule in text for text in asked)


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
    options = {"images": (1, 2), "lists": 3, "max_new_tokens": 4}
    first = evaluate(model, processor, collection, tmp_path / "a", arm="base", batch_size=2, **options)
    again = evaluate(model, processor, collection, tmp_path / "b", arm="base", batch_size=64, **options)
    assert first == again
    # It has learned nothing: nothing parses, and every image counts as the midpoint.
    assert first["valid"]["value"] == 0
    assert first["mae"]["value"] == pytest.approx(26 / 8)
    assert all(np.isfinite(list(entry.values())).all() for entry in first.values())
