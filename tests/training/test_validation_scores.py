"""What one reply scores (Eq. 8), which step's weights are kept, and which prompts are asked."""

import pytest

from helpers.validated import SFT
from rarl.data.collection import OrderedRow, Row
from rarl.data.groups import Group
from rarl.method.tasks import DIGITS
from rarl.training.callbacks import (
    SCORE_KEY,
    kept_step,
    reply_score,
    validation_groups,
)
from rarl.training.sections import Weights

# ── the score of one reply ───────────────────────────────────────────────────────────────────────────────


def group_of(*values, order=None):
    fields = [(str(i), f"/nowhere/{i}.png", value) for i, value in enumerate(values)]
    return Group(tuple(Row(*row) if order is None else OrderedRow(*row, order=order) for row in fields))


def answer(*listed, thought="<think>so</think>"):
    entries = ", ".join(f'{{"image_id": {image_id}, "value": {value}}}' for image_id, value in listed)
    return f"{thought}<answer>[{entries}]</answer>"


ONES = Weights()
OTHERS = Weights(regression=2, ranking=0.5, format=0.25)
# DIGITS has delta 2: 1 at the truth, (3/4)^2 = 0.5625 one digit away, (1/2)^2 = 0.25 two away, then 0.
TABLE = [
    # One image has no ranking. Right; one away; no thoughts, so no format; nothing.
    (group_of(3.0), answer((1, 3)), ONES, 1 + 1),
    (group_of(3.0), answer((1, 4)), ONES, 0.5625 + 1),
    (group_of(3.0), answer((1, 4), thought=""), ONES, 0.5625),
    (group_of(3.0), "seven", ONES, 0.0),
    (group_of(3.0), answer((1, 4)), OTHERS, 2 * 0.5625 + 0.25),
    # Two images: all right; in the wrong order with its own values ascending; the values right, listed
    # descending (consistency and accuracy 0); one image left out (r_len 1/2, one pair counted 0 is 1/2).
    (group_of(2.0, 5.0), answer((1, 2), (2, 5)), ONES, 1 + 3 + 1),
    (group_of(2.0, 5.0), answer((2, 4), (1, 4)), ONES, (0.25 + 0.5625) / 2 + (1 + 0.5 + 0) + 1),
    (group_of(2.0, 5.0), answer((2, 5), (1, 2)), ONES, 1 + (1 + 0 + 0) + 1),
    (group_of(2.0, 5.0), answer((1, 2)), ONES, 0.5 + (0.5 + 0.5 + 0.5) + 1),
    (group_of(2.0, 5.0), answer((1, 2), (2, 5)), OTHERS, 2 * 1 + 0.5 * 3 + 0.25),
    # Stage 1's weights: the ranking does not count.
    (group_of(2.0, 5.0), answer((1, 2), (2, 5)), Weights(ranking=0), 2.0),
    # All true values are equal: nothing to rank.
    (group_of(4.0, 4.0), answer((1, 4), (2, 5)), ONES, (1 + 0.5625) / 2 + 1),
    # A value outside the range counts 0, but is still ranked.
    (group_of(2.0, 5.0), answer((1, 2), (2, 50)), ONES, 0.5 + 3 + 1),
    # Only the order is known (picture 2 before picture 1): no regression, whatever the values are.
    (group_of(1.0, 0.0, order=1), answer((2, 7), (1, 8)), ONES, 3 + 1),
    (group_of(1.0, 0.0, order=1), answer((1, 1), (2, 8)), ONES, (1 + 1 + 0) + 1),
    (group_of(1.0, 0.0, order=1), answer((2, 7), (1, 8)), OTHERS, 0.5 * 3 + 0.25),
]


@pytest.mark.parametrize(("group", "text", "weights", "wanted"), TABLE)
def test_the_score_of_one_reply(group, text, weights, wanted):
    assert reply_score(group, text, DIGITS, weights) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("history", "keep", "step"),
    [
        ([], "last", 0),
        ([], "best", 0),
        ([{SCORE_KEY: 1.0, "step": 0}, {"loss": 0, "step": 3}], "last", 3),
        (
            [{SCORE_KEY: 1.0, "step": 0}, {SCORE_KEY: 0.5, "step": 2}, {"train_runtime": 1, "step": 2}],
            "best",
            0,
        ),
        ([{SCORE_KEY: 1.0, "step": 0}, {SCORE_KEY: 2.0, "step": 2}, {SCORE_KEY: 2.0, "step": 4}], "best", 2),
        ([{SCORE_KEY: -1.0, "step": 0}, {SCORE_KEY: -0.5, "step": 2}], "best", 2),
        ([{"loss": 0, "step": 3}], "best", 3),
    ],
)
def test_the_step_that_is_kept(history, keep, step):
    assert kept_step(history, keep) == step


# ── the prompts ──────────────────────────────────────────────────────────────────────────────────────────


def test_as_many_prompts_for_each_number_of_images_from_the_split_that_is_named(
    validated_config_of, validated_digits
):
    config = validated_config_of(validation={"prompts": 5, "images": [4, 1, 2, 2]})
    groups = validation_groups(config, validated_digits)
    assert [len(group.rows) for group in groups] == [1] * 5 + [2] * 5 + [4] * 5
    held_out = {row.id for row in validated_digits.split("validation")}
    assert {row.id for group in groups for row in group.rows} <= held_out


def test_the_prompts_are_the_same_for_all_arms_and_others_for_another_seed(
    validated_config_of, validated_digits
):
    config = validated_config_of()
    assert validation_groups(config, validated_digits) == validation_groups(
        validated_config_of("other", sft=SFT), validated_digits
    )
    assert validation_groups(config, validated_digits) != validation_groups(
        validated_config_of(seed=4), validated_digits
    )


def test_without_the_section_nothing_is_asked(validated_config_of, validated_digits):
    config = validated_config_of(validation=None)
    assert validation_groups(config, validated_digits) == []
