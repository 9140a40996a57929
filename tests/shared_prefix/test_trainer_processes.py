"""The trainer with one prompt pass for a group, in two processes and in one."""

import json
import os
import sys
from pathlib import Path

import pytest

from helpers.sharing import GROUPS, Steps, pictures, recording, trainer_of
from rarl.training.trainer import REWARDS

HOW = {"mutation": "mutation/fraction", "resample": "resample/rounds"}  # and the metric that says so
LOGGED = ("loss", "kl", "entropy", "policy/kl", "policy/entropy", "reward", "mutation/fraction")


def level(completions, **columns):
    """Equal throughout some groups."""
    return [float(len(str(completion)) // 80) for completion in completions]


def play(collection, out, how):
    """Two steps, in this process alone or in one of two, which `python test_trainer_processes.py` starts."""
    from rarl.data.collection import load_collection

    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    folder = Path(out) / f"rank{rank}of{world}"
    folder.mkdir(parents=True)
    dataset = pictures(load_collection(collection), folder, GROUPS)
    calls = []
    given = {"mutation_probability": 0.5} if how == "mutation" else {"stagnant": how}
    given |= {"per_device_train_batch_size": 8 // world, "max_completion_length": 80}
    given |= {"max_steps": 2, "ddp_backend": "gloo" if world > 1 else None}
    given["rewards"] = REWARDS if how == "mutation" else [level]
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        steps = Steps(trainer_of(dataset, folder, "on", **given))
    seen = {
        "calls": calls,
        "logs": [{key: log[key] for key in (*LOGGED, HOW[how])} for log in steps.logs[:2]],
        "weights": {name: weight.flatten().tolist() for name, weight in steps.weights.items()},
    }
    (folder / "seen.json").write_text(json.dumps(seen))
    return seen


@pytest.mark.parametrize("how", HOW)
def test_two_processes_are_as_one(digits, tmp_path, in_two_processes, how):
    """They draw the same texts, and learn the same from them."""
    alone = in_two_processes(
        *(__file__, digits.root, tmp_path, how), alone=lambda: play(digits.root, tmp_path, how)
    )
    first, second = (json.loads((tmp_path / f"rank{rank}of2" / "seen.json").read_text()) for rank in (0, 1))
    texts = [[row for call in seen.pop("calls") for row in call] for seen in (alone, first, second)]
    assert sorted(texts[0]) == sorted(texts[1] + texts[2])
    assert len({tuple(row) for row in texts[0]}) > 12
    assert first == second
    assert any(log[HOW[how]] > 0 for log in alone["logs"])
    for own, expected in zip(first["logs"], alone["logs"], strict=True):
        assert own == pytest.approx(expected, abs=1e-5)
    for name, weights in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(weights, abs=1e-5), name


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2], sys.argv[3])
