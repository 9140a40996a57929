"""The trainer with one prompt pass for a group, in two processes and in one."""

import json
import os
import sys
from pathlib import Path

import pytest

from helpers.sharing import GROUPS, Steps, pictures, recording, replaying, trainer_of
from rarl.training.trainer import REWARDS

LOGGED = ("loss", "kl", "entropy", "policy/kl", "policy/entropy", "reward", "mutation/fraction")


def play(collection, out):
    """Two steps, in this process alone or in one of two, which `python test_trainer_processes.py` starts."""
    from rarl.data.collection import load_collection

    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    folder = Path(out) / f"rank{rank}of{world}"
    folder.mkdir(parents=True)
    dataset = pictures(load_collection(collection), folder, GROUPS)
    calls = json.loads((Path(out) / "calls.json").read_text())
    size = 8 // world
    given = {"per_device_train_batch_size": size, "mutation_probability": 0.5, "max_completion_length": 80}
    given |= {"max_steps": 2, "ddp_backend": "gloo" if world > 1 else None, "rewards": REWARDS}
    with pytest.MonkeyPatch.context() as patch:
        replaying(patch, [call[rank * size : (rank + 1) * size] for call in calls])
        steps = Steps(trainer_of(dataset, folder, "on", **given))
    seen = {
        "logs": [{key: log[key] for key in LOGGED} for log in steps.logs[:2]],
        "weights": {name: weight.flatten().tolist() for name, weight in steps.weights.items()},
    }
    (folder / "seen.json").write_text(json.dumps(seen))
    return seen


def test_two_processes_are_as_one(digits, dataset, tmp_path, in_two_processes):
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        trainer_of(dataset, tmp_path / "record", "on", max_steps=2, max_completion_length=40).train()
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    alone = in_two_processes(__file__, digits.root, tmp_path, alone=lambda: play(digits.root, tmp_path))
    first, second = (json.loads((tmp_path / f"rank{rank}of2" / "seen.json").read_text()) for rank in (0, 1))
    assert first == second
    assert any(log["mutation/fraction"] > 0 for log in alone["logs"])
    for own, expected in zip(first["logs"], alone["logs"], strict=True):
        assert own == pytest.approx(expected, abs=1e-5)
    for name, weights in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(weights, abs=1e-5), name


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2])
