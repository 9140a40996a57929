"""What an injected response weighs in the loss, and the advantages and choices of RMO's options, each worked
by hand from log-probs and rewards alone, with shared prompts and without."""

import pytest
import torch

from helpers.grpo import BACKWARDS, NOTHING, PERFECT, WRONG, Batch, ids_of, ours, script
from rarl.errors import ConfigError
from rarl.method.replies import reference_reply

REFERENCE = ids_of(reference_reply([3.0, 7.0], 1))
TEXTS = [WRONG, NOTHING, BACKWARDS, WRONG]  # 3, 0, 3 and 3: NOTHING is replaced by the reference, 5
GAMMA = 0.2


def prepared(prompts_of, tmp_path, monkeypatch, texts=TEXTS, mutation=None, **given):
    """A trainer, and a batch of one group in which one response was replaced."""
    script(monkeypatch, texts)
    mutation = {"probability": 1.0, "k": 1} | (mutation or {})
    trainer = ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4, **given)
    return trainer, Batch(trainer)


def loss_of(trainer, output):
    """The trainer's loss of a batch, and its gradients by name."""
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, output)
    loss.backward()
    gradients = {name: w.grad.clone() for name, w in trainer.model.named_parameters() if w.grad is not None}
    return loss.detach(), gradients


def by_hand(trainer, output, injected, shaped=False, kl=True):
    """Eq. 1 of the batch, token by token, averaged by response."""
    trainer.model.zero_grad()
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    keep = output["completion_ids"].shape[1]
    fields = {key: output[key] for key in ("pixel_values", "image_grid_thw", "num_images") if key in output}
    if "mm_token_type_ids" in output:
        fields["mm_token_type_ids"] = output["mm_token_type_ids"]
    logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep, **fields)
    losses = []
    for row in range(len(ids)):
        tokens = []
        for at in range(int(output["completion_mask"][row].sum())):
            logp, advantage = logps[row, at], output["advantages"][row]
            p = logp.exp()
            if row in injected and shaped:
                token = -advantage * p / (p + GAMMA)
            else:
                token = -advantage * p / p.detach()
            if trainer.beta and (kl or row not in injected):
                ratio = output["ref_per_token_logps"][row, at] - logp
                weight = p / p.detach() if trainer.args.use_bias_correction_kl else 1
                token = token + trainer.beta * (ratio.exp() - ratio - 1) * weight
            tokens.append(token)
        losses.append(torch.stack(tokens).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = {name: w.grad.clone() for name, w in trainer.model.named_parameters() if w.grad is not None}
    return loss.detach(), gradients


@pytest.mark.parametrize("shared", ["off", "on"])
@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        ({}, {}),
        ({"weight": "shaped", "gamma": GAMMA}, {"shaped": True}),
        ({"kl": False}, {"kl": False}),
        ({"weight": "shaped", "gamma": GAMMA, "kl": False}, {"shaped": True, "kl": False}),
    ],
)
def test_the_loss_and_its_gradient_are_those_worked_by_hand(
    prompts_of, tmp_path, monkeypatch, shared, mutation, expected
):
    trainer, batch = prepared(
        prompts_of, tmp_path, monkeypatch, mutation=mutation, beta=0.3, shared_prefix=shared
    )
    assert batch.mutated == [False, True, False, False]
    output = batch.output
    output["ref_per_token_logps"] = output["ref_per_token_logps"] - 0.3  # a KL that is not 0
    kept = {key: value.clone() for key, value in output.items() if isinstance(value, torch.Tensor)}
    loss, gradients = loss_of(trainer, output)
    assert all(torch.equal(output[key], value) for key, value in kept.items())  # it may be used again
    expected_loss, expected_gradients = by_hand(trainer, output, {1}, **expected)
    assert loss == pytest.approx(expected_loss.item(), abs=1e-6)
    scale = max(float(gradient.norm()) for gradient in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        assert float((gradients[name] - gradient).norm()) <= 1e-5 * scale, name
    if expected:
        plain, plain_gradients = by_hand(trainer, output, set())
        different = [float((gradients[name] - plain_gradients[name]).norm()) for name in gradients]
        assert abs(plain - loss) > 1e-4  # the options do something here
        assert max(different) > 1e-3 * scale


def test_a_shaped_token_of_negative_advantage_is_not_clipped(prompts_of, tmp_path, monkeypatch):
    """p / (p + gamma) is below 0.8 for any p below 0.4: TRL would clip there, and no gradient would come."""
    trainer, batch = prepared(
        prompts_of, tmp_path, monkeypatch, mutation={"weight": "shaped", "gamma": GAMMA}, shared_prefix="off"
    )
    batch.output["advantages"] = torch.tensor([0.0, -1.0, 0.0, 0.0])
    _, gradients = loss_of(trainer, batch.output)
    _, expected = by_hand(trainer, batch.output, {1}, shaped=True)
    scale = max(float(gradient.norm()) for gradient in expected.values())
    assert scale > 1e-4
    assert all(float((gradients[name] - expected[name]).norm()) <= 1e-5 * scale for name in expected)


def test_a_further_iteration_shapes_by_the_policy_of_then(prompts_of, tmp_path, monkeypatch):
    """Log-probs of the policy that sampled say nothing of a response that it did not sample."""
    trainer, batch = prepared(
        prompts_of, tmp_path, monkeypatch, mutation={"weight": "shaped", "gamma": GAMMA}, shared_prefix="off"
    )
    assert "old_per_token_logps" not in batch.output
    loss, gradients = loss_of(trainer, batch.output)
    seen = []
    original = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: seen.append(original(*a, **k)) or seen[-1]
    loss_of(trainer, batch.output)
    old = seen[0][0].detach().clone()
    old[1] -= 1.0  # the injected one
    again, others = loss_of(trainer, batch.output | {"old_per_token_logps": old})
    assert again == pytest.approx(loss.item(), abs=1e-6)
    assert all(torch.allclose(others[name], gradients[name], atol=1e-6) for name in gradients)


@pytest.mark.parametrize("shared", ["off", "on"])
def test_advantages_by_the_policys_own_statistics(prompts_of, tmp_path, monkeypatch, shared):
    """The policy earned 3, 0, 3 and 3: mean 9/4, deviation 3/2. NOTHING was replaced by 5."""
    mutation = {"statistics": "own"}
    trainer, batch = prepared(prompts_of, tmp_path, monkeypatch, mutation=mutation, shared_prefix=shared)
    expected = [0.75 / 1.5001, 2.75 / 1.5001, 0.75 / 1.5001, 0.75 / 1.5001]
    assert batch.advantages == pytest.approx(expected, abs=1e-5)
    assert list(trainer._logs["advantages"]) == pytest.approx(expected, abs=1e-5)


def test_where_the_policys_own_rewards_are_equal_the_groups_statistics_hold(
    prompts_of, tmp_path, monkeypatch
):
    """5, 3, 3 and 3 after replacement: mean 7/2, deviation 1."""
    _, batch = prepared(prompts_of, tmp_path, monkeypatch, [WRONG] * 4, {"statistics": "own"})
    assert batch.mutated == [True, False, False, False]
    assert batch.advantages == pytest.approx([1.5 / 1.0001, *[-0.5 / 1.0001] * 3], abs=1e-5)


# ── normalize_then_sum ───────────────────────────────────────────────────────────────────────────────────


def test_equal_sums_are_not_stagnant_where_trl_normalizes_first(prompts_of, tmp_path, monkeypatch):
    """Each response earns 3 in all, by other rewards. Their advantages differ, so `when: stagnant` leaves
    them alone; by the sums it would have replaced two."""
    parts = {0: (3.0, 0.0, 0.0), 1: (0.0, 3.0, 0.0), 2: (0.0, 3.0, 0.0), 3: (0.0, 2.0, 1.0)}
    texts = ["<think>a</think>", "<think>b</think>", "<think>c</think>", "<think>d</think>"]

    def column(place):
        def reward(completions, **columns):
            said = [completion[0]["content"] for completion in completions]
            return [parts[texts.index(text)][place] if text in texts else 5.0 for text in said]

        reward.__name__ = ("regression_reward", "ranking_reward", "format_reward")[place]
        return reward

    mutation = {"when": "stagnant", "k": 2}
    for aggregation, mutated in (("sum_then_normalize", 2), ("normalize_then_sum", 0)):
        _, batch = prepared(
            *(prompts_of, tmp_path, monkeypatch, texts, mutation),
            reward_funcs=[column(place) for place in range(3)],
            multi_objective_aggregation=aggregation,
        )
        assert sum(batch.mutated) == mutated
        assert batch.metrics["mutation/stagnant_before"] == (1.0 if mutated else 0.0)
        assert batch.metrics["groups/no_variance"] == (1.0 if mutated else 0.0)
        assert max(batch.advantages) > 0.8  # both learn: one by what was replaced, one by its own


@pytest.mark.parametrize(("aggregation", "worst"), [("normalize_then_sum", 0), ("sum_then_normalize", 1)])
def test_the_worst_is_the_one_of_the_lowest_advantage(prompts_of, tmp_path, monkeypatch, aggregation, worst):
    """The columns' means are 3/4 and 7, their deviations 1/2 and 2: twice the first and once the second are
    worth -2.5, -0.5, 1.5 and 1.5 as TRL takes them then, and 8, 6, 10 and 10 as plain sums."""
    rows = [(0.0, 8.0), (1.0, 4.0), (1.0, 8.0), (1.0, 8.0)]
    texts = ["<think>a</think>", "<think>b</think>", "<think>c</think>", "<think>d</think>"]

    def column(place):
        def reward(completions, **columns):
            said = [completion[0]["content"] for completion in completions]
            return [rows[texts.index(text)][place] if text in texts else 20.0 for text in said]

        reward.__name__ = ("regression_reward", "ranking_reward")[place]
        return reward

    script(monkeypatch, texts)
    trainer = ours(
        prompts_of([3, 7]),
        tmp_path,
        {"probability": 1.0, "k": 1},
        per_device_train_batch_size=4,
        reward_funcs=[column(place) for place in range(2)],
        reward_weights=[2.0, 1.0],
        multi_objective_aggregation=aggregation,
    )
    trainer.model.train()
    trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert list(trainer._logs["extra"]["mutated"]) == [index == worst for index in range(4)]


# ── over the stage ───────────────────────────────────────────────────────────────────────────────────────


def test_a_decay_is_of_the_stages_steps(prompts_of, tmp_path):
    """From k = 3 at the first of three steps over 2 to 1 at the last."""
    dataset = prompts_of([3, 7], [1, 9], [0, 2])
    given = {"per_device_train_batch_size": 4, "max_completion_length": 64, "temperature": 2.0}
    mutation = {"probability": 1.0, "k": 3, "decay": "linear", "k_end": 1, "probability_end": 1.0}
    trainer = ours(dataset, tmp_path, mutation, max_steps=3, **given)
    trainer.train()
    fractions = [log["mutation/fraction"] for log in trainer.state.log_history if "reward" in log]
    assert fractions == [0.75, 0.5, 0.25]


# ── the replay ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_replay_gives_the_best_reply_of_before_and_the_truth_where_there_is_none(
    prompts_of, tmp_path, monkeypatch
):
    mutation = {"probability": 1.0, "k": 1, "reference": "replay"}
    trainer = ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4)
    trainer.model.train()
    inputs = next(iter(trainer.get_train_dataloader()))

    def injected(texts):
        script(monkeypatch, texts)
        output = trainer._generate_and_score_completions([dict(row) for row in inputs])
        mutated = list(trainer._logs["extra"]["mutated"])[-4:]
        ids = output["completion_ids"][mutated.index(True)]
        return ids[: int(output["completion_mask"][mutated.index(True)].sum())].tolist()

    assert injected([WRONG, NOTHING, NOTHING, NOTHING]) == REFERENCE  # the prompt is seen for the first time
    assert injected([NOTHING] * 4) == ids_of(WRONG)
    assert injected([WRONG] * 4) == REFERENCE  # it has had none that is better than these
    other = PERFECT.replace("<think>", "<think>!")
    assert injected([WRONG, other, NOTHING, NOTHING]) == ids_of(WRONG)  # that of this step is not yet known
    assert injected([WRONG] * 4) == ids_of(other)


