"""RARLTrainer inside TRL's pipeline, with the embedded model: without mutation it is the stock trainer, the
replaced responses are those that `mutation.choose` picks, and everything TRL computes afterwards is of the
group after replacement."""

import math
import random
from copy import deepcopy

import pytest
import torch

from helpers.grpo import (
    BACKWARDS,
    NOTHING,
    PERFECT,
    REWARD,
    TOKENIZER,
    TRUTH,
    WRONG,
    Batch,
    ids_of,
    ours,
    rewards_of,
    script,
    spy_on_generation,
    stock,
    text_of,
    trained,
)
from rarl.method.equations import advantages, mutated_advantages
from rarl.method.mutation import Mutation, choose
from rarl.method.replies import reference_items, write_reply
from rarl.method.rewards import ranking_reward
from rarl.training.trainer import REWARDS

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
    """Three steps of the stock trainer. The KL term keeps its losses from being all near 0."""
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
    """The model really samples here, hot enough to be often wrong, malformed or cut off."""
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
        # The lowest are NOTHING and one of the two 3s, of which the earlier is taken.
        ({}, [PERFECT, WRONG, NOTHING, BACKWARDS], [PERFECT, PERFECT, PERFECT, BACKWARDS]),
        ({"k": 1}, [PERFECT, WRONG, NOTHING, BACKWARDS], [PERFECT, WRONG, PERFECT, BACKWARDS]),
        # All would become perfect.
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
        "rarl.method.mutation.differ", lambda rewards: True
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
    # The first has no reasoning of its own, so it becomes a copy of the best.
    assert batch.texts == [PERFECT, PERFECT, f"<think>mine</think>{answer}", WRONG]


@pytest.mark.parametrize(
    "own",
    [
        "a</think>?",  # no <think>
        "<think>the <answer> is near</think>?",
        "<think>so </answer></think>?",
        "<think><think>twice</think>?",
        "Well: <think>a</think>?",
        # A special token is in no text that is scored, and would be trained on all the same.
        [*ids_of("<think>a"), *ids_of("</think>?")],
    ],
)
@pytest.mark.parametrize("reference", ["ground_truth", "best"])
def test_keep_injects_what_has_the_form_or_the_reference_whole(
    prompts_of, tmp_path, monkeypatch, own, reference
):
    script(monkeypatch, [own, WRONG, WRONG, WRONG if reference == "ground_truth" else PERFECT])
    mutation = {"probability": 1.0, "reasoning": "keep", "k": 1, "reference": reference}
    batch = Batch(ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4))
    assert batch.mutated == [True, False, False, False]
    assert batch.texts[0] == PERFECT
    assert batch.ids[0] == ids_of(PERFECT)


@pytest.mark.parametrize(
    "best",
    [
        PERFECT.removeprefix("<think>"),  # 1 + 3 + 0, more than any other
        TOKENIZER.encode(PERFECT, add_special_tokens=False),  # cut before its end token
        [*ids_of("<think>"), *ids_of(PERFECT.removeprefix("<think>"))],
    ],
)
def test_best_is_of_those_that_have_the_form_and_ended(prompts_of, tmp_path, monkeypatch, best):
    mutation = {"probability": 1.0, "reference": "best", "k": 1}
    script(monkeypatch, [best, NOTHING, NOTHING, WRONG])
    trainer = ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4)
    assert Batch(trainer).texts[1:] == [WRONG, NOTHING, WRONG]
    script(monkeypatch, [best, NOTHING, NOTHING, NOTHING])
    trainer = ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4)
    assert Batch(trainer).mutated == [False] * 4


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
    """vLLM gives log-probs. A replaced response gets one None per token, which TRL takes as unknown."""
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
    """Those of vision are never sampled (see test_vision_tokens.py), and would do no harm if they were."""
    script(monkeypatch, [PERFECT, [TOKENIZER.convert_tokens_to_ids(token), *ids_of(WRONG)], WRONG, NOTHING])
    trainer = ours(
        prompts_of([3, 7]), tmp_path, {"probability": 1.0}, per_device_train_batch_size=4, max_steps=1
    )
    logs, weights = trained(trainer)
    assert math.isfinite(logs[0]["loss"])
    assert all(weight.isfinite().all() for weight in weights.values())


# ── what comes of it ─────────────────────────────────────────────────────────────────────────────────────


def gradients(trainer):
    """The gradients of the first step's loss."""
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
    """TRL's own arithmetic against the equations; R_rank is None, and left out, for one picture and for a
    tie."""
    alone = '<think></think><answer>[{"image_id": 1, "value": 4}]</answer>'
    texts = [PERFECT, WRONG, BACKWARDS, NOTHING, alone]
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
    """Although the responses are scored three times, they are logged once."""
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
    """R_rank is None for one picture. A group without any reward doesn't stop training."""
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


def test_the_oracle_of_these_tests_is_right():
    inputs = [{"values": TRUTH, "delta": 2.0, "range": [0, 9]}] * 4
    assert rewards_of(list(REWARD), inputs) == list(REWARD.values())
    assert choose([3, 3, 0, 5], [5] * 4, Mutation(k=2, probability=1.0), random.Random(0)) == [0, 2]


@pytest.mark.parametrize("shared_prefix", ["on", "off"])
def test_adapters_decode_in_the_dtype_of_training(prompts_of, tmp_path, shared_prefix):
    """PEFT generates with the model inside, which accelerate's autocast does not reach."""
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = ours(
        prompts_of([3, 7], [1]),
        tmp_path,
        peft_config=lora,
        bf16=True,
        shared_prefix=shared_prefix,
        max_steps=1,
    )
    layer = next(module for name, module in trainer.model.named_modules() if name.endswith("layers.0.mlp"))
    seen = []

    def record(module, inputs, output):
        seen.append((output.dtype, torch.is_grad_enabled()))

    layer.register_forward_hook(record)
    trainer.train()
    decoded = [dtype for dtype, trained in seen if not trained]
    assert len(decoded) > 8  # a token at a time
    assert set(decoded) == {torch.bfloat16}
