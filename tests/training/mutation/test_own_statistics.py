"""KL and entropy of the policy's own responses, `policy/kl` and `policy/entropy`, beside TRL's, which are of
injected ones too."""

import math

import pytest
import torch

from helpers.grpo import NOTHING, PERFECT, WRONG, ids_of, ours, script, trained
from helpers.sharing import on_and_off, pictures
from rarl.training.trainer import REWARDS

OWN = ("kl", "entropy")


def scored(monkeypatch, trainer, logps, entropies):
    """Makes the model's log-probs and entropies the given ones."""
    values = torch.tensor(logps, requires_grad=True), torch.tensor(entropies)
    for base in type(trainer).__mro__:
        if base.__name__ == "GRPOTrainer":
            monkeypatch.setattr(
                base, "_get_per_token_logps_and_entropies", lambda self, *args, **kwargs: (*values, None)
            )
    return values[0]


def batch(reference, mask, injected, **more):
    size, length = torch.tensor(mask).shape
    return {
        "prompt_ids": torch.ones(size, 1, dtype=torch.long),
        "prompt_mask": torch.ones(size, 1, dtype=torch.long),
        "completion_ids": torch.ones(size, length, dtype=torch.long),
        "completion_mask": torch.tensor(mask),
        "advantages": torch.zeros(size),
        "num_items_in_batch": torch.tensor(mask).sum(),
        "ref_per_token_logps": torch.tensor(reference),
        "injected": torch.tensor(injected),
        **more,
    }


def metrics_of(trainer):
    return {name: values[-1] for name, values in trainer._metrics["train"].items()}


def test_means_by_hand(prompts_of, tmp_path, monkeypatch):
    """Two own responses of 2 and 1 tokens, and an injected one of 2. With log-probs of ln 1/2 and a reference
    of ln 1/4, the KL of a token is 1/2 + ln 2 - 1; with equal ones it is 0."""
    trainer = ours(prompts_of([3, 7]), tmp_path, beta=0.1, shared_prefix="off")
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    half, quarter = math.log(1 / 2), math.log(1 / 4)
    scored(
        monkeypatch, trainer, [[half, half], [half, 0.0], [half, half]], [[0.6, 0.3], [0.3, 9.0], [0.0, 0.0]]
    )
    inputs = batch(
        [[quarter, half], [half, -9.0], [quarter, quarter]], [[1, 1], [1, 0], [1, 1]], [False, False, True]
    )
    trainer._compute_loss(trainer.model, inputs)
    found, token = metrics_of(trainer), 0.5 + math.log(2) - 1
    assert found["kl"] == pytest.approx(3 * token / 5)
    assert found["policy/kl"] == pytest.approx(token / 3)
    assert found["entropy"] == pytest.approx(1.2 / 5)
    assert found["policy/entropy"] == pytest.approx(1.2 / 3)


def test_older_log_probs_weigh_as_in_the_loss(prompts_of, tmp_path, monkeypatch):
    """A token that has become twice as probable counts twice, as Eq. 1's gradient wants it."""
    trainer = ours(prompts_of([3, 7]), tmp_path, beta=0.1, shared_prefix="off")
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    half, quarter = math.log(1 / 2), math.log(1 / 4)
    scored(monkeypatch, trainer, [[half], [half]], [[0.5], [0.1]])
    older = torch.tensor([[quarter], [quarter]])
    inputs = batch([[quarter], [half]], [[1], [1]], [False, True], old_per_token_logps=older)
    trainer._compute_loss(trainer.model, inputs)
    assert metrics_of(trainer)["policy/kl"] == pytest.approx(2 * (0.5 + math.log(2) - 1))
    assert metrics_of(trainer)["policy/entropy"] == pytest.approx(0.5)


