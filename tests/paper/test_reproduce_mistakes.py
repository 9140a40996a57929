"""What `rarl reproduce` says to mistakes, in one line, and how to go on after an interruption."""

import shlex

import pytest

from helpers.reproducing import command

MISTAKES = [
    (["table7"], "table5, table6, and ours is mutation; did you"),
    (["Table6"], "unknown table 'Table6'"),
    (["results"], "unknown table 'results'"),
    (["table6", "--seeds", "one"], "--seeds one: must be whole numbers from 0"),
    (["table6", "--seeds", "0,"], "--seeds 0,: must be whole numbers"),
    (["table6", "--seeds", ""], "--seeds '': must be whole numbers from 0 to 4294967295, such as 0,1,2"),
    (["table6", "--seeds", "-1"], "--seeds -1: must be whole numbers"),
    (["table6", "--seeds", "0.5"], "--seeds 0.5"),
    (["table6", "--seeds", "4294967296"], "--seeds 4294967296: must be whole numbers from 0 to 4294967295"),
    (["table6", "--shard", "0/2"], "--shard 0/2: must be i/n with i from 1 to n"),
    (["table6", "--shard", "3/2"], "--shard 3/2"),
    (["table6", "--shard", "2"], "--shard 2:"),
    (["table6", "--shard", "1/0"], "--shard 1/0"),
    (["table6", "--arms", "rlhf"], "unknown arm 'rlhf': the arms are base, sft"),
    (["table6", "--arms", ","], "--arms ',': must be one name or more"),
    (
        ["table6", "--model", "Qwen/Qwen2.5-VL-3B-Instruct"],
        "--config: which stages and trainer's settings has",
    ),
    (["table6", "--task", "years"], "unknown task 'years'"),
    (["table6", "--task", "age"], "task 'age' needs a collection's folder"),
    (["table6", "--config", "nowhere.yaml"], "nowhere.yaml"),
    (["table6", "--set", "stages.1.mutation=null"], "stages[1].mutation: missing; the arm rarl needs it"),
    (
        ["table6", "--set", "seed=3"],
        "cells of a grid have their own; give the seeds by --seeds",
    ),
    (["table6", "--set", "output=runs/x"], "--set output=runs/x: the cells of a grid have their own; give"),
    (["table6", "--set", "sft.reasoning=empty"], "--arms sft_answer_only"),
    (["table6", "--set", "stages.0.start=sft"], "stages[0].start: each arm says what its stages start from"),
    (["table6", "--set", "trainer.learning_rat=1"], "did you mean 'learning_rate'?"),
    (["table6", "--set", "evaluation.split=held-out"], "held-out"),
    (["table6", "--set", "validation.split=held-out"], "held-out"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(given) for given, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, words, tmp_path, monkeypatch, nothing_runs):
    monkeypatch.chdir(tmp_path)
    code, text, err = command(*arguments)
    assert (code, text) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert words in err
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_collection_of_another_task_is_one_line(small, tmp_path, nothing_runs):
    code, text, err = command("table6", "--task", "age", "--data", small, "--out", tmp_path / "grid")
    assert (code, text, len(err.splitlines())) == (2, "", 1)
    assert "is of 'digits', not 'age'" in err
    assert "--task" in err
    assert not (tmp_path / "grid").exists()


def test_a_collection_that_is_none_is_one_line(tmp_path):
    code, text, err = command("table6", "--data", tmp_path / "nowhere", "--out", tmp_path / "grid")
    assert (text, len(err.splitlines())) == ("", 1)
    assert code in (1, 2)
    assert f"{tmp_path / 'nowhere'}: no such folder" in err


def test_an_out_that_is_a_file_is_one_line(recipe, small, tmp_path, nothing_runs):
    out = tmp_path / "grid"
    out.write_text("mine")
    for data in ([], ["--data", small]):
        code, text, err = command("table6", "--config", recipe, *data, "--out", out)
        assert (code, text, len(err.splitlines())) == (2, "", 1), err
        assert str(out) in err
        assert out.read_text() == "mine"


def test_interrupted_it_says_how_to_go_on(recipe, small, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rarl.paper.reproduce.train_cell", stop)
    out = tmp_path / "my grid"
    options = ["--seeds", "0", "--data", str(small), "--config", str(recipe), "--out", str(out)]
    code, _, err = command("table6", *options, "--set", "trainer.save_steps=2", "--shard", "1/2")
    assert code == 130
    [again] = [line for line in err.splitlines() if "continue with: " in line]
    words = shlex.split(again.partition("continue with: ")[2])
    assert words[:3] == ["rarl", "reproduce", "table6"]
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert pairs == dict(zip(options[::2], options[1::2], strict=True)) | {
        "--shard": "1/2",
        "--set": "trainer.save_steps=2",
    }
