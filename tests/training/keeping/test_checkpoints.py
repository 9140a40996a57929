"""What counts as complete on disk, tested by taking away one file at a time."""

import json
import logging
from pathlib import Path

import pytest

from rarl.digests import write_digests
from rarl.errors import ConfigError
from rarl.files import finish, unfinished, write_text
from rarl.training.keeping.checkpoints import (
    DEEPSPEED,
    FULL,
    PLAIN,
    SHARDED,
    changed_keys,
    check_output,
    engine_of,
    is_finished,
    last_complete_checkpoint,
)


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (path / name).write_bytes(b"x")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def test_the_highest_step_counts_as_a_number(tmp_path):
    for step in (5, 50, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-200").write_text("a file")
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_none_where_there_is_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_checkpoint_without_one_file_is_passed_over_and_said(tmp_path, caplog, name, how):
    before, last = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20)
    (last / name).unlink()
    if how == "empty":
        (last / name).touch()
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path) == before
    assert "checkpoint-20 is not whole" in caplog.text


def test_without_digests_the_one_before_is_taken_that_has_them(tmp_path, caplog):
    """So a bit that turned over in one that was cut off just before its digests can't go unseen."""
    sealed, *_ = [checkpoint(tmp_path, step) for step in (10, 20, 30)]
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-30"
    assert not caplog.text  # a run of an earlier version
    write_digests(sealed)
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(tmp_path) == sealed
    assert "checkpoint-30 is not whole (no digests.json): passed over" in caplog.text
    assert "checkpoint-20 is not whole (no digests.json): passed over" in caplog.text
    (sealed / "model.safetensors").write_bytes(b"y")
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-30"


@pytest.mark.parametrize("text", ['{"global_step": 2', '{"global_step": 19}', "[]", '{"epoch": 1}'])
def test_a_state_that_is_cut_off_or_of_another_step_is_passed_over(tmp_path, text):
    last = checkpoint(tmp_path, 20)
    (last / "trainer_state.json").write_text(text)
    assert last_complete_checkpoint(tmp_path) is None


def test_adapter_and_several_processes(tmp_path):
    last = checkpoint(tmp_path, 20)
    (last / "model.safetensors").rename(last / "adapter_model.safetensors")
    (last / "rng_state.pth").rename(last / "rng_state_0.pth")
    assert last_complete_checkpoint(tmp_path) == last


OF_ENGINE = {  # beside the states of the generators and of the trainer
    SHARDED: ["pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "scheduler.pt"],
    FULL: ["pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt"],
    DEEPSPEED: [
        "latest",
        "global_step20/mp_rank_00_model_states.pt",
        "global_step20/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "global_step20/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
    ],
}


@pytest.mark.parametrize("engine", OF_ENGINE)
def test_each_engine_has_files_of_its_own(tmp_path, engine):
    """As two processes leave them."""
    last = tmp_path / "checkpoint-20"
    files = [*OF_ENGINE[engine], "rng_state_0.pth", "rng_state_1.pth"]
    for name in files:
        (last / name).parent.mkdir(parents=True, exist_ok=True)
        (last / name).write_text("global_step20")
    (last / "trainer_state.json").write_text('{"global_step": 20}')
    assert last_complete_checkpoint(tmp_path) == last
    assert engine_of(last) == engine
    for name in OF_ENGINE[engine]:
        (last / name).rename(tmp_path / "away")
        assert last_complete_checkpoint(tmp_path) is None, name
        (tmp_path / "away").rename(last / name)


def test_the_engine_of_a_checkpoint(tmp_path):
    assert engine_of(checkpoint(tmp_path, 10)) == PLAIN
    assert engine_of(tmp_path) is None


@pytest.mark.parametrize(
    ("parts", "whole"), [(["a.safetensors"], False), (["a.safetensors", "b.safetensors"], True)]
)
def test_every_part_of_split_weights_must_be_there(tmp_path, parts, whole):
    last = checkpoint(tmp_path, 20)
    (last / "model.safetensors").unlink()
    weights = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (last / "model.safetensors.index.json").write_text(json.dumps(weights))
    for part in parts:
        (last / part).write_bytes(b"x")
    assert (last_complete_checkpoint(tmp_path) == last) is whole


def test_a_model_folder_has_its_name_only_when_it_is_whole(tmp_path):
    folder = tmp_path / "rarl"
    temporary = unfinished(folder)
    (temporary / "model.safetensors").write_bytes(b"half")
    assert not is_finished(folder)
    # It was interrupted there and began again: nothing of the first attempt is left.
    temporary = unfinished(folder)
    assert list(temporary.iterdir()) == []
    (temporary / "model.safetensors").write_bytes(b"whole")
    finish(temporary, folder)
    assert is_finished(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["rarl"]


def test_finish_takes_the_place_of_an_older_folder(tmp_path):
    folder = tmp_path / "rarl"
    folder.mkdir()
    (folder / "old").touch()
    finish(unfinished(folder), folder)
    assert [path.name for path in folder.iterdir()] == ["digests.json"]
    assert not is_finished(folder)


def test_write_text_leaves_the_old_file_or_the_new(tmp_path):
    write_text(tmp_path / "run" / "config.yaml", "a: 1\n")
    write_text(tmp_path / "run" / "config.yaml", "a: 2\n")
    assert (tmp_path / "run" / "config.yaml").read_text() == "a: 2\n"
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_changed_keys_say_where_and_what():
    before = {
        "seed": 0,
        "output": "a",
        "evaluation": {"lists": 1},
        "stages": [{"max_steps": 280}],
        "sft": None,
    }
    after = {
        "seed": 0,
        "output": "b",
        "evaluation": {"lists": 2},
        "stages": [{"max_steps": 300}],
        "lora": {"r": 8},
    }
    assert changed_keys(before, after) == [
        "stages[0].max_steps: 280 before, 300 now",
        "sft: null before, not given now",
        "lora: not given before, {'r': 8} now",
    ]
    assert changed_keys(before, {**before, "stages": []}) == ["stages: [{'max_steps': 280}] before, [] now"]


def test_a_stage_may_not_hide_a_change_behind_a_free_name():
    assert changed_keys({"trainer": {"output": 1}}, {"trainer": {"output": 2}}) != []


def test_check_output(tmp_path):
    check_output(tmp_path / "new", {"seed": 0}, resume=False)
    check_output(tmp_path, {"seed": 0}, resume=True)  # a folder without a run
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    check_output(tmp_path, {"seed": 0}, resume=True)
    with pytest.raises(ConfigError, match="--resume"):
        check_output(tmp_path, {"seed": 0}, resume=False)
    with pytest.raises(ConfigError, match=r"another configuration(.|\n)*seed: 0 before, 1 now"):
        check_output(tmp_path, {"seed": 1}, resume=True)
    with pytest.raises(ConfigError, match="is a file"):
        check_output(tmp_path / "config.yaml", {"seed": 0}, resume=False)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    (tmp_path / "config.yaml").write_text("stages:\n- {name: a, gap: null}\n")
    check_output(tmp_path, {"stages": [{"name": "a", "start": None, "reference": None}]}, resume=True)
    with pytest.raises(ConfigError, match=r"stages\[0\].start: null before, 'sft' now"):
        check_output(tmp_path, {"stages": [{"name": "a", "start": "sft"}]}, resume=True)
