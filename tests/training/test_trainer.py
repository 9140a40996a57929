"""RARLTrainer inside TRL's pipeline, with the embedded model: what is stock stays stock, what is replaced is
what `mutation.choose` says, and everything TRL computes afterwards is of the group after replacement. The
last part holds one contract test for each private seam of TRL 1.16, so that an upgrade fails there and says
so."""

import inspect
import json
import math
import os
import random
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rarl.errors import ConfigError, ModelError
from rarl.method.equations import advantages, final_reward, mutated_advantages
from rarl.method.mutation import Mutation, choose
from rarl.method.replies import reference_items, reference_reply, write_reply
from rarl.method.rewards import format_reward, ranking_reward, regression_reward
from rarl.models.loading import load_model, load_processor
from rarl.training.trainer import REWARDS, RARLConfig, RARLTrainer

# Replies to two pictures of digits 3 and 7, and what they earn (R_reg + R_rank + R_format).
TRUTH = [3.0, 7.0]
PERFECT = reference_reply(TRUTH, 1)  # 1 + 3 + 1 = 5
# Both values off by more than delta (2): 0. The list has its length (1) and agrees with its values (1), not
# with the truth (0); its form is right (1).
WRONG = '<think>a</think>\n<answer>[{"image_id": 2, "value": 0}, {"image_id": 1, "value": 9}]</answer>'  # 3
# Digits right (1), one that is listed first is the greater (r_len 1, r_consis 0, r_acc 0), the form is right
# (1).
BACKWARDS = (
    '<think>bc</think><answer>[{"image_id": 2, "value": 7}, {"image_id": 1, "value": 3}]</answer>'  # 3
)
NOTHING = "What is this?"  # 0
REWARD = {PERFECT: 5.0, WRONG: 3.0, BACKWARDS: 3.0, NOTHING: 0.0}


def settings(folder, **given):
    """Arguments for a few steps on a CPU: two prompts of four responses a step."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 64,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "beta": 0.0,
        "loss_type": "grpo",
        "reward_weights": [1.0, 1.0, 1.0],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "activation_checkpointing": False,
        "use_cpu": True,
        "shuffle_dataset": False,
        "seed": 0,
        **given,
    }


def stock(dataset, folder, model="tiny", **given):
    """TRL's own trainer with our rewards."""
    args = GRPOConfig(**settings(folder, **given))
    return GRPOTrainer(
        load_model(model, training=True),
        [regression_reward, ranking_reward, format_reward],
        args,
        train_dataset=dataset,
        processing_class=load_processor(model),
    )


def ours(dataset, folder, mutation=None, eval_dataset=None, reward_funcs=None, peft_config=None, **given):
    """RARLTrainer; without `mutation` the probability is its default, 0."""
    fields = {f"mutation_{key}": value for key, value in (mutation or {}).items()}
    return RARLTrainer(
        load_model("tiny", training=True),
        reward_funcs,
        args=RARLConfig(**settings(folder, **fields, **given)),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=load_processor("tiny"),
        peft_config=peft_config,
    )


def script(monkeypatch, texts, logprobs=None):
    """Make the policy say `texts`, one after the other; what a text can't be is given as token ids."""

    def generate(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        assert len(prompt_ids) == len(texts)
        ids = [text if isinstance(text, list) else ids_of(text) for text in texts]
        return ids, None if logprobs is None else deepcopy(logprobs)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)


TOKENIZER = load_processor("tiny").tokenizer


def ids_of(text):
    return [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]


def text_of(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True)


class Batch:
    """One generation batch as the trainer makes it, before TRL shuffles its rows."""

    def __init__(self, trainer):
        trainer.model.train()
        self.inputs = next(iter(trainer.get_train_dataloader()))
        self.output = trainer._generate_and_score_completions(self.inputs)
        lengths = self.output["completion_mask"].sum(dim=1).tolist()
        self.ids = [
            ids[:length] for ids, length in zip(self.output["completion_ids"].tolist(), lengths, strict=True)
        ]
        self.texts = [completion[-1]["content"] for completion in trainer._logs["completion"]]
        self.advantages = self.output["advantages"].tolist()
        self.parts = list(zip(*(trainer._logs["rewards"][f.__name__] for f in REWARDS), strict=True))
        self.mutated = list(trainer._logs["extra"]["mutated"])
        self.metrics = {key: values[-1] for key, values in trainer._metrics["train"].items()}


def spy_on_generation(monkeypatch):
    """What the policy itself generated, call after call: (completion_ids, texts) as copies."""
    calls = []
    original = GRPOTrainer._generate

    def generate(self, prompts):
        output = original(self, prompts)
        calls.append((deepcopy(output[1]), [completion[-1]["content"] for completion in output[3]]))
        return output

    monkeypatch.setattr(GRPOTrainer, "_generate", generate)
    return calls