def test_the_replay_remembers_no_reply_in_another_format(prompts_of, tmp_path, monkeypatch):
    bare = BACKWARDS.replace("<think>bc</think>", "")  # earns more than NOTHING, and has no reasoning
    mutation = {"probability": 1.0, "k": 1, "reference": "replay"}
    trainer = ours(prompts_of([3, 7]), tmp_path, mutation, per_device_train_batch_size=4)
    trainer.model.train()
    inputs = next(iter(trainer.get_train_dataloader()))
    script(monkeypatch, [bare, NOTHING, NOTHING, NOTHING])
    trainer._generate_and_score_completions(inputs)
    assert trainer._replay.state() == []


def test_the_replay_needs_names_of_prompts(prompts_of, tmp_path, monkeypatch):
    script(monkeypatch, [WRONG] * 4)
    dataset = prompts_of([3, 7])
    mutation = {"probability": 1.0, "k": 1, "reference": "replay"}
    trainer = ours(dataset, tmp_path, mutation, per_device_train_batch_size=4)
    trainer.model.train()
    rows = next(iter(trainer.get_train_dataloader()))
    inputs = [{key: value for key, value in row.items() if key != "ids"} for row in rows]
    with pytest.raises(ConfigError, match="columns 'rule' and 'ids', which name a prompt; missing: ids"):
        trainer._generate_and_score_completions(inputs)


# ── what does not go together ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mutation", "given", "said"),
    [
        ({"weight": "shaped"}, {"loss_type": "cispo"}, "'shaped' is not possible with loss_type: cispo"),
        (
            {"weight": "shaped"},
            {"importance_sampling_level": "sequence"},
            "not possible with importance_sampling_level: sequence",
        ),
        ({"statistics": "own"}, {"scale_rewards": "batch"}, "needs scale_rewards group, not batch"),
        (
            {"statistics": "own"},
            {"multi_objective_aggregation": "normalize_then_sum"},
            "sum_then_normalize, not normalize_then_sum",
        ),
    ],
)
def test_options_that_trl_would_make_into_something_else_are_refused(
    prompts_of, tmp_path, mutation, given, said
):
    with pytest.raises(ConfigError, match=said):
        ours(prompts_of([3, 7]), tmp_path, {"probability": 0.5, **mutation}, **given)
    ours(prompts_of([3, 7]), tmp_path, {"probability": 0.0, **mutation}, **given)  # nothing is injected
