"""The loss of one token, of one response and of a group, worked by hand: of which KL the gradient is
(Eq. 1), what it does to injected tokens, and how tokens and responses are averaged."""

import math

import pytest
import torch
from trl import GRPOTrainer

from helpers.grpo import ours

# A policy that says "a" with 0.8 and "b" with 0.2; its reference says either with 0.5. With z the logit of
# "a" over "b", d ln(policy of a) / dz = 0.2 and d ln(policy of b) / dz = -0.8.
POLICY = {"a": 0.8, "b": 0.2}
# Eq. 1's KL is 0.8 ln(0.8 / 0.5) + 0.2 ln(0.2 / 0.5). Its derivative by z is 0.8 x 0.2 x (ln 1.6 - ln 0.4).
KL = 0.8 * 0.470004 - 0.2 * 0.916291
KL_GRADIENT = 0.16 * 1.386294
# The other direction, KL(reference || policy), has the derivative 0.8 - 0.5.
OTHER_GRADIENT = 0.3


def loss_of(prompts_of, tmp_path, responses, advantages, injected=None, older=None, **given):
    """The loss of `responses`, texts of "a" and "b", and its derivative by z."""
    trainer = ours(prompts_of([3, 7]), tmp_path, shared_prefix="off", **given)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    length = max(map(len, responses))
    z = torch.tensor(math.log(4.0), requires_grad=True)
    said = torch.tensor(
        [[1.0 if token == "a" else -1.0 for token in r.ljust(length, "a")] for r in responses]
    )
    mask = torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in responses])
    logps = torch.nn.functional.logsigmoid(said * z)
    ones = torch.ones(len(responses), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ones,
        "prompt_mask": ones,
        "completion_ids": torch.ones_like(mask),
        "completion_mask": mask,
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": torch.full_like(logps, math.log(0.5)).detach(),
        "injected": torch.tensor(injected or [False] * len(responses)),
    }
    if older is not None:
        inputs["old_per_token_logps"] = torch.tensor(older)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            GRPOTrainer,
            "_get_per_token_logps_and_entropies",
            lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
        )
        loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), z.grad.item()


def expected_over_the_policy(prompts_of, tmp_path, **given):
    """The mean over what the policy says, of loss and derivative: the KL's alone, with a weight of 1."""
    found = {token: loss_of(prompts_of, tmp_path, [token], [0.0], beta=1.0, **given) for token in POLICY}
    return [sum(POLICY[token] * found[token][part] for token in POLICY) for part in (0, 1)]


def test_the_gradient_of_the_kl_is_that_of_eq_1(prompts_of, tmp_path):
    value, gradient = expected_over_the_policy(prompts_of, tmp_path)
    assert value == pytest.approx(KL, abs=1e-5)
    assert gradient == pytest.approx(KL_GRADIENT, abs=1e-5)


def test_without_the_ratio_it_would_be_that_of_the_other_direction(prompts_of, tmp_path):
    """TRL's `use_bias_correction_kl: false`: the value is Eq. 1's, the gradient is not."""
    value, gradient = expected_over_the_policy(prompts_of, tmp_path, use_bias_correction_kl=False)
    assert value == pytest.approx(KL, abs=1e-5)
    assert gradient == pytest.approx(OTHER_GRADIENT, abs=1e-5)
    assert abs(OTHER_GRADIENT - KL_GRADIENT) > 0.07


@pytest.mark.parametrize("injected", [[False], [True]])
def test_the_loss_of_one_response_by_hand(prompts_of, tmp_path, injected):
    """Of "ab" with an advantage of 2 and a KL of weight 0.1. The first term is -2, and by z -2 (0.2 - 0.8)
    / 2. The KL of a token is r - ln r - 1 with r = reference / policy: 0.625 and 2.5. By z it is ln(policy
    / reference) times the token's own derivative: ln 1.6 x 0.2 and ln 0.4 x -0.8. An injected response has
    the same: on its tokens this is the derivative of half the squared difference of the log-probs, and
    pulls them to the reference."""
    loss, gradient = loss_of(prompts_of, tmp_path, ["ab"], [2.0], injected, beta=0.1)
    kl_a, kl_b = 0.625 + 0.470004 - 1, 2.5 - 0.916291 - 1
    assert loss == pytest.approx(-2 + 0.1 * (kl_a + kl_b) / 2, abs=1e-5)
    pull = (0.470004 * 0.2 + -0.916291 * -0.8) / 2
    assert gradient == pytest.approx(-2 * (0.2 - 0.8) / 2 + 0.1 * pull, abs=1e-5)


def test_a_group_is_averaged_over_tokens_and_then_over_responses(prompts_of, tmp_path):
    """A response of one token weighs as much as one of three (`loss_type: grpo`); over the tokens of both
    (TRL's own default, dapo) it would weigh a third of it."""
    advantages, given = [1.0, -1.0], {"beta": 0.0}
    _, gradient = loss_of(prompts_of, tmp_path, ["a", "bbb"], advantages, **given)
    assert gradient == pytest.approx((-0.2 - 0.8) / 2, abs=1e-6)
    _, gradient = loss_of(prompts_of, tmp_path, ["a", "bbb"], advantages, loss_type="dapo", **given)
    assert gradient == pytest.approx((-0.2 - 3 * 0.8) / 4, abs=1e-6)


def test_the_clip_holds_where_a_response_serves_again(prompts_of, tmp_path):
    """A token that has become 1.6 times as probable, beyond 1 + 0.2, has no gradient with an advantage
    above 0; one that is as probable as before has the ordinary one."""
    given = {"beta": 0.0, "num_iterations": 2}
    loss, gradient = loss_of(prompts_of, tmp_path, ["a"], [1.0], older=[[math.log(0.5)]], **given)
    assert (loss, gradient) == pytest.approx((-1.2, 0.0), abs=1e-6)
    loss, gradient = loss_of(prompts_of, tmp_path, ["a"], [1.0], older=[[math.log(0.8)]], **given)
    assert (loss, gradient) == pytest.approx((-1.0, -0.2), abs=1e-6)
