"""What evaluation asks and writes: the files and how arms share them, and one pass of a real, untrained tiny
model."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import rarl.evaluation.evaluate
import rarl.evaluation.expected
from helpers.asking import MEASURED, ROTATED, TASK, image, read, right, run
from rarl.data.collection import load_collection
from rarl.data.groups import draw_groups, save_groups
from rarl.data.writing import write_collection
from rarl.errors import ConfigError, DataError
from rarl.evaluation.evaluate import evaluate
from rarl.files import locked
from rarl.method.replies import parse
from rarl.scoring.distribution import Distributions
from rarl.scoring.values import Scored


def test_a_perfect_model(collection, tmp_path, script):
    asked = script(right)
    returned = run(collection, tmp_path, position_lists=25)
    metrics, predictions = read(tmp_path)
    assert metrics["arms"]["base"] == returned
    zeros = {"mae", "mae_lenient", "position_bias2", "position_bias4"}
    assert {key: entry["value"] for key, entry in returned.items()} == pytest.approx(
        {key: float(key not in zeros) for key in MEASURED | ROTATED}
    )
    assert "subgroups" not in metrics  # there are no further columns
    assert [metrics[key] for key in ("task", "split", "seed")] == ["toy", "test", 0]
    # Of eight images, no image in two lists of one length.
    assert metrics["lists"] == {"2": {"n": 4, "tie_rate": 0}, "4": {"n": 2, "tie_rate": 0}}
    for lists in (asked[8:12], asked[12:14]):
        assert sorted(value for values in lists for value in values) == [0, 1, 2, 3, 5, 8, 9, 10]
    # Every image of the split alone, once; then the lists; then these in their other rotations. Every line is
    # what was asked; lists as they were drawn stand among the rotated ones once more.
    assert sorted(values[0] for values in asked[:8]) == [0, 1, 2, 3, 5, 8, 9, 10]
    assert [len(values) for values in asked] == [1] * 8 + [2] * 4 + [4] * 2 + [2] * 4 + [4] * 6
    assert [line["truth"] for line in predictions if "rotation" not in line] == asked[:14]
    assert [line["truth"] for line in predictions if line.get("rotation")] == asked[14:]
    assert [line["truth"] for line in predictions if line.get("rotation") == 0] == asked[8:14]
    assert all((line["arm"], line["split"]) == ("base", "test") for line in predictions)
    assert all(parse(line["reply"]).values(line["images"]) == line["truth"] for line in predictions)
    assert not list(tmp_path.glob("*.partial"))


def test_an_image_that_the_processor_refuses_alone_has_no_value(
    collection, tmp_path, script, tiny_processor, caplog
):
    asked = script(right)
    data = load_collection(shutil.copytree(collection.root, tmp_path / "data"))
    bad = data.split("test")[3]
    bad.path.unlink()  # it may be a link
    Image.new("RGB", (1000, 4)).save(bad.path)

    def measured(out):
        evaluate(
            None, tiny_processor, data, out, arm="base", images=(1, 2, 4), lists=6, position_lists=2, by=()
        )
        return read(out)

    metrics, lines = measured(tmp_path / "new")
    assert f"{bad.path}: an image of 1000 x 4 pixels" in caplog.text
    alone = {line["ids"][0]: line["values"][0] for line in lines if line["images"] == 1}
    assert alone == {row.id: None if row is bad else row.value for row in data.split("test")}
    # Predicted is the midpoint, 5, where the truth is 3; seven images make three lists of 2 and one of 4.
    assert metrics["arms"]["base"]["mae"]["value"] == pytest.approx(2 / 8)
    assert {count: entry["n"] for count, entry in metrics["lists"].items()} == {"2": 3, "4": 1}
    assert all(bad.id not in line["ids"] for line in lines if line["images"] > 1)
    assert metrics["arms"]["base"]["tau2"]["value"] == metrics["arms"]["base"]["tau4"]["value"] == 1
    assert all(bad.value not in values for values in asked)
    # A folder that has lists of before goes on with them: the one with the image has no reply.
    save_groups(draw_groups(data.split("test"), 2, 6, 0), tmp_path / "old/lists-test-0.json")
    _, lines = measured(tmp_path / "old")
    with_it = [line for line in lines if line["images"] == 2 and bad.id in line["ids"]]
    assert with_it
    assert all((line["reply"], line["tau"]) == ("", 0) for line in with_it)


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
    assert metrics["arms"]["rarl"]["tau4"] == {"value": 0, "low": 0, "high": 0, "n": 2}
    assert metrics["arms"]["rarl"]["parsed"]["value"] == 0
    # No value at all: all are the midpoint 5; |0..10 - 5| = 5 4 3 2 0 3 4 5.
    assert metrics["arms"]["rarl"]["mae"]["value"] == pytest.approx(26 / 8)
    assert [line["arm"] for line in predictions] == ["base"] * 14 + ["rarl"] * 14


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


def test_both_readings_of_a_model_that_knows_no_format(collection, tmp_path, script):
    """Right answers in a fence, none of which reads strictly: one number is format alone, the other skill."""
    script(lambda values: right(values).replace("<answer>", "```json\n").replace("</answer>", "\n```"))
    metrics = run(collection, tmp_path, images=(1, 2), position_lists=2)
    found = {key: entry["value"] for key, entry in metrics.items()}
    assert [found[key] for key in ("accuracy", "srcc", "tau2", "parsed", "valid")] == [0] * 5
    names = ("accuracy_lenient", "srcc_lenient", "tau2_lenient", "parsed_lenient", "valid_lenient")
    assert [found[key] for key in names] == [1] * 5
    # The truths 0, 1, 2, 3, 5, 8, 9, 10 are 5, 4, 3, 2, 0, 3, 4 and 5 from the midpoint.
    assert (found["mae"], found["mae_lenient"]) == (26 / 8, 0)
    assert (metrics["mae_lenient"]["n"], metrics["tau2_lenient"]["n"]) == (8, 4)
    assert found["agreement2"] == 0  # rotated lists are read strictly
    assert set(list(metrics)[-6:]) == {"mae_lenient", *names}
    lines = read(tmp_path)[1]
    assert all(list(line)[-1] == "lenient" and line["lenient"]["valid"] for line in lines)
    assert lines[0]["values"] == [None]
    assert lines[0]["lenient"]["values"] == lines[0]["truth"]


def test_an_arm_evaluated_again_is_replaced(collection, tmp_path, script):
    script(lambda values: "nothing")
    run(collection, tmp_path)
    script(right)
    run(collection, tmp_path, images=[2])
    metrics, predictions = read(tmp_path)
    wanted = {"tau2", "tau2_values", "parsed", "valid", "tau2_lenient", "parsed_lenient", "valid_lenient"}
    assert set(metrics["arms"]["base"]) == wanted
    assert len(predictions) == 4


def test_lists_of_another_length_are_added_to_the_saved_ones(collection, tmp_path, script):
    asked = script(right)
    run(collection, tmp_path, images=[2])
    twos = list(asked)
    run(collection, tmp_path, images=[4], arm="rarl")
    asked.clear()
    run(collection, tmp_path, images=[4, 2], arm="sft")
    assert asked[:4] == twos
    saved = json.loads((tmp_path / "lists-test-0.json").read_text())
    assert [len(ids) for ids in saved] == [2] * 4 + [4] * 2
    assert set(read(tmp_path)[0]["lists"]) == {"2", "4"}


def test_line_ends_inside_a_reply_do_no_harm(collection, tmp_path, script):
    script(lambda values: "a\u2028b\x85c\nd\x1c")
    run(collection, tmp_path, images=[2])
    script(right)
    run(collection, tmp_path, images=[2], arm="rarl")
    assert [line["reply"] for line in read(tmp_path)[1]][:4] == ["a\u2028b\x85c\nd\x1c"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "is of split 'test', not 'validation': evaluate into another folder"),
        ({"seed": 1}, "is of seed 0, not 1"),
        ({"lists": 3}, "lists-test-0.json holds 4 lists of 2 images, not 3: ask for as many"),
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
    assert seen == [(done, 14) for done in range(1, 15)]


def test_a_rows_own_rule_is_asked_for(tmp_path, monkeypatch):
    entries = [(f"{rule}{i}", i, image(i), rule) for rule in ("horses", "boats") for i in (1, 2)]
    collection = write_collection(tmp_path / "toy", TASK, {"test": entries})
    asked = []

    def scripted(model, processor, prompts, images, **options):
        asked.extend(prompt[1]["content"][-1]["text"] for prompt in prompts)
        return [""] * len(prompts)

    def scored(model, processor, images, task, scoring, *, rule, replies, **options):
        asked.append(rule)
        flat = np.full((len(images), 11), 1 / 11)
        return Scored([5.0] * len(images), None, Distributions(np.arange(11.0), flat))

    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", scripted)
    monkeypatch.setattr(rarl.evaluation.expected, "values_of", scored)
    run(collection, tmp_path / "out", images=[1])
    assert ["horses" in text for text in asked] == [True, True, False, False, True, False]
    assert not any(TASK.rule in text for text in asked)


def test_a_real_model(collection, tmp_path):
    from rarl.models.tiny import build_model, build_processor

    processor = build_processor(TASK)
    model = build_model(processor, seed=0)
    options = {"images": (1, 2), "lists": 3, "max_new_tokens": 4, "position_lists": 2}
    first = evaluate(model, processor, collection, tmp_path / "a", arm="base", batch_size=2, **options)
    again = evaluate(model, processor, collection, tmp_path / "b", arm="base", batch_size=64, **options)
    assert first.keys() == again.keys() >= {"mae", "mae_mean", "srcc_mean", "ece", "coverage", "tau2_mean"}
    for name, entry in first.items():
        # Sums of floats depend on the batch; the replies do not.
        read_off = name in ("mae_mean", "mae_median", "srcc_mean", "ece", "coverage", "tau2_mean")
        assert entry == pytest.approx(again[name], abs=1e-4 if read_off else 0), name
    # It has learned nothing: nothing parses, and every image counts as the midpoint.
    assert first["valid"]["value"] == 0
    assert first["mae"]["value"] == pytest.approx(26 / 8)
    assert all(np.isfinite(list(entry.values())).all() for entry in first.values())


# ── lists without a common image ─────────────────────────────────────────────────────────────────────────


def test_the_number_of_lists_is_a_maximum(collection, tmp_path, script):
    """Eight images are four pairs, whether 4 or 200 are asked for; of three, an image is in none of two."""
    script(right)
    few = run(collection, tmp_path / "few", images=[2], lists=3)
    assert few["tau2"]["n"] == read(tmp_path / "few")[0]["lists"]["2"]["n"] == 3
    run(collection, tmp_path / "many", images=[2], lists=200)
    run(collection, tmp_path / "all", images=[2], lists=4)
    assert read(tmp_path / "many") == read(tmp_path / "all")
    # Each goes on with the lists of the other: both mean all that there are.
    run(collection, tmp_path / "many", images=[2], lists=4, arm="rarl")
    run(collection, tmp_path / "all", images=[2], lists=200, arm="rarl")
    assert read(tmp_path / "many") == read(tmp_path / "all")


def test_a_folder_of_an_earlier_version_keeps_its_lists_and_says_that_they_share_images(
    collection, tmp_path, script
):
    asked = script(right)
    drawn = draw_groups(collection.split("test"), 2, 6, 0)
    save_groups(drawn, tmp_path / "lists-test-0.json")
    metrics = run(collection, tmp_path, images=[2], lists=6)
    assert asked == [group.values for group in drawn]
    assert metrics["tau2"]["n"] == 6
    assert read(tmp_path)[0]["lists"] == {"2": {"n": 6, "tie_rate": 0, "share_images": True}}


def test_lists_that_are_fewer_than_there_could_be_are_refused(collection, tmp_path, script):
    script(right)
    run(collection, tmp_path, images=[2], lists=3)
    message = "holds 3 lists of 2 images, not 4, the most without an image in two: ask for as many"
    with pytest.raises(ConfigError, match=message):
        run(collection, tmp_path, images=[2], lists=200)
