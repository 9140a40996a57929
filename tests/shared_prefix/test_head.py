"""Log-probs and entropies of the lean head are those of TRL's, and of plain softmax in double precision."""

import pytest
import torch
import trl.trainer.utils as of_trl

from helpers.sharing import trainer_of
from rarl.shared_prefix.head import lean_head

OWN = of_trl._ChunkedLogProbFunction


def drawn(tokens=700, vocabulary=1500, size=16):
    made = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, size, generator=made) for rows in (tokens, vocabulary))
    return hidden, weight, torch.randint(vocabulary, (tokens,), generator=made)


def computed(function, hidden, weight, targets, parts, outputs=("log_probs", "entropy"), **others):
    """Log-probs, entropies, and the gradients of a sum of `parts` of them."""
    given = {"bias": None, "softcap": None, "scale": 1.0, **others}
    hidden, weight = (each.clone().requires_grad_() for each in (hidden, weight))
    found = function.apply(
        hidden, weight, given["bias"], targets, 1.3, 512, given["softcap"], given["scale"], outputs
    )
    weights = torch.linspace(-1, 1, len(targets), dtype=torch.float64)
    loss = sum(((at + 1) * weights * found[at].double()).sum() for at in parts)
    loss.backward()
    return [*found[:2], hidden.grad, weight.grad]


def assert_near(found, expected, limit):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert float((ours - theirs).detach().norm()) <= limit * float(theirs.detach().norm())


@pytest.mark.parametrize("parts", [[0], [1], [0, 1]])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_numbers_and_gradients_are_those_of_trl(parts, scale):
    with lean_head("cpu"):
        assert of_trl._ChunkedLogProbFunction is not OWN
        found = computed(of_trl._ChunkedLogProbFunction, *drawn(), parts, scale=scale)
    assert of_trl._ChunkedLogProbFunction is OWN
    assert_near(found, computed(OWN, *drawn(), parts, scale=scale), 1e-5)


def test_half_precision_is_rounded_where_trl_rounds():
    with torch.autocast("cpu", dtype=torch.bfloat16), lean_head("cpu"):
        found = computed(of_trl._ChunkedLogProbFunction, *drawn(), [0, 1])
        expected = computed(OWN, *drawn(), [0, 1])
    assert_near(found, expected, 2e-3)
    assert_near(found[:2], expected[:2], 1e-6)


def test_without_entropies_none_are_computed():
    hidden, weight, targets = drawn()
    with lean_head("cpu"):
        found = of_trl._ChunkedLogProbFunction.apply(
            hidden, weight, None, targets, 1.0, 512, None, 1.0, ("log_probs",)
        )
    assert found[1:] == (None, None, None, None)
    logits = hidden.double() @ weight.double().T
    exact = logits.log_softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(found[0].double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("given", [{"bias": torch.ones(1500)}, {"softcap": 5.0}])
def test_what_it_does_not_know_is_trls_own(given):
    with lean_head("cpu"):
        found = computed(of_trl._ChunkedLogProbFunction, *drawn(), [0], **given)
    for ours, theirs in zip(found, computed(OWN, *drawn(), [0], **given), strict=True):
        assert torch.equal(ours, theirs)


def test_a_gpu_has_trls_own():
    with lean_head("cuda"):
        assert of_trl._ChunkedLogProbFunction is OWN


def test_the_trainer_uses_it(dataset, tmp_path, monkeypatch):
    def refused(*given):
        raise AssertionError("TRL's own")

    monkeypatch.setattr(OWN, "forward", staticmethod(refused))
    trainer = trainer_of(dataset, tmp_path / "on", "on", max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1
    with pytest.raises(AssertionError, match="TRL's own"):
        trainer_of(dataset, tmp_path / "off", "off", max_steps=1).train()