def rewards_of(texts, inputs, weights=(1.0, 1.0, 1.0)):
    """Eq. 8 from the rewards and the equations alone."""
    columns = {key: [row[key] for row in inputs] for key in ("values", "delta", "range")}
    parts = [reward(texts, **columns) for reward in REWARDS]
    return [final_reward(*row, weights) for row in zip(*parts, strict=True)]


def trained(trainer):
    """Trains; the logs without what a clock says, and the weights."""
    trainer.train()
    timed = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    logs = [
        {key: value for key, value in log.items() if key not in timed} for log in trainer.state.log_history
    ]
    return logs, {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


# ── the rewards in the stock trainer ─────────────────────────────────────────────────────────────────────


def test_the_stock_trainer_trains_with_the_three_rewards(prompts_of, tmp_path):
    trainer = stock(prompts_of([3, 7], [1, 9], [0, 2], [8, 4]), tmp_path)
    before = deepcopy(trainer.model.state_dict())
    logs, weights = trained(trainer)
    steps = [log for log in logs if "reward" in log]
    assert len(steps) == 2
    for log in steps:
        assert math.isfinite(log["loss"])
        for name in ("r_len", "r_consis", "r_acc"):
            assert 0 <= log[name] <= 1
        rank = log["r_len"] + log["r_consis"] + log["r_acc"]
        assert log["rewards/ranking_reward/mean"] == pytest.approx(rank, abs=1e-5)
        total = sum(log[f"rewards/{name}_reward/mean"] for name in ("regression", "ranking", "format"))
        assert log["reward"] == pytest.approx(total, abs=1e-5)
    assert any(not torch.equal(before[name], weights[name]) for name in weights)


@pytest.fixture(scope="module")
def stock_run(prompts_of, tmp_path_factory):
    """Three steps of the stock trainer with a KL term, so that its losses are not all near 0."""
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4], [5, 6], [2, 7])
    folder = tmp_path_factory.mktemp("stock")
    return dataset, trained(stock(dataset, folder, max_steps=3, beta=0.04, learning_rate=3e-3))


@pytest.mark.parametrize(
    "mutation",
    [
        {},
        {"k": 3, "when": "stagnant", "reasoning": "keep"},
        {"k": 9, "reference": "best", "reasoning": "keep"},
    ],
)
def test_probability_0_gives_the_stock_losses_and_weights_bit_for_bit(stock_run, tmp_path, mutation):
    dataset, (stock_logs, stock_weights) = stock_run
    trainer = ours(
        dataset, tmp_path, mutation, max_steps=3, beta=0.04, learning_rate=3e-3, shared_prefix="off"
    )
    logs, weights = trained(trainer)
    assert [log["loss"] for log in stock_logs[:3]] == [log["loss"] for log in logs[:3]]
    assert any(abs(log["loss"]) > 1e-4 for log in stock_logs[:3])  # the comparison says something
    for theirs, own in zip(stock_logs, logs, strict=True):
        assert {key: own[key] for key in theirs} == theirs
    assert weights.keys() == stock_weights.keys()
    assert all(torch.equal(weights[name], stock_weights[name]) for name in weights)
    # Nothing is mutated, and the policy's own rewards are those of the group.
    for log in logs[:3]:
        assert log["mutation/fraction"] == 0
        assert log["policy/reward"] == log["reward"]
        assert log["policy/reward_std"] == log["reward_std"]
        for name in ("r_len", "r_consis", "r_acc"):
            assert log[f"policy/{name}"] == pytest.approx(log[name], abs=1e-6)


def test_probability_0_needs_no_room_for_the_reference(prompts_of, tmp_path):
    dataset = prompts_of([3, 7], [1, 9])
    theirs, their_weights = trained(stock(dataset, tmp_path, max_steps=1, max_completion_length=5))
    logs, weights = trained(ours(dataset, tmp_path, max_steps=1, max_completion_length=5))
    assert logs[0]["loss"] == theirs[0]["loss"]
    assert all(torch.equal(weights[name], their_weights[name]) for name in weights)


# ── which are replaced, and by what ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "mutation",
    [
        {},
        {"reasoning": "empty", "k": 3},
        {"reasoning": "keep"},
        {"reference": "best", "k": 1},
        {"reference": "best", "reasoning": "keep"},
    ],
)
def test_ids_and_text_agree_and_the_replaced_are_the_chosen(prompts_of, tmp_path, monkeypatch, mutation):
    """On what the model really samples, hot enough to be often wrong, malformed, or cut off."""
    calls = spy_on_generation(monkeypatch)
    trainer = ours(
        prompts_of([3, 7], [1, 9]),
        tmp_path,
        {"probability": 1.0, **mutation},
        temperature=1.4,
        max_completion_length=40,
    )
    batch = Batch(trainer)
    [(own_ids, own_texts)] = calls
    assert [text_of(ids) for ids in batch.ids] == batch.texts

    own = rewards_of(own_texts, batch.inputs)
    after = rewards_of(batch.texts, batch.inputs)
    assert len({*own}) > 2  # the groups are no trivial ones
    replaced = [index for index in range(8) if batch.ids[index] != own_ids[index]]
    assert replaced
    assert [index for index, mutated in enumerate(batch.mutated) if mutated] == replaced
    for index in range(8):
        if index in replaced:
            assert after[index] > own[index]
        else:
            assert batch.texts[index] == own_texts[index]
    k = mutation.get("k", 2)
    for start in (0, 4):
        group = own[start : start + 4]
        picked = [index - start for index in replaced if start <= index < start + 4]
        assert len(picked) <= k
        rest = [group[index] for index in range(4) if index not in picked]
        assert (
            all(group[index] <= min(rest) + 1e-6 for index in picked) or mutation.get("reasoning") == "keep"
        )
    assert batch.metrics["mutation/fraction"] == len(replaced) / 8


