"""What is read of a run and of a grid's cells: whose line is whose, and after how many steps an arm began."""

import json
from dataclasses import replace

import pytest

from helpers.runs import make_cell, make_collection, make_run, metrics_of, numbers, predictions, write_lines
from rarl.errors import DataError
from rarl.evaluation.results import load_metrics, write_metrics
from rarl.report.record import load_record, load_records


def test_a_run(tmp_path):
    record = load_record(make_run(tmp_path / "run"))
    assert (record.task.name, record.model, record.missing) == ("shades", "grey-eyes", [])
    assert list(record.arms) == ["base", "sft", "regression", "rarl"]
    rarl = record.arms["rarl"]
    assert record.main is rarl
    assert (len(rarl.predictions), len(rarl.rotated)) == (16 + 3 + 5, 2 * 4)
    assert {line.arm for line in [*rarl.predictions, *rarl.rotated]} == {"rarl"}
    assert [line["step"] for line in rarl.groups] == [5, 10, 20, 40]
    assert rarl.training["device"] == "cpu"
    assert rarl.subgroups["light"]["sun"]["mae"]["value"] == 2
    # Of the splits that a report shows images of.
    assert len(record.images) == 32
    assert record.images["test-3"] == tmp_path / "run/data/test/test-3.png"


def test_an_arm_begins_after_the_steps_of_the_stages_before_it(tmp_path):
    """Stages of 20 and 40 steps; SFT begins with the base."""
    record = load_record(make_run(tmp_path / "run"))
    assert {name: arm.since for name, arm in record.arms.items()} == {
        "base": 0,
        "sft": 0,
        "regression": 0,
        "rarl": 20,
    }


def test_of_a_cell_the_last_stage_is_the_arm(tmp_path):
    data = make_collection(tmp_path / "data").root
    arms = ("base", "regression", "rarl_no_mutation", "rarl")
    record = load_records([make_cell(tmp_path, arm, data) for arm in arms])
    assert list(record.arms) == list(arms)
    assert [arm.since for arm in record.arms.values()] == [0, 0, 20, 20]
    assert [name for name, _ in record.configs] == list(arms)
    assert len(record.arms["rarl"].predictions) == 24


def test_the_first_run_that_has_an_arm_is_taken(tmp_path):
    first, second = make_run(tmp_path / "a", ["base"]), make_run(tmp_path / "b", ["base", "rarl"])
    write_metrics(second, metrics_of({"base": numbers(9), "rarl": numbers(0.5)}))
    record = load_records([first, second])
    assert [arm.metrics["mae"]["value"] for arm in record.arms.values()] == [1.5, 0.5]


def test_the_last_arm_is_the_main_one_where_there_is_no_rarl(tmp_path):
    assert load_record(make_run(tmp_path / "run", ["base", "sft", "joint"])).main.name == "joint"


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\r"])
def test_a_mark_in_a_reply_that_some_take_for_a_line_end_is_none(tmp_path, mark):
    run = make_run(tmp_path / "run", ["base"])
    line = json.dumps(replace(predictions("base")[0], reply=f"a{mark}b").to_json(), ensure_ascii=False)
    (run / "predictions.jsonl").write_text(line + "\n", encoding="utf-8")
    (read,) = load_record(run).arms["base"].predictions
    assert read.reply == f"a{mark}b"


def test_a_line_that_is_no_object_is_named(tmp_path):
    run = make_run(tmp_path / "run", ["base"])
    write_lines(run / "predictions.jsonl", [predictions("base")[0], [1, 2]])
    with pytest.raises(DataError, match=r"predictions\.jsonl line 2: must be an object, not \[1, 2\]"):
        load_record(run)


def test_images_are_found_beside_a_run_that_was_moved(tmp_path):
    """The demo's collection is in the run's folder; its configuration says where that was."""
    run = make_run(tmp_path / "run", ["base"])
    run.rename(tmp_path / "moved")
    assert len(load_record(tmp_path / "moved").images) == 32


def test_a_collection_that_cannot_be_read_is_as_one_that_is_gone(tmp_path):
    run = make_run(tmp_path / "run", ["base"])
    (run / "data/task.yaml").write_text("name: 3\n")
    record = load_record(run)
    assert record.images == {}
    assert "The collection is not where it was: its images are not shown." in record.missing


def test_arms_are_those_of_the_metrics(tmp_path):
    """Lines of an arm that was dropped from them are nobody's."""
    run = make_run(tmp_path / "run")
    metrics = load_metrics(run / "metrics.json")
    del metrics["arms"]["sft"]
    write_metrics(run, metrics)
    record = load_record(run)
    assert list(record.arms) == ["base", "regression", "rarl"]
    assert list(record.metrics["arms"]) == ["base", "regression", "rarl"]


def test_a_line_that_is_no_prediction_is_named(tmp_path):
    run = make_run(tmp_path / "run", ["base"])
    write_lines(run / "predictions.jsonl", [predictions("base")[0], {"arm": "base", "images": 1}])
    with pytest.raises(DataError, match=r"predictions\.jsonl line 2 is not a prediction: it has no split"):
        load_record(run)


@pytest.mark.parametrize("rest", ['{"step": 5', '{"step": 5}'])
def test_a_last_line_of_a_log_without_an_end_is_left_out(tmp_path, rest):
    run = make_run(tmp_path / "run", ["base", "rarl"])
    (run / "rarl/log.jsonl").write_text('{"step": 1}\n\n' + rest)
    arm = load_record(run).arms["rarl"]
    assert (arm.log, arm.cut) == ([{"step": 1}], True)


@pytest.mark.parametrize("rest", ["", '{"step": 5', '{"step": 5}'])
def test_another_line_of_a_log_that_is_broken_is_named(tmp_path, rest):
    run = make_run(tmp_path / "run", ["base", "rarl"])
    (run / "rarl/log.jsonl").write_text('{"step": 1}\n{"step"\n' + rest)
    with pytest.raises(DataError, match=r"log\.jsonl line 2: not JSON .*was it changed\?"):
        load_record(run)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[3]", r"must be an object, not \[3\]")])
def test_a_training_json_that_is_none_is_named(tmp_path, text, message):
    run = make_run(tmp_path / "run", ["base", "rarl"])
    (run / "rarl/training.json").write_text(text)
    with pytest.raises(DataError, match=rf"training\.json: {message}"):
        load_record(run)
