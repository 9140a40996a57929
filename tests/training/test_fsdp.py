"""A whole run under FSDP2 in two processes, interrupted within its second stage: stages, validation,
checkpoints, model folders and evaluation are those of one process that is given the same responses."""

import json
import os
import sys
from pathlib import Path

import pytest
from trl import GRPOTrainer

from helpers.fsdp import use_fsdp
from helpers.grpo import BACKWARDS, NOTHING, PERFECT, WRONG, ids_of
from helpers.training import log, quiet, run_config, same, weights

ONE = '<think>a</think>\n<answer>[{"image_id": 1, "value": 3}]</answer>'
SAID = [WRONG, ONE, PERFECT, NOTHING, BACKWARDS, PERFECT, ONE, WRONG]  # to two prompts
STAGES = [
    {"name": "regression", "images": [1], "weights": {"ranking": 0}, "max_steps": 1},
    {"name": "rarl", "images": [2], "max_steps": 2, "mutation": {"k": 1, "probability": 0.5}},
]


def play(data, output):
    """The run in this process alone, or in one of two."""
    from rarl.training.callbacks import ProgressLines
    from rarl.training.run import train_and_evaluate

    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    config = run_config(
        data,
        output,
        STAGES,
        {"max_completion_length": 96, "optim": "sgd", "learning_rate": 0.02},
        validation={"every": 2, "prompts": 3, "images": [2]},
        evaluation={"images": [1, 2], "lists": 3, "position_lists": 0, "batch_size": 4, "max_new_tokens": 48},
    )
    size = len(SAID) // world
    mine = [ids_of(text) for text in SAID[rank * size : (rank + 1) * size]]

    def stop(lines, args, state, control, **kwargs):
        if lines._arm == "rarl" and state.global_step == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_single_turn", lambda *given, **named: (list(mine), None))
        if world > 1:
            with patch.context() as interrupted:
                interrupted.setattr(ProgressLines, "on_save", stop)
                with pytest.raises(KeyboardInterrupt):
                    train_and_evaluate(config, resume=False, console=quiet())
            assert (config.output / "checkpoints/rarl/checkpoint-1/optimizer_0/.metadata").is_file()
        metrics = train_and_evaluate(config, resume=world > 1, console=quiet())
    Path(f"{output}-{rank}of{world}.json").write_text(json.dumps(metrics))


def test_two_processes_with_fsdp_are_as_one(few_digits, tmp_path, in_two_processes):
    from rarl.models.loading import load_model

    data = few_digits(train=24, validation=10, test=10).root
    one, two = tmp_path / "one", tmp_path / "two"
    in_two_processes(__file__, data, two, alone=lambda: play(data, one))
    numbers = ("loss", "reward", "kl", "entropy", "policy/reward", "validation/score", "validation/tau2")
    for stage in ("regression", "rarl"):
        ours, expected = (
            [{key: line[key] for key in numbers if key in line} for line in log(folder / stage)[:-1]]
            for folder in (two, one)
        )
        assert len(ours) == len(expected) == {"regression": 3, "rarl": 4}[stage]
        for own, other in zip(ours, expected, strict=True):
            assert own == pytest.approx(other, abs=1e-4)
        assert same(weights(load_model(two / stage)), weights(load_model(one / stage)), atol=1e-5)
        assert not same(weights(load_model(two / stage)), weights(load_model("tiny")), atol=1e-4)
    alone, first, second = (
        json.loads(Path(f"{name}.json").read_text()) for name in (f"{one}-0of1", f"{two}-0of2", f"{two}-1of2")
    )
    assert first == second
    for arm, entries in alone["arms"].items():
        for name, entry in entries.items():
            # What is read off distributions moves with the last digits of the weights; greedy replies don't.
            loose = name.endswith(("_mean", "_median")) or name in ("ece", "coverage")
            assert first["arms"][arm][name] == (pytest.approx(entry, abs=0.02) if loose else entry)
    assert not (two / "checkpoints").exists()


if __name__ == "__main__":
    use_fsdp()
    play(sys.argv[1], sys.argv[2])