@pytest.mark.parametrize(
    ("mutation", "texts", "expected"),
    [
        # The lowest two are the last two; of equal ones the earlier is taken.
        ({}, [PERFECT, WRONG, NOTHING, BACKWARDS], [PERFECT, PERFECT, PERFECT, BACKWARDS]),
        ({"k": 1}, [PERFECT, WRONG, NOTHING, BACKWARDS], [PERFECT, WRONG, PERFECT, BACKWARDS]),
        # All would be perfect.
        ({}, [PERFECT, WRONG, PERFECT, BACKWARDS], [PERFECT, WRONG, PERFECT, BACKWARDS]),
        ({"k": 1}, [PERFECT, WRONG, PERFECT, BACKWARDS], [PERFECT, PERFECT, PERFECT, BACKWARDS]),
        # Equal rewards of different replies.
        ({"when": "stagnant"}, [WRONG, BACKWARDS, WRONG, BACKWARDS], [PERFECT, PERFECT, WRONG, BACKWARDS]),
        ({"when": "stagnant"}, [WRONG, WRONG, WRONG, NOTHING], [WRONG, WRONG, WRONG, NOTHING]),
        ({}, [PERFECT] * 4, [PERFECT] * 4),
        ({"reference": "best"}, [NOTHING, WRONG, NOTHING, NOTHING], [WRONG, WRONG, WRONG, NOTHING]),
        ({"reference": "best"}, [NOTHING] * 4, [NOTHING] * 4),
        # Ties for the best go to the earlier.
        (
            {"reference": "best", "k": 1},
            [NOTHING, BACKWARDS, WRONG, NOTHING],
            [BACKWARDS, BACKWARDS, WRONG, NOTHING],
        ),
        (
            {"reasoning": "empty", "k": 1},
            [NOTHING, WRONG, WRONG, WRONG],
            [write_reply("", reference_items(TRUTH), 1), WRONG, WRONG, WRONG],
        ),
    ],
)
def test_a_scripted_group_after_mutation(prompts_of, tmp_path, monkeypatch, mutation, texts, expected):
    script(monkeypatch, texts)
    trainer = ours(
        prompts_of([3, 7]), tmp_path, {"probability": 1.0, **mutation}, per_device_train_batch_size=4
    )
    batch = Batch(trainer)
    assert batch.texts == expected
    assert batch.ids == [ids_of(text) for text in expected]
    assert batch.mutated == [before != after for before, after in zip(texts, expected, strict=True)]


def test_keep_changes_only_the_answer_of_the_replaced_response(prompts_of, tmp_path, monkeypatch):
    """A response without `</think>` has no reasoning to keep: it gets the template."""
    script(monkeypatch, [PERFECT, BACKWARDS, "<think>no end", PERFECT])
    mutation = {"probability": 1.0, "reasoning": "keep", "k": 3}
    monkeypatch.setattr(
        "rarl.method.mutation._differ", lambda rewards: True
    )  # the group may lose its variance here
    batch = Batch(ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4))
    answer = write_reply("", reference_items(TRUTH), 1).removeprefix("<think></think>")
    assert batch.texts == [PERFECT, f"<think>bc</think>{answer}", PERFECT, PERFECT]
    own, ids = ids_of(BACKWARDS), batch.ids[1]
    kept = len(TOKENIZER.encode("<think>bc", add_special_tokens=False))
    assert ids[: kept - 1] == own[: kept - 1]
    assert ids[-1] == TOKENIZER.eos_token_id
    assert text_of(ids) == batch.texts[1]


def test_keep_with_best_takes_the_answer_of_the_best(prompts_of, tmp_path, monkeypatch):
    script(monkeypatch, [NOTHING, PERFECT, "<think>mine</think>?", WRONG])
    mutation = {"probability": 1.0, "reasoning": "keep", "reference": "best"}
    batch = Batch(ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4))
    answer = PERFECT.partition("</think>")[2]
    # The first has no reasoning of its own and becomes the best as it is.
    assert batch.texts == [PERFECT, PERFECT, f"<think>mine</think>{answer}", WRONG]


