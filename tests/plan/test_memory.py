"""The bytes of a plan by hand, for a model small enough: each kind of tensor, and what each choice of a run
changes."""

from dataclasses import replace

import pytest

from rarl.plan.architecture import Architecture, Blocks
from rarl.plan.memory import Work, memory

MODEL = Architecture(
    family="qwen2_5_vl",
    text=Blocks(number=2, hidden=10, queries=10, keys=5, inner=20),
    vision=Blocks(number=1, hidden=4, queries=4, keys=4, inner=8),
    parameters=1000,
    layer_parameters=300,
    vocabulary=50,
    patches=4.0,
    patch_values=6,
    linear={},
)
# Two prompts of 11 tokens are generated for, 3 of them of images, with two responses of 5 each; then one
# prompt at a time is trained on. In float32, and with all activations kept.
WORK = Work(
    prompt=11,
    of_images=3,
    responses=2,
    length=5,
    at_once=2,
    generated=4,
    accumulates=True,
    shared=True,
    checkpointing=False,
    half=False,
)
TOKENS = 10 + 2 * 5
# 6 hidden, 3 queries and 4 inner widths; keys and values of both responses, and of the prompt by itself.
LAYER = TOKENS * (60 + 30 + 80) * 4 + 2 * (2 * 16 + 11) * 10 * 4
TOWER = 12 * (24 + 12 + 32) * 4 + 2 * 24 * 4 * 4  # 12 patches


PARTS = ("weights", "reference", "gradients", "optimizer")
PARTS += ("images", "activations", "head", "generation")


def parts(engine="ddp", cards=1, **changes):
    return memory(MODEL, replace(WORK, **changes), engine, cards)


def test_all_weights_on_one_card():
    found = parts()
    assert (found.weights, found.reference, found.gradients, found.optimizer) == (4000, 4000, 4000, 8000)
    assert found.engine == 0
    assert found.images == 2 * 12 * 6 * 4  # of both prompts
    assert found.activations == 2 * LAYER + TOWER
    assert found.head == 20 * 50 * 4 * 2 + 50 * 10 * 4  # a tile and its gradient; the gradient of the head
    # Two layers' keys and values, of both prompts once and of four responses; what one layer has at a time.
    assert found.generation == 2 * 2 * 5 * (2 * 11 + 4 * 5) * 4 + 2 * 11 * (3 * 20 + 2 * 10) * 4
    held = 4000 + 4000 + 8000 + found.images
    assert found.peak == held + 4000 + found.activations + found.head


def test_without_accumulation_gradients_come_as_activations_go():
    found = parts(accumulates=False)
    assert found.peak == parts().peak - found.gradients
    assert found.activations > found.gradients


def test_generation_can_be_the_peak():
    found = parts(length=5, generated=4000, checkpointing=True)
    assert found.peak == 16000 + found.images + found.generation


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # A prompt for each response: two rows of 16 tokens, and no other keys; images as often.
        (
            {"shared": False},
            {
                "activations": 2 * (2 * 16 * 170 * 4 + 2 * 32 * 10 * 4) + 2 * TOWER,
                "images": 4 * 12 * 6 * 4,
                "head": 32 * 50 * 4 * 2 + 2000,
                "generation": 2 * 2 * 5 * 4 * 16 * 4 + 4 * 11 * 80 * 4,
            },
        ),
        # The inputs of two layers and of the tower; one layer again, with gradients of its widest parts.
        (
            {"checkpointing": True},
            {"activations": 2 * 20 * 10 * 4 + 12 * 4 * 4 + LAYER + 20 * (2 * 20 + 10) * 4},
        ),
        # Of a norm two in float32 and one in half; all else in half.
        (
            {"half": True},
            {
                "activations": 2 * (20 * (2 * 10 * 10 + 30 * 2 + 80 * 2) + 2 * 43 * 10 * 2)
                + 12 * (2 * 4 * 10 + 12 * 2 + 32 * 2)
                + 2 * 24 * 4 * 2
            },
        ),
        ({"reference": False}, {"reference": 0}),
        # Of 100 adapter parameters each has a weight, a gradient and two moments; no second model is needed.
        (
            {"adapters": 100, "reference": False},
            {"weights": 4400, "gradients": 400, "optimizer": 800, "reference": 0, "head": 8000},
        ),
        (
            {"adapters": 100, "frozen_bytes": 2},
            {"weights": 2400, "reference": 2000, "gradients": 400, "optimizer": 800, "head": 8000},
        ),
        ({"frozen_bytes": 2}, {"weights": 4000}),  # nothing is frozen
    ],
    ids=["unshared", "checkpointing", "half", "no reference", "adapters", "half base", "nothing frozen"],
)
def test_what_a_choice_changes(changes, expected):
    found, before = parts(**changes), parts()
    for part in PARTS:
        assert getattr(found, part) == expected.get(part, getattr(before, part)), part


def test_ddp_has_the_gradients_twice_on_every_card():
    assert parts("ddp", 4) == replace(parts(), engine=4000)


def test_fsdp_shares_what_is_held():
    found = parts("fsdp", 4)
    shared = {"weights": 1000, "reference": 1000, "gradients": 1000, "optimizer": 2000}
    # The head and two layers, in half precision, as weights and as gradients.
    assert found == replace(parts(), **shared, engine=2 * (50 * 10 + 2 * 300) * 2)
