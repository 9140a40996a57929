"""The replies there can be: their text as tokens, what they share, and which reasoning a model has."""

import pytest

from rarl.method.replies import reference_reply
from rarl.method.tasks import AGE, DIGITS, Task
from rarl.scoring.candidates import candidates, has_grid, thought_of, uses_template


@pytest.mark.parametrize("reasoning", ["template", "empty"])
def test_context_and_rests_are_the_reference_replies(tiny_processor, reasoning):
    tokenizer = tiny_processor.tokenizer
    found = candidates(tokenizer, DIGITS, "", reasoning)
    texts = [tokenizer.decode([*found.context, *rest], skip_special_tokens=True) for rest in found.rests]
    assert texts == [reference_reply([v], 1, reasoned=reasoning == "template") for v in range(10)]
    assert all(rest[-1] == tokenizer.eos_token_id for rest in found.rests)
    assert len({rest[0] for rest in found.rests}) == 10  # they differ from the first token on


@pytest.mark.parametrize(
    ("opening", "reply", "begins"),
    [
        ("", "<think>A loop.</think> <answer>[]</answer>", "<think>A loop.</think>\n<answer>["),
        ("<think>\n", "<think>\nA loop.</think>", "\nA loop.</think>\n<answer>["),
        ("<think></think>", "<think></think><answer>", "<answer>["),
        ("", "cut off in the midd", "<think></think>\n<answer>["),
    ],
)
def test_a_models_own_reasoning_is_kept(tiny_processor, opening, reply, begins):
    found = candidates(tiny_processor.tokenizer, DIGITS, opening, reply)
    text = tiny_processor.tokenizer.decode([*found.context, *found.rests[7]], skip_special_tokens=True)
    assert text.startswith(begins)
    assert text.endswith('"value": 7}]</answer>')


@pytest.mark.parametrize(
    ("reply", "thought"),
    [
        ("<think>a</think><answer>", "a"),
        ("Well: <think>a</think>b</think>", "a"),
        ("a</think>b", "a"),
        ("<think>never closed", ""),
        ("nothing", ""),
        ("", ""),
    ],
)
def test_what_a_reply_thought(reply, thought):
    assert thought_of(reply) == thought


def test_most_replies_decide_what_reasoning_a_model_has():
    spelled, free = (
        reference_reply([4], 1),
        "<think>Round.</think><answer>[{'image_id': 1, 'value': 4}]</answer>",
    )
    # It spells another value than it answers.
    other = reference_reply([4], 1).replace("Picture 1: 4", "Picture 1: 5")
    assert uses_template([spelled, spelled, free], DIGITS)
    assert not uses_template([spelled, free, other], DIGITS)


def test_a_grid_without_end_has_no_distribution():
    fine = Task("fine", "weight", low=0, high=1e15, step=1, delta=1)
    assert has_grid(AGE)
    assert not has_grid(fine)