def test_keep_that_would_not_fit_is_cut(prompts_of, tmp_path, monkeypatch):
    long = "<think>" + "q" * 100 + "</think>?"
    script(monkeypatch, [NOTHING, long, WRONG, WRONG])
    mutation = {"probability": 1.0, "reasoning": "keep", "k": 3}
    trainer = ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4)
    batch = Batch(trainer)
    assert len(batch.ids[1]) == trainer.max_completion_length
    assert batch.texts[1].startswith("<think>qqqq")
    assert batch.texts[1].endswith("</answer>")


def test_sampling_log_probs_of_a_replaced_response_are_none(prompts_of, tmp_path, monkeypatch):
    """With vLLM's log-probs: one entry for each token, and None, which TRL takes as unknown."""
    texts = [PERFECT, NOTHING, WRONG, WRONG]
    logprobs = [[-0.5] * len(ids_of(text)) for text in texts]
    script(monkeypatch, texts, logprobs)
    trainer = ours(prompts_of([3, 7]), tmp_path, {"probability": 1.0, "k": 1}, per_device_train_batch_size=4)
    batch = Batch(trainer)
    given = batch.output["sampling_per_token_logps"]
    assert torch.isnan(given[1]).sum() == len(ids_of(PERFECT)) == len(batch.ids[1])
    assert not torch.isnan(given[[0, 2, 3]]).any()


@pytest.mark.parametrize("token", ["<|video_pad|>", "<|vision_start|>", "<|im_start|>", "<|endoftext|>"])
def test_a_response_may_have_any_special_token(prompts_of, tmp_path, monkeypatch, token):
    """The image's placeholder alone is kept out, by TRL (see the seams below)."""
    script(monkeypatch, [PERFECT, [TOKENIZER.convert_tokens_to_ids(token), *ids_of(WRONG)], WRONG, NOTHING])
    trainer = ours(
        prompts_of([3, 7]), tmp_path, {"probability": 1.0}, per_device_train_batch_size=4, max_steps=1
    )
    logs, weights = trained(trainer)
    assert math.isfinite(logs[0]["loss"])
    assert all(weight.isfinite().all() for weight in weights.values())


# ── what comes of it ─────────────────────────────────────────────────────────────────────────────────────


def gradients(trainer):
    """Of the first step's loss."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # transformers sets it when training begins
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, inputs).backward()
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize("when", ["always", "stagnant"])
def test_a_stagnant_group_regains_a_gradient(prompts_of, tmp_path, monkeypatch, when):
    script(monkeypatch, [WRONG] * 4)
    dataset = prompts_of([3, 7])
    before = gradients(stock(dataset, tmp_path, per_device_train_batch_size=4))
    assert all(gradient is None or not gradient.any() for gradient in before.values())
    mutation = {"probability": 1.0, "when": when}
    after = gradients(ours(dataset, tmp_path, mutation, per_device_train_batch_size=4))
    assert all(gradient.isfinite().all() for gradient in after.values())
    dead = [name for name, gradient in after.items() if not gradient.any()]
    assert dead == []


def test_advantages_come_from_the_group_after_replacement(prompts_of, tmp_path, monkeypatch):
    """By hand: rewards 3, 3, 0, 5; the third and the first are replaced, each by 5. After: 5, 3, 5, 5, of
    mean 4.5 and standard deviation sqrt((3 x 0.25 + 2.25) / 3) = 1."""
    script(monkeypatch, [WRONG, BACKWARDS, NOTHING, PERFECT])
    batch = Batch(ours(prompts_of([3, 7]), tmp_path, {"probability": 1.0}, per_device_train_batch_size=4))
    by_hand = [0.5 / 1.0001, -1.5 / 1.0001, 0.5 / 1.0001, 0.5 / 1.0001]
    assert batch.advantages == pytest.approx(by_hand, abs=1e-5)
    assert batch.advantages == pytest.approx(mutated_advantages([3, 3, 0, 5], {0: 5, 2: 5}), abs=1e-5)


def test_advantages_of_sampled_groups_are_those_of_eq_9(prompts_of, tmp_path, monkeypatch):
    calls = spy_on_generation(monkeypatch)
    trainer = ours(prompts_of([3, 7], [1, 9]), tmp_path, {"probability": 1.0}, temperature=1.4)
    batch = Batch(trainer)
    own, after = rewards_of(calls[0][1], batch.inputs), rewards_of(batch.texts, batch.inputs)
    assert any(batch.mutated)
    for start in (0, 4):
        mutated = {i: after[start + i] for i in range(4) if batch.mutated[start + i]}
        expected = mutated_advantages(own[start : start + 4], mutated)
        assert batch.advantages[start : start + 4] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [2.0, 0.5, 0.0]])
@pytest.mark.parametrize("group", [[3, 7], [3], [4, 4]])
def test_trl_computes_eqs_8_and_2(prompts_of, tmp_path, monkeypatch, weights, group):
    """TRL's own arithmetic against the equations; with one picture, or a tie, R_rank is None and left out."""
    texts = [PERFECT, WRONG, BACKWARDS, NOTHING, WRONG]
    script(monkeypatch, texts)
    trainer = stock(
        prompts_of(group), tmp_path, per_device_train_batch_size=5, num_generations=5, reward_weights=weights
    )
    batch = Batch(trainer)
    rewards = rewards_of(texts, batch.inputs, weights)
    assert len(set(rewards)) > 2 or weights[2] == 0
    assert batch.metrics["reward"] == pytest.approx(sum(rewards) / 5, abs=1e-5)
    assert batch.advantages == pytest.approx(advantages(rewards), abs=1e-5)
    for part in batch.parts:
        assert math.isnan(part[1]) is (group != [3, 7])


