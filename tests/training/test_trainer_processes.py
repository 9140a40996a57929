"""RARLTrainer in two processes chooses and computes the same as in one."""

import json
import os
import sys
from pathlib import Path

import pytest

from helpers.grpo import BACKWARDS, NOTHING, PERFECT, WRONG, ids_of, ours, script, trained

ALSO_WRONG = WRONG.replace("<think>a", "<think>b")
# Three prompts of four responses: two processes have six rows each, and share the second group.
ROWS = [
    *(WRONG, NOTHING, PERFECT, BACKWARDS),
    *(NOTHING, ALSO_WRONG, "<think>x</think>?", NOTHING),
    *(WRONG, WRONG, BACKWARDS, WRONG),
]
SCENARIOS = {
    "always": {"probability": 1.0},
    "sometimes": {"probability": 0.5, "k": 1},
    "stagnant": {"probability": 1.0, "when": "stagnant", "k": 3},
    "best": {"probability": 1.0, "reference": "best"},
    "keep_best": {"probability": 1.0, "reference": "best", "reasoning": "keep", "k": 1},
}


def play(collection, out):
    """What one process sees of every scenario. The test calls it, and `python test_trainer_processes.py` runs
    it in two processes."""
    from rarl.data.collection import load_collection
    from rarl.data.dataset import to_dataset
    from rarl.data.groups import Group

    data = load_collection(collection)
    first = {row.value: row for row in reversed(data.split("train"))}
    dataset = to_dataset([Group((first[3.0], first[7.0]))] * 3, data.task)
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    size = len(ROWS) // world
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        script(patch, ROWS[rank * size : (rank + 1) * size])
        for name, mutation in SCENARIOS.items():
            trainer = ours(
                dataset,
                Path(out) / f"{name}-{rank}",
                mutation,
                per_device_train_batch_size=size,
                max_steps=1,
                optim="sgd",
                ddp_backend="gloo" if world > 1 else None,
            )
            outputs = []
            original = trainer._generate_and_score_completions

            def score(inputs, original=original, outputs=outputs):
                outputs.append(original(inputs))
                return outputs[-1]

            trainer._generate_and_score_completions = score
            logs, weights = trained(trainer)
            [output] = outputs
            ids = [
                row[: sum(mask)]
                for row, mask in zip(
                    output["completion_ids"].tolist(), output["completion_mask"].tolist(), strict=True
                )
            ]
            seen[name] = {
                "ids": ids,
                "advantages": output["advantages"].tolist(),
                "mutated": list(trainer._logs["extra"]["mutated"]),
                "metrics": {
                    k: v for k, v in logs[0].items() if "policy" in k or "mutation" in k or k.startswith("r")
                },
                "weights": [weight.double().sum().item() for weight in weights.values()],
            }
    (Path(out) / f"rank{rank}.json").write_text(json.dumps(seen))
    return seen


def test_two_processes_choose_the_same_as_one(digits, tmp_path, in_two_processes):
    one = in_two_processes(__file__, digits.root, tmp_path, alone=lambda: play(digits.root, tmp_path / "one"))
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for name in SCENARIOS:
        alone, left, right = one[name], first[name], second[name]
        assert left["ids"] + right["ids"] == alone["ids"], name
        assert left["mutated"] == right["mutated"] == alone["mutated"], name
        assert left["advantages"] + right["advantages"] == pytest.approx(alone["advantages"], abs=1e-5), name
        assert left["metrics"] == right["metrics"] == pytest.approx(alone["metrics"], abs=1e-5), name
        assert left["weights"] == right["weights"], name
        assert left["weights"] == pytest.approx(alone["weights"], abs=1e-4), name
        assert any(alone["mutated"]), name
    # The group that is split over both was mutated; the other process gives its best response.
    assert one["always"]["mutated"][4:8] == [True, False, True, False]
    assert one["best"]["ids"][6] == ids_of(ALSO_WRONG)
    assert one["stagnant"]["mutated"] == [False] * 8 + [True] * 3 + [False]


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2])
