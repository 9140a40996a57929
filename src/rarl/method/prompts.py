"""The prompts of Table 1, verbatim, as chat messages for one or more images. The typesetting is undone
(straight quotes, `image_id` without its backslash); the images are attached elsewhere, in the order
announced."""

from typing import Any

from rarl.errors import ConfigError

SYSTEM = (
    "The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind "
    "and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>."
)
"""Table 1, system prompt."""

INSTRUCT = (
    "Analyze each image to determine the [Rule], "
    "and if there are multiple images, sort them in ascending order of [Rule]. "
    "Output the results as a JSON list of dictionaries in this format: "
    "[{'image_id': number, 'value': value}, ...], where value is the [Rule] ([Value_Range]). "
    "Ensure the list is sorted correctly with strictly followed syntax."
)
"""Table 1, instruct prompt, with its two slots `[Rule]` and `[Value_Range]`."""


def messages(count: int, rule: str, value_range: str) -> list[dict[str, Any]]:
    """The chat messages that ask for `count` images to be scored and sorted by `rule`.

    The images come first, each announced as "Picture 1: " and so on: that number is its `image_id`.

    Args:
        count: number of images, at least 1.
        rule: fills `[Rule]`, such as "facial age".
        value_range: fills `[Value_Range]`, such as "0-116".

    Returns:
        A system and a user message; the content of each is a list of parts, of text or for an image.

    Raises:
        ConfigError: if `count` is less than 1.
    """
    if count < 1:
        raise ConfigError(f"a prompt needs at least 1 image, not {count}")
    parts: list[dict[str, str]] = []
    for number in range(1, count + 1):
        parts += [{"type": "text", "text": f"Picture {number}: "}, {"type": "image"}]
    # The rule goes in last: it may be a user's own words, and those are not filled in again.
    instruct = INSTRUCT.replace("[Value_Range]", value_range).replace("[Rule]", rule)
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [*parts, {"type": "text", "text": instruct}]},
    ]