def test_metrics_keep_the_policys_own_responses_apart(prompts_of, tmp_path, monkeypatch):
    """By hand. Group 1: 3, 3, 3, 3 becomes 5, 5, 3, 3. Group 2: 5, 5, 5, 3, which would lose its variance,
    stays."""
    script(monkeypatch, [WRONG, BACKWARDS, WRONG, BACKWARDS, PERFECT, PERFECT, PERFECT, WRONG])
    batch = Batch(ours(prompts_of([3, 7], [3, 7]), tmp_path, {"probability": 1.0}))
    metrics = batch.metrics
    assert metrics["mutation/fraction"] == 2 / 8
    assert metrics["mutation/stagnant_before"] == 1 / 2
    assert metrics["mutation/stagnant_after"] == 0
    assert metrics["policy/reward"] == pytest.approx((12 + 18) / 8)
    assert metrics["reward"] == pytest.approx((16 + 18) / 8)
    # 3.75 is the mean: five are 0.75 below it, three 1.25 above; 7.5 / 7.
    assert metrics["policy/reward_std"] == pytest.approx(math.sqrt(7.5 / 7), abs=1e-5)
    for name, own, after in [
        ("regression_reward", (0 + 1 + 0 + 1 + 3 + 0) / 8, (1 + 1 + 0 + 1 + 3 + 0) / 8),
        ("ranking_reward", (2 + 1 + 2 + 1 + 9 + 2) / 8, (3 + 3 + 2 + 1 + 9 + 2) / 8),
        ("format_reward", 1, 1),
    ]:
        assert metrics[f"policy/rewards/{name}"] == pytest.approx(own)
        assert metrics[f"rewards/{name}/mean"] == pytest.approx(after)
    for name, own, after in [("r_len", 1, 1), ("r_consis", 6 / 8, 7 / 8), ("r_acc", 3 / 8, 5 / 8)]:
        assert metrics[f"policy/{name}"] == pytest.approx(own)
        assert metrics[name] == pytest.approx(after)


def test_a_group_that_was_not_chosen_stays_stagnant_in_the_metrics(prompts_of, tmp_path, monkeypatch):
    script(monkeypatch, [WRONG] * 8)
    metrics = Batch(ours(prompts_of([3, 7], [3, 7]), tmp_path)).metrics
    assert metrics["mutation/stagnant_before"] == metrics["mutation/stagnant_after"] == 1
    script(monkeypatch, [PERFECT] * 8)
    metrics = Batch(ours(prompts_of([3, 7], [3, 7]), tmp_path)).metrics
    assert metrics["mutation/stagnant_before"] == metrics["mutation/stagnant_after"] == 0


def test_a_rewards_own_columns_are_logged_for_the_group_alone(prompts_of, tmp_path, monkeypatch):
    """Not three times, for the responses are scored three times."""
    script(monkeypatch, [WRONG, WRONG, WRONG, NOTHING])

    def length(completions, log_extra, log_metric, **columns):
        log_extra("characters", [len(completion[-1]["content"]) for completion in completions])
        log_metric("calls", 1.0)
        return [0.0] * len(completions)

    trainer = ours(
        prompts_of([3, 7]),
        tmp_path,
        {"probability": 1.0},
        reward_funcs=[*REWARDS, length],
        reward_weights=[1.0] * 4,
        per_device_train_batch_size=4,
    )
    Batch(trainer)
    assert list(trainer._logs["extra"]["characters"]) == [len(PERFECT), len(WRONG), len(WRONG), len(PERFECT)]
    assert trainer._metrics["train"]["calls"] == [1.0]
    assert trainer._metrics["train"]["policy/calls"] == [1.0]


def test_ranking_alone_leaves_single_images_unscored_and_unmutated(prompts_of, tmp_path, monkeypatch):
    """R_rank is None for one picture; a group without any reward is no reason to stop."""
    script(monkeypatch, [WRONG, NOTHING, WRONG, WRONG])
    trainer = ours(
        prompts_of([3]),
        tmp_path,
        {"probability": 1.0},
        reward_funcs=[ranking_reward],
        reward_weights=[1.0],
        per_device_train_batch_size=4,
    )
    trainer.model.train()
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert output["advantages"].tolist() == [0, 0, 0, 0]
    assert trainer._metrics["train"]["mutation/fraction"] == [0]


