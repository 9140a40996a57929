"""RARLTrainer in two processes chooses and computes the same as in one."""

import json
import os
import sys
from pathlib import Path

import pytest
from trl import GRPOTrainer

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
    "own_statistics": {"probability": 1.0, "statistics": "own"},
    "shaped": {"probability": 1.0, "weight": "shaped", "kl": False},
    "replay": {"probability": 1.0, "k": 1, "reference": "replay"},
    "keep_best": {"probability": 1.0, "reference": "best", "reasoning": "keep", "k": 1},
}


# For dynamic sampling: the second group, which is split over both, and the third have no variance at first.
DROPPED = [*(WRONG, NOTHING, PERFECT, BACKWARDS), *[NOTHING] * 4, *[WRONG] * 4]
DRAWN = [*(WRONG, NOTHING, PERFECT, WRONG), *(PERFECT, NOTHING, NOTHING, WRONG)]


def resample(dataset, out, rank, world):
    """What one process sees of a step of dynamic sampling."""
    size = len(DROPPED) // world
    mine = range(rank * size, (rank + 1) * size)
    said = [[DROPPED[at] for at in mine], [DRAWN[at - 4] for at in mine if at >= 4]]

    def generate(self, prompt_ids, *others, **named):
        texts = said.pop(0)
        assert len(prompt_ids) == len(texts)
        return [ids_of(text) for text in texts], None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_single_turn", generate)
        trainer = ours(
            dataset,
            Path(out) / f"resample-{rank}",
            stagnant="resample",
            per_device_train_batch_size=size,
            max_steps=1,
            optim="sgd",
            ddp_backend="gloo" if world > 1 else None,
        )
        logs, weights = trained(trainer)
    counted = ("policy", "groups", "resample", "effort/prompts", "effort/responses")
    return {
        "said": not said,
        "ids": [row["ids"] for row in trainer._inputs],
        "texts": [completion[0]["content"] for completion in trainer._logs["completion"]],
        "advantages": list(trainer._logs["advantages"]),
        "metrics": {key: value for key, value in logs[0].items() if key.startswith(counted)},
        "weights": [weight.double().sum().item() for weight in weights.values()],
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
    others = [Group((first[float(one)], first[float(other)])) for one, other in ((3, 7), (1, 9), (2, 8))]
    seen["resample"] = resample(to_dataset(others, data.task), out, rank, world)
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
    alone, left, right = one["resample"], first["resample"], second["resample"]
    assert all(each["said"] for each in (alone, left, right))
    assert left["ids"] + right["ids"] == alone["ids"]
    assert left["texts"] == right["texts"] == alone["texts"]
    metrics = [each["metrics"] for each in (alone, left, right)]
    assert metrics[1] == metrics[2] == pytest.approx(metrics[0], abs=1e-5)
    assert (metrics[0]["effort/responses"], metrics[0]["resample/rounds"]) == (20, 1)
    assert metrics[0]["groups/no_variance"] == pytest.approx(2 / 3)
    assert left["advantages"] == pytest.approx(alone["advantages"], abs=1e-5)
    assert left["weights"] == right["weights"]
    assert left["weights"] == pytest.approx(alone["weights"], abs=1e-4)
    # The group that is split over both was mutated; the other process gives its best response.
    assert one["always"]["mutated"][4:8] == [True, False, True, False]
    assert one["best"]["ids"][6] == ids_of(ALSO_WRONG)
    assert one["stagnant"]["mutated"] == [False] * 8 + [True] * 3 + [False]


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2])