def test_where_every_response_is_injected_there_is_no_mean(prompts_of, tmp_path, monkeypatch):
    trainer = ours(prompts_of([3, 7]), tmp_path, beta=0.1, shared_prefix="off")
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    scored(monkeypatch, trainer, [[-1.0]], [[0.5]])
    trainer._compute_loss(trainer.model, batch([[-1.0]], [[1]], [True]))
    assert math.isnan(metrics_of(trainer)["policy/kl"])
    scored(monkeypatch, trainer, [[-1.0]], [[0.25]])
    trainer._compute_loss(trainer.model, batch([[-1.0]], [[1]], [False]))
    trainer.log({})
    assert trainer.state.log_history[-1]["policy/entropy"] == 0.25  # the mean of the others


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"shared_prefix": "on"},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "shared_prefix": "on"},
        {"num_iterations": 2, "shared_prefix": "on"},
        {"num_iterations": 2, "use_bias_correction_kl": False},
        {"num_iterations": 2, "importance_sampling_level": "sequence"},
    ],
)
def test_without_injected_responses_they_are_trl_s(prompts_of, tmp_path, given):
    dataset = prompts_of([3, 7], [1, 9], [0, 2], [8, 4])
    given = {"shared_prefix": "off", "max_completion_length": 24} | given
    logs, _ = trained(ours(dataset, tmp_path, beta=0.04, learning_rate=3e-3, max_steps=4, **given))
    for log in logs[:4]:
        for name in OWN:
            assert log[f"policy/{name}"] == pytest.approx(log[name], rel=1e-6, abs=1e-9)
    assert logs[3]["policy/kl"] > 1e-3


def test_without_a_reference_there_is_no_kl(prompts_of, tmp_path):
    logs, _ = trained(ours(prompts_of([3, 7], [1, 9]), tmp_path, beta=0.0, max_steps=1))
    assert "policy/kl" not in logs[0]
    assert logs[0]["policy/entropy"] == pytest.approx(logs[0]["entropy"])


@pytest.mark.parametrize("shared", ["on", "off"])
def test_injected_responses_are_left_out_through_the_shuffle(prompts_of, tmp_path, monkeypatch, shared):
    """The policy says one thing throughout: whichever rows a micro-batch has, its own mean is that of the
    unmutated group."""
    dataset = prompts_of([3, 7], [3, 7])
    script(monkeypatch, [WRONG] * 8)
    given = {"beta": 0.04, "max_steps": 1, "shared_prefix": shared, "max_completion_length": 80}
    given |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    plain, _ = trained(ours(dataset, tmp_path / "plain", **given))
    mutated, _ = trained(ours(dataset, tmp_path / "mutated", {"probability": 1.0}, **given))
    assert mutated[0]["mutation/fraction"] == 0.5
    for name in OWN:
        assert mutated[0][f"policy/{name}"] == pytest.approx(plain[0][name], rel=1e-5, abs=1e-8)
    assert mutated[0]["entropy"] != pytest.approx(plain[0]["entropy"], rel=1e-3)


def test_the_replaced_response_alone_is_left_out(prompts_of, tmp_path, monkeypatch):
    script(monkeypatch, [WRONG, NOTHING, PERFECT, WRONG])
    given = {"per_device_train_batch_size": 4, "max_steps": 1, "shared_prefix": "off", "beta": 0.04}
    trainer = ours(prompts_of([3, 7]), tmp_path, {"probability": 1.0, "k": 1}, **given)
    seen = []
    original = trainer._get_per_token_logps_and_entropies

    def watched(*arguments, **named):
        scores = original(*arguments, **named)
        if named.get("compute_entropy"):
            seen.append((arguments, scores[1].detach()))
        return scores

    trainer._get_per_token_logps_and_entropies = watched
    logs, _ = trained(trainer)
    [(arguments, entropies)] = seen
    _, ids, mask, keep = arguments
    ids, mask = ids[:, -keep:], mask[:, -keep:]
    # NOTHING earns least. PERFECT takes its place and is there twice then; both rows have the same entropies.
    perfect = [row for row in range(4) if ids[row][mask[row] == 1].tolist() == ids_of(PERFECT)]
    assert len(perfect) == 2
    own = [row for row in range(4) if row != perfect[0]]
    expected = (entropies * mask)[own].sum() / mask[own].sum()
    assert logs[0]["policy/entropy"] == pytest.approx(expected.item(), rel=1e-5)


def test_shared_and_unshared_log_the_same_of_mutated_groups(digits, tmp_path):
    (tmp_path / "pictures").mkdir()
    dataset = pictures(digits, tmp_path / "pictures", [[3, 7], [1], [2, 8, 4], [5, 6]])
    own, _, _ = on_and_off(
        dataset, tmp_path, rewards=REWARDS, mutation_probability=1.0, max_completion_length=80, max_steps=2
    )
    for log in own.logs[:2]:
        assert log["mutation/fraction"] > 0
        assert {"policy/kl", "policy/entropy"} <= log.keys()