def test_evaluation_never_mutates(prompts_of, tmp_path, monkeypatch):
    dataset = prompts_of([3, 7])
    script(monkeypatch, [WRONG] * 4)
    trainer = ours(
        dataset,
        tmp_path,
        {"probability": 1.0},
        eval_dataset=dataset,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == 0
    assert [completion[-1]["content"] for completion in trainer._logs["completion"]] == [WRONG] * 4
    [log] = trainer.state.log_history
    assert log["eval_reward"] == pytest.approx(3)
    assert not [key for key in log if "mutation" in key or "policy" in key]


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reasoning", ["template", "empty", "keep"])
def test_a_reference_that_does_not_fit_is_refused_with_the_number(
    prompts_of, tmp_path, monkeypatch, reasoning
):
    script(monkeypatch, [NOTHING] * 4)
    reply = write_reply("", reference_items(TRUTH), 1) if reasoning == "empty" else PERFECT
    needed = len(ids_of(reply))

    def batch(length):
        mutation = {"probability": 0.5, "reasoning": reasoning}
        trainer = ours(
            prompts_of([3, 7]),
            tmp_path,
            mutation,
            per_device_train_batch_size=4,
            max_completion_length=length,
        )
        return Batch(trainer)

    with pytest.raises(ConfigError) as error:
        batch(needed - 1)
    assert str(error.value) == (
        f"max_completion_length {needed - 1} can't hold the reference reply for 2 images ({needed} tokens); "
        f"raise it to at least {needed}"
    )
    batch(needed)


def test_a_reference_without_its_reasoning_tag_is_no_way_to_fit(prompts_of, tmp_path, monkeypatch):
    """`keep` cuts reasoning, but a reply that has no room for `<think>` is not put into a group."""
    script(monkeypatch, ["<think>abc</think>?"] * 4)
    answer = write_reply("", reference_items(TRUTH), 1).removeprefix("<think>")
    room = len(TOKENIZER.encode(answer, add_special_tokens=False)) + 1
    mutation = {"probability": 1.0, "reasoning": "keep"}
    trainer = ours(
        prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4, max_completion_length=room
    )
    with pytest.raises(ConfigError, match="max_completion_length"):
        Batch(trainer)


def test_k_must_leave_a_response(tmp_path):
    with pytest.raises(ConfigError, match=r"k must be less than num_generations \(4\), not 4"):
        RARLConfig(**settings(tmp_path, mutation_k=4, mutation_probability=0.5))
    RARLConfig(**settings(tmp_path, mutation_k=3, mutation_probability=0.5))
    RARLConfig(**settings(tmp_path, mutation_k=4))  # nothing is ever mutated


def test_the_mutation_fields_are_checked_at_once(tmp_path):
    with pytest.raises(ConfigError, match="never replaces anything"):
        RARLConfig(**settings(tmp_path, mutation_when="stagnant", mutation_reference="best"))
    with pytest.raises(ConfigError, match="when must be always or stagnant, not 'never'"):
        RARLConfig(**settings(tmp_path, mutation_when="never"))
    assert RARLConfig(**settings(tmp_path)).mutation == Mutation()


def test_the_papers_settings_are_the_defaults(tmp_path):
    args = RARLConfig(str(tmp_path), bf16=False, use_cpu=True, activation_checkpointing=False)
    assert (args.learning_rate, args.beta, args.loss_type, args.num_generations) == (1e-6, 0.01, "grpo", 8)
    assert args.scale_rewards == "group"
    assert args.mutation.probability == 0


# ── datasets and rewards of one's own ────────────────────────────────────────────────────────────────────


def answers_at_all(completions, **columns):
    """A reward that needs no column, of texts or messages; all must be of one kind."""
    assert len({type(completion) for completion in completions}) == 1
    return [float("<answer>" in str(completion)) for completion in completions]


def texts_of(**columns):
    """Prompts that are plain texts, as in any text dataset."""
    rows = {"prompt": ["handwritten digit"] * 4} | {name: [value] * 4 for name, value in columns.items()}
    return Dataset.from_dict(rows)


def test_without_mutation_a_dataset_need_not_say_the_truth(tmp_path):
    trainer = ours(texts_of(), tmp_path, reward_funcs=[answers_at_all], reward_weights=None)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert "policy/reward" in logged
    assert "mutation/fraction" not in logged


def test_mutation_names_the_columns_it_lacks(tmp_path):
    trainer = ours(
        texts_of(values=TRUTH), tmp_path, {"probability": 1.0}, None, [answers_at_all], reward_weights=None
    )
    with pytest.raises(ConfigError, match=r"missing: step$"):
        trainer.train()


def test_rewards_are_given_texts_where_the_prompts_are_texts(tmp_path, monkeypatch):
    script(monkeypatch, [NOTHING] * 8)
    trainer = ours(
        texts_of(values=TRUTH, step=1.0),
        tmp_path,
        {"probability": 1.0},
        None,
        [answers_at_all],
        reward_weights=None,
    )
    trainer.train()
    assert trainer.state.log_history[0]["mutation/fraction"] == 0.5


def test_arguments_of_trl_are_refused_by_name(prompts_of, tmp_path):
    with pytest.raises(ConfigError, match=r"must be a RARLConfig, .* not a GRPOConfig"):
        RARLTrainer("tiny", args=GRPOConfig(**settings(tmp_path)), train_dataset=prompts_of(TRUTH))


# ── the same choice again ────────────────────────────────────────────────────────────────────────────────


def spy_on_choices(trainer):
    """What is chosen at each global step, filled while it trains."""
    chosen = {}
    original = trainer._choose

    def record(rewards, references):
        picked = original(rewards, references)
        chosen.setdefault(trainer.state.global_step, []).append(sorted(picked))
        return picked

    trainer._choose = record
    return chosen


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_chooses_the_same(prompts_of, tmp_path, accumulation):
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4], [5, 6], [2, 7], [1, 3], [9, 0])
    given = {
        "mutation": {"probability": 0.8},
        "max_steps": 4,
        "temperature": 1.5,
        "max_completion_length": 32,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = ours(dataset, tmp_path / "whole", **given)
    chosen = spy_on_choices(whole)
    _, weights = trained(whole)
    assert set(chosen) == {0, 1, 2, 3}
    assert any(picked for step in (2, 3) for picked in chosen[step])

    again = ours(dataset, tmp_path / "again", **given)
    resumed = spy_on_choices(again)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed == {step: chosen[step] for step in (2, 3)}
    assert all(torch.equal(weight, weights[name]) for name, weight in again.model.state_dict().items())


def test_an_adapter_trains_and_resumes(prompts_of, tmp_path):
    """With LoRA the KL's reference is the model without the adapter; a resumed run is the same."""
    from peft import LoraConfig

    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4], [5, 6], [2, 7], [1, 3], [9, 0])

    def make(folder):
        given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "beta": 0.04}
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return ours(dataset, tmp_path / folder, {"probability": 0.5}, peft_config=lora, **given)

    whole = make("whole")
    logs, weights = trained(whole)
    assert whole.ref_model is None
    assert logs[0]["kl"] == 0
    assert logs[3]["kl"] > 0
    again = make("again")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(weight, weights[name]) for name, weight in again.model.state_dict().items())


