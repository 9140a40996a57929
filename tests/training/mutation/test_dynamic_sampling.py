"""Dynamic sampling: which groups give way, to which prompts, what is trained on then, and what is counted."""

import json
from copy import deepcopy

import pytest
from trl import GRPOTrainer

from helpers.grpo import BACKWARDS, NOTHING, PERFECT, WRONG, ids_of, ours, settings, text_of, trained
from helpers.sharing import GROUPS, Steps, assert_same_steps, pictures, recording, replaying, trainer_of
from rarl.errors import ConfigError
from rarl.training.mutation.effort import STATE_FILE
from rarl.training.trainer import RARLConfig

EVEN = [WRONG] * 4  # no variance: 3 each
RIGHT = [PERFECT] * 4  # none either
UNEVEN = [WRONG, NOTHING, PERFECT, BACKWARDS]


def saying(monkeypatch, groups):
    """Makes the policy answer prompt after prompt, over all calls, with these groups; returns the calls."""
    calls, left = [], list(groups)

    def generate(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        calls.append(deepcopy(prompt_ids))
        said = [text for _ in range(len(prompt_ids) // 4) for text in left.pop(0)]
        return [ids_of(text) for text in said], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    return calls


def batch_of(trainer):
    trainer.model.train()
    inputs = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(inputs)
    return inputs, output, {key: values[-1] for key, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize("shared", ["off", "on"])
def test_a_group_without_variance_gives_way_to_another_prompt(prompts_of, tmp_path, monkeypatch, shared):
    """Of two groups the first has no variance; its first stand-in has none either, its second has."""
    calls = saying(monkeypatch, [EVEN, UNEVEN, RIGHT, UNEVEN])
    dataset = prompts_of([3, 7], [3, 7], [3, 7], [3, 7, 7])  # the stand-ins may have another length
    trainer = ours(dataset, tmp_path, stagnant="resample", shared_prefix=shared)
    inputs, output, metrics = batch_of(trainer)
    assert [len(call) for call in calls] == [8, 4, 4]
    assert [
        text_of(ids[: sum(mask)])
        for ids, mask in zip(
            output["completion_ids"].tolist(), output["completion_mask"].tolist(), strict=True
        )
    ] == [*UNEVEN, *UNEVEN]
    # The prompt that is trained on is the one that was answered, and its row is the rewards' row.
    lengths = output["prompt_mask"].sum(dim=1).tolist()
    assert lengths[:4] == [len(ids) for ids in calls[2]]
    assert [row["ids"] for row in inputs[:4]] == [inputs[0]["ids"]] * 4
    drawn = [trainer._drawn(number, 1)[0]["ids"] for number in (1, 2)]
    assert inputs[0]["ids"] == drawn[1]
    assert output["advantages"][:4].tolist() == pytest.approx(output["advantages"][4:].tolist(), abs=1e-5)
    images = output["num_images"]
    assert (images if shared == "on" else images[::4]) == [len(row["images"]) for row in inputs[::4]]
    assert len(output["image_grid_thw"]) == sum(images)
    assert metrics["groups/no_variance"] == 0.5
    assert metrics["frac_reward_zero_std"] == 0
    assert metrics["resample/rounds"] == 2
    assert metrics["resample/replaced"] == 0.5
    assert metrics["mutation/fraction"] == 0
    assert (metrics["mutation/stagnant_before"], metrics["mutation/stagnant_after"]) == (0.5, 0)
    assert metrics["policy/reward"] == pytest.approx((3 * 4 + 3 + 0 + 5 + 3) / 8)  # as first drawn
    assert trainer._responses == 16


def test_at_the_bound_groups_without_variance_are_kept(prompts_of, tmp_path, monkeypatch):
    calls = saying(monkeypatch, [EVEN, EVEN, RIGHT, UNEVEN, EVEN])
    trainer = ours(prompts_of([3, 7], [3, 7]), tmp_path, stagnant="resample", resample_rounds=2)
    _, output, metrics = batch_of(trainer)
    assert [len(call) for call in calls] == [8, 8, 4]
    assert output["advantages"][:4].tolist() == [0, 0, 0, 0]
    assert metrics["resample/rounds"] == 2
    assert metrics["frac_reward_zero_std"] == 0.5
    assert trainer._responses == 20


def test_where_all_groups_differ_nothing_is_drawn(prompts_of, tmp_path, monkeypatch):
    dataset = prompts_of([3, 7], [3, 7])
    found = []
    for given in ({}, {"stagnant": "resample"}):
        saying(monkeypatch, [UNEVEN, UNEVEN])
        _, output, metrics = batch_of(ours(dataset, tmp_path, **given))
        found.append((output["completion_ids"].tolist(), output["advantages"].tolist()))
    assert found[0] == found[1]
    assert metrics["resample/rounds"] == 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_it_trains_alike_with_shared_prompts_and_without(digits, tmp_path, accumulation):
    """What is trained on is what TRL makes of the same prompts and responses unshared."""

    def level(completions, **columns):
        """Equal in every second group or so."""
        return [float(len(str(completion)) // 40) for completion in completions]

    dataset, calls = pictures(digits, tmp_path, GROUPS), []
    given = {
        "stagnant": "resample",
        "rewards": [level],
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    with pytest.MonkeyPatch.context() as patch:
        recording(patch, calls)
        theirs = Steps(trainer_of(dataset, tmp_path / "off", "off", **given))
        assert any(log.get("resample/rounds", 0) > 0 for log in theirs.logs)
        replaying(patch, calls)
        own = Steps(trainer_of(dataset, tmp_path / "on", "on", **given))
    # The rows of a micro-batch are not the same ones, as they are shuffled by groups.
    assert_same_steps(own, theirs, metrics=accumulation == 1)


def test_what_was_spent_is_counted_for_every_arm(prompts_of, tmp_path):
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4])
    logs = {}
    for stagnant in ("keep", "resample"):
        trainer = ours(
            *(dataset, tmp_path / stagnant),
            stagnant=stagnant,
            max_completion_length=8,  # every reply is cut off, and earns nothing
            resample_rounds=2,
            save_strategy="steps",
            save_steps=2,
        )
        trainer.train()
        logs[stagnant] = trainer.state.log_history
    spent = {key: (log[-1]["effort/prompts"], log[-1]["effort/responses"]) for key, log in logs.items()}
    assert spent == {"keep": (4, 16), "resample": (12, 48)}
    assert [log["effort/responses"] for log in logs["keep"]] == [8, 16, 16]
    assert all(0 < log[0]["effort/seconds"] < log[-1]["effort/seconds"] for log in logs.values())
    state = json.loads((tmp_path / "resample" / "checkpoint-2" / STATE_FILE).read_text())
    assert state["responses"] == 48


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stagnant": "resample", "mutation_probability": 0.5}, "leaves responses as they are"),
        ({"stagnant": "mutate"}, "'mutate' needs a mutation"),
        ({"stagnant": "resample", "use_vllm": True}, "'resample' is not possible: vLLM generates"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, given, said):
    with pytest.raises(ConfigError, match=said):
        RARLConfig(**settings(tmp_path, **given))


# ── a run that goes on ───────────────────────────────────────────────────────────────────────────────────

WAYS = {
    "own_statistics": {"mutation": {"probability": 0.8, "statistics": "own"}},
    "shaped": {"mutation": {"probability": 0.8, "weight": "shaped", "kl": False}, "beta": 0.1},
    "decay": {"mutation": {"probability": 1.0, "k": 3, "decay": "cosine", "probability_end": 0.4}},
    "replay": {"mutation": {"probability": 1.0, "k": 1, "reference": "replay"}},
    "resample": {"stagnant": "resample", "max_completion_length": 12, "resample_rounds": 2},
    "resample_accumulated": {
        "stagnant": "resample",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_goes_on_ends_bit_for_bit_the_same(prompts_of, tmp_path, way):
    dataset = prompts_of([3, 7], [1, 9], [3, 7], [1, 9], [3, 7], [1, 9], [3, 7], [1, 9])
    given = {
        "max_steps": 4,
        "temperature": 1.3,
        "max_completion_length": 48,
        "save_strategy": "steps",
        "save_steps": 2,
    } | WAYS[way]
    whole = ours(dataset, tmp_path / "whole", **deepcopy(given))
    logs, weights = trained(whole)
    again = ours(dataset, tmp_path / "again", **deepcopy(given))
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all((again.model.state_dict()[name] == weight).all() for name, weight in weights.items())
    assert again._responses == whole._responses
    assert again._replay.state() == whole._replay.state()
    steps = [log for log in again.state.log_history if "loss" in log]
    for log, expected in zip(steps, logs, strict=False):
        assert {k: v for k, v in log.items() if k in expected and "/seconds" not in k} == {
            k: v for k, v in expected.items() if k in log
        }
    assert (
        again._seconds > json.loads((tmp_path / "whole" / "checkpoint-2" / STATE_FILE).read_text())["seconds"]
    )
    if way == "replay":
        assert whole._replay.state()


def test_a_checkpoint_of_an_earlier_version_counts_nothing(prompts_of, tmp_path):
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4])
    given = {"save_strategy": "steps", "save_steps": 1, "max_completion_length": 8}
    ours(dataset, tmp_path / "whole", **given).train()
    (tmp_path / "whole" / "checkpoint-1" / STATE_FILE).unlink()
    again = ours(dataset, tmp_path / "again", **given)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert "effort/prompts" not in again.state.log_history[-1]
    state = json.loads((tmp_path / "again" / "checkpoint-2" / STATE_FILE).read_text())
    assert state["responses"] is None
