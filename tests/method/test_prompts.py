"""The prompts are Table 1's, word for word, and the images stand where the ids say they do."""

from typing import Any

import pytest

from rarl.errors import ConfigError
from rarl.method.prompts import INSTRUCT, SYSTEM, messages
from rarl.method.tasks import AESTHETICS, AGE


def texts(count: int = 1, rule: str = "facial age", value_range: str = "0-116") -> list[str]:
    """The text parts of the user's message."""
    content: list[dict[str, Any]] = messages(count, rule, value_range)[1]["content"]
    return [part["text"] for part in content if part["type"] == "text"]


def test_the_system_prompt_is_table_1() -> None:
    assert SYSTEM == (
        "The user asks a question, and the Assistant solves it. The assistant first thinks about "
        "the reasoning process in the mind and then provides the user with the answer. The "
        "reasoning process and answer are enclosed within <think> </think> and <answer> </answer>"
        " tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here "
        "</answer>."
    )


def test_the_instruct_prompt_is_table_1_with_its_slots() -> None:
    assert INSTRUCT == (
        "Analyze each image to determine the [Rule], and if there are multiple images, sort them "
        "in ascending order of [Rule]. Output the results as a JSON list of dictionaries in this "
        "format: [{'image_id': number, 'value': value}, ...], where value is the [Rule] "
        "([Value_Range]). Ensure the list is sorted correctly with strictly followed syntax."
    )


def test_the_slots_are_filled() -> None:
    assert texts(1, AGE.rule, AGE.value_range)[-1] == (
        "Analyze each image to determine the facial age, and if there are multiple images, sort "
        "them in ascending order of facial age. Output the results as a JSON list of dictionaries"
        " in this format: [{'image_id': number, 'value': value}, ...], where value is the facial "
        "age (0-116). Ensure the list is sorted correctly with strictly followed syntax."
    )
    assert (
        "where value is the aesthetic quality (1-10)."
        in texts(1, AESTHETICS.rule, AESTHETICS.value_range)[-1]
    )


def test_typography_is_undone() -> None:
    for text in (SYSTEM, INSTRUCT):
        assert text.isascii()
        assert "\\" not in text


def test_a_rule_is_not_filled_in_again() -> None:
    instruct = texts(1, "[Value_Range] of a {name}", "0-9")[-1]
    assert "determine the [Value_Range] of a {name}," in instruct
    assert "is the [Value_Range] of a {name} (0-9)." in instruct


@pytest.mark.parametrize("count", [1, 2, 8])
def test_each_image_is_announced_before_the_question(count: int) -> None:
    system, user = messages(count, "facial age", "0-116")
    assert system == {"role": "system", "content": [{"type": "text", "text": SYSTEM}]}
    assert user["role"] == "user"
    *announced, question = user["content"]
    assert question["text"].startswith("Analyze each image")
    assert announced[0::2] == [{"type": "text", "text": f"Picture {n}: "} for n in range(1, count + 1)]
    assert announced[1::2] == [{"type": "image"}] * count


@pytest.mark.parametrize("count", [0, -1])
def test_a_prompt_needs_an_image(count: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 image"):
        messages(count, "facial age", "0-116")