def test_a_checkpoint_that_lacks_weights_is_refused(prompts_of, tmp_path):
    from safetensors.torch import load_file, save_file

    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4])
    ours(dataset, tmp_path, save_strategy="steps", save_steps=1).train()
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"checkpoint-1 lacks weights: model\.language_model\.norm\.weight"):
        ours(dataset, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_the_choice_depends_on_the_seed_the_step_and_the_group_alone(prompts_of, tmp_path):
    def chosen(seed, step, calls=0):
        trainer = ours(prompts_of([3, 7]), tmp_path, {"probability": 0.5, "k": 1}, seed=seed)
        random.seed(calls)
        for _ in range(calls):
            trainer._choose([0.0, 1, 2, 3] * 8, [5.0] * 32)
        trainer.state.global_step = step
        return trainer._choose([0.0, 1, 2, 3] * 8, [5.0] * 32)

    assert chosen(0, 3) == chosen(0, 3, calls=4)
    assert len({tuple(sorted(chosen(seed, step))) for seed in (0, 1) for step in (0, 1)}) == 4
    # Of eight groups some are mutated and some not, so each draws for itself.
    assert 0 < len(chosen(0, 3)) < 8


# ── two processes ────────────────────────────────────────────────────────────────────────────────────────

ALSO_WRONG = WRONG.replace("<think>a", "<think>b")
# Three prompts of four responses: on two processes of six rows the second group is split between them.
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
    """What one process sees of every scenario; run in this process, and by `python test_trainer.py` in
    two."""
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
    # The group that is split was mutated, and gets what is best in it from the other process.
    assert one["always"]["mutated"][4:8] == [True, False, True, False]
    assert one["best"]["ids"][6] == ids_of(ALSO_WRONG)
    assert one["stagnant"]["mutated"] == [False] * 8 + [True] * 3 + [False]


# ── seams of TRL 1.16 ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_generate", ["self", "prompts"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_log_metric", ["self", "name", "value"]),
        ("_log_completion_extra", ["self", "column", "values"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        # Of these tests alone:
        (
            "_generate_single_turn",
            ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
        ),
    ],
)
def test_seam_names_and_parameters(method, parameters):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


def test_seam_generate_returns_eight(prompts_of, tmp_path, monkeypatch):
    results = []
    original = GRPOTrainer._generate
    monkeypatch.setattr(
        GRPOTrainer, "_generate", lambda self, prompts: results.append(original(self, prompts)) or results[-1]
    )
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    batch = Batch(trainer)
    [(prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images)] = (
        results
    )
    assert [len(each) for each in (prompt_ids, completion_ids, completions, images)] == [8] * 4
    assert all(isinstance(token, int) for ids in completion_ids for token in ids)
    assert [completion[0]["role"] for completion in completions] == ["assistant"] * 8
    assert [completion[0]["content"] for completion in completions] == [
        text_of(ids) for ids in completion_ids
    ]
    assert (tool_mask, logprobs, extra_fields, tool_images) == (None, None, {}, [])
    # What comes after works on what it returned.
    assert batch.ids == completion_ids
    # The rows of a group are consecutive, and the inputs have the dataset's columns.
    assert [row["values"] for row in batch.inputs] == [[3, 7]] * 4 + [[1, 9]] * 4
    assert {"rule", "step", "delta", "range", "images", "prompt"} <= batch.inputs[0].keys()


def test_seam_scoring_calls_generate_and_is_called_by_prepare_inputs(prompts_of, tmp_path, monkeypatch):
    script(monkeypatch, [WRONG] * 8)
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    calls = []
    for name in ("_generate_and_score_completions", "_generate"):
        original = getattr(trainer, name)

        def record(argument, name=name, original=original):
            calls.append((name, len(argument)))
            return original(argument)

        setattr(trainer, name, record)
    trainer.model.train()
    trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    assert calls == [("_generate_and_score_completions", 8), ("_generate", 8)]


def test_seam_rewards_are_given_the_trainers_log_functions(prompts_of, tmp_path):
    """They are read from `self` at each call, which is how the metrics of the policy are kept apart."""
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    logged, extras = {}, {}
    trainer._log_metric = logged.__setitem__
    trainer._log_completion_extra = extras.__setitem__

    def extra(completions, log_extra, **columns):
        log_extra("column", [1] * len(completions))
        return [0.5] * len(completions)

    trainer.reward_funcs[2] = extra
    completions = [[{"role": "assistant", "content": PERFECT}]] * 8
    parts = trainer._calculate_rewards(inputs, [row["prompt"] for row in inputs], completions, [[1]] * 8)
    assert parts.shape == (8, 3)
    assert parts.dtype == torch.float32
    assert parts[:4].tolist() == [[1, 3, 0.5]] * 4
    assert set(logged) == {"r_len", "r_consis", "r_acc"}
    assert extras == {"column": [1] * 8}
    assert trainer.reward_func_names == ["regression_reward", "ranking_reward", "format_reward"]
    assert trainer.reward_weights.tolist() == [1, 1, 1]


def test_seam_pending_metrics_are_flushed_into_the_modes_metrics(prompts_of, tmp_path):
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    trainer._log_metric("policy/r_len", 0.25)
    trainer._log_metric("policy/r_len", 0.75)
    Batch(trainer)
    assert trainer._metrics["train"]["policy/r_len"] == [0.5]
    trainer._metrics["train"]["a"].append(1.0)  # a list for every name
    trainer._metrics["train"]["nan"].append(math.nan)
    trainer.log({})
    assert trainer.state.log_history[-1]["a"] == 1
    assert trainer.state.log_history[-1]["nan"] is None


def test_seam_attributes(prompts_of, tmp_path):
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path)
    assert trainer._step == 0
    assert trainer.num_generations == 4
    assert trainer.max_completion_length == 64
    assert trainer._tokenizer.eos_token_id == TOKENIZER.eos_token_id
    assert trainer.accelerator.process_index == 0


def test_seam_the_image_token_is_never_sampled(prompts_of, tmp_path):
    """A response with an image's placeholder would have no image to match it; TRL keeps it out."""
    for trainer in (stock(prompts_of([3, 7]), tmp_path), ours(prompts_of([3, 7]), tmp_path)):
        assert trainer.generation_config.suppress_tokens == [trainer.model.config.image_token_id]


def test_seam_the_kl_reference_is_loaded_from_where_the_model_was(prompts_of, tiny, tmp_path):
    """So each stage's reference is its own start."""
    start = tmp_path / "stage"
    shutil.copytree(tiny, start)
    model = load_model(start)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(start)
    trainer = stock(prompts_of([3, 7], [1, 9]), tmp_path, model=str(start), beta=0.01)
    reference = trainer.ref_model.state_dict()
    assert all(torch.equal(weight, reference[name]) for name, weight in trainer.model.state_dict().items())
    base = load_model(tiny).state_dict()
    assert not any(torch.equal(weight, base[name]) for name, weight in reference.items() if weight.any())


def test_seam_the_state_counts_optimizer_steps(prompts_of, tmp_path):
    """The generator's place: `global_step`, and the generation's place in the accumulation cycle."""
    trainer = ours(
        prompts_of([3, 7], [1, 9], [2, 8], [0, 4]),
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=1,
        max_completion_length=8,
    )
    places = []
    original = trainer._choose

    def record(*rewards):
        places.append((trainer.state.global_step, trainer._step % 2))
        return original(*rewards)

    trainer._choose = record
    trainer.train()
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_oracle_of_these_tests_is_right():
    inputs = [{"values": TRUTH, "delta": 2.0, "range": [0, 9]}] * 4
    assert rewards_of(list(REWARD), inputs) == list(REWARD.values())
    assert choose([3, 3, 0, 5], [5] * 4, Mutation(2, 1.0), random.Random(0)) == [0, 2]


if __name__ == "__main__":
    play(sys.argv[1], sys.argv[2])
