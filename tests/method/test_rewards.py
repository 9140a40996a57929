"""The three rewards as TRL calls them: every form of completion, the columns they need, what they log,
and the promise that no text and no number makes one NaN, infinite or out of its range. What each case
earns is in test_semantics.py.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarl.errors import ConfigError, RarlError
from rarl.method.replies import parse
from rarl.method.rewards import TERMS, format_reward, ranking_reward, regression_reward, score

# Three pictures of 3, 5 and 7; the truth, and one with pictures 1 and 2 exchanged and scored to match.
TRUTHS = [3, 5, 7]
PERFECT = (
    "<think>hm</think><answer>"
    '[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 5}, {"image_id": 3, "value": 7}]</answer>'
)
SWAPPED = (
    "<think>hm</think><answer>"
    '[{"image_id": 2, "value": 4}, {"image_id": 1, "value": 5}, {"image_id": 3, "value": 7}]</answer>'
)


def columns(count: int, **other: Any) -> dict[str, Any]:
    """The columns as TRL hands them over: one entry per completion, and much else besides."""
    return {
        "prompts": ["…"] * count,
        "completion_ids": [[1, 2]] * count,
        "values": [TRUTHS] * count,
        "delta": [2.0] * count,
        "range": [[0, 9]] * count,
        "step": [1.0] * count,
        "rule": ["handwritten digit"] * count,
        "trainer_state": object(),
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
        **other,
    }


def test_one_number_per_completion() -> None:
    completions = [PERFECT, SWAPPED, "no idea"]
    # Swapped: picture 1 is off by 2, 1/4; picture 2 by 1, 9/16; picture 3 by 0: (4 + 9 + 16)/48 = 29/48.
    assert regression_reward(completions, **columns(3)) == pytest.approx([1, 29 / 48, 0])
    # Swapped: complete 1, consistent 1, and one of three pairs discordant: tau 1/3, r_acc 2/3.
    assert ranking_reward(completions, **columns(3)) == pytest.approx([3, 8 / 3, 0])
    assert format_reward(completions, **columns(3)) == [1, 1, 0]


def test_each_completion_is_scored_by_its_own_row() -> None:
    row = columns(2, values=[[3, 5, 7], [7, 5, 3]], delta=[2.0, 8.0], range=[[0, 9], [0, 6]])
    # The second: picture 1 off by 4 of 8, 9/16; picture 2 by 0; picture 3's 7 is out of range: 25/48.
    assert regression_reward([PERFECT, PERFECT], **row) == pytest.approx([1, 25 / 48])
    assert ranking_reward([PERFECT, PERFECT], **row) == pytest.approx([3, 2])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: [{"role": "assistant", "content": text}],
        lambda text: [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
        lambda text: [
            {"role": "assistant", "content": [{"type": "text", "text": t} for t in (text[:40], text[40:])]}
        ],
        lambda text: ({"role": "assistant", "content": ({"type": "text", "text": text},)},),
        lambda text: [{"role": "tool", "content": "42"}, {"role": "assistant", "content": text}],
    ],
)
def test_a_completion_is_a_text_or_messages(wrap: Callable[[str], Any]) -> None:
    completions = [wrap(PERFECT), wrap("no idea")]
    assert regression_reward(completions, **columns(2)) == [1, 0]
    assert ranking_reward(completions, **columns(2)) == [3, 0]
    assert format_reward(completions, **columns(2)) == [1, 0]


@pytest.mark.parametrize(
    "empty", ["", [], [{"role": "assistant", "content": None}], [{"role": "assistant"}], [{"content": []}]]
)
def test_a_completion_without_text_earns_nothing(empty: Any) -> None:
    assert regression_reward([empty], **columns(1)) == [0]
    assert ranking_reward([empty], **columns(1)) == [0]
    assert format_reward([empty], **columns(1)) == [0]


def test_no_completions_no_rewards() -> None:
    assert regression_reward([], **columns(0)) == []
    assert ranking_reward([], **columns(0)) == []
    assert format_reward([]) == []


def test_columns_may_be_tuples_and_whole_numbers() -> None:
    row = {"values": ((3, 5, 7),), "delta": (2,), "range": ((0, 9),)}
    assert regression_reward([SWAPPED], **row) == pytest.approx([29 / 48])
    assert ranking_reward((SWAPPED,), values=((3, 5, 7),)) == pytest.approx([8 / 3])


def test_the_format_reward_needs_no_column() -> None:
    assert format_reward([PERFECT, "no idea"]) == [1, 0]


# ── orders alone ─────────────────────────────────────────────────────────────────────────────────────────

# Pictures 2, 3, 1 in ascending order: as places, and as any values in that order.
PLACES = [2, 0, 1]
LISTINGS = [
    PERFECT,
    SWAPPED,
    f"<answer>{[{'image_id': image_id, 'value': 4} for image_id in (2, 3, 1)]}</answer>",
    '<answer>[{"image_id": 3, "value": 1}]</answer>',
    "no idea",
]


@pytest.mark.parametrize("values", [[7, 3, 5], [9.0, 0, 0.1], [1e300, -1e300, 0]])
def test_an_order_ranks_as_any_values_in_it(values: list[float]) -> None:
    by_order: dict[str, float] = {}
    by_values: dict[str, float] = {}
    rewards = ranking_reward(LISTINGS, order=[PLACES] * 5, log_metric=by_order.__setitem__)
    assert rewards == ranking_reward(LISTINGS, values=[values] * 5, log_metric=by_values.__setitem__)
    assert by_order == by_values
    # 1, 2, 3 against 2, 3, 1: one of three pairs is right, and 2, 1, 3 has two. Tied values: r_consis 1/2.
    # One picture of three: 1/3 and 1/2 twice.
    assert rewards == pytest.approx([7 / 3, 8 / 3, 5 / 2, 4 / 3, 0])


def test_one_picture_has_no_order() -> None:
    assert ranking_reward([PERFECT, PERFECT], order=[[0], PLACES]) == [None, pytest.approx(7 / 3)]


def test_values_count_where_both_are_known() -> None:
    assert ranking_reward([PERFECT], **columns(1, order=[[2, 1, 0]])) == [3]
    assert regression_reward([PERFECT], **columns(1, order=[[2, 1, 0]])) == [1]


def test_the_regression_reward_refuses_orders_and_says_what_to_do() -> None:
    row = columns(1, order=[PLACES])
    del row["values"]
    with pytest.raises(ConfigError, match=r"orders alone \(column 'order'\): .* the weight of regression 0"):
        regression_reward([PERFECT], **row)


@pytest.mark.parametrize("entry", [None, [], 1, "201", [2, None, 1], [2, True, 1], [2, math.nan, 1]])
def test_a_wrong_order_names_column_and_row(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"column 'order', completion 1: .* is not the place of each"):
        ranking_reward([PERFECT, PERFECT], order=[PLACES, entry])


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["values", "delta", "range"])
def test_a_missing_column_is_named(name: str) -> None:
    without = {key: column for key, column in columns(1).items() if key != name}
    with pytest.raises(RarlError, match=f"need a column '{name}' in the dataset"):
        regression_reward([PERFECT], **without)


def test_the_ranking_reward_names_its_missing_column() -> None:
    with pytest.raises(ConfigError, match="need a column 'values' in the dataset"):
        ranking_reward([PERFECT])


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("values", None),
        ("values", []),
        ("values", 3.0),
        ("values", "357"),
        ("values", [3, None, 7]),
        ("values", [3, "5", 7]),
        ("values", [3, True, 7]),
        ("values", [3, math.nan, 7]),
        ("values", [3, math.inf, 7]),
        ("values", [3, 10**400, 7]),
        ("delta", None),
        ("delta", "2"),
        ("delta", 0),
        ("delta", -2.0),
        ("delta", math.nan),
        ("delta", math.inf),
        ("range", None),
        ("range", [9]),
        ("range", [0, 5, 9]),
        ("range", "0-9"),
        ("range", [0, math.inf]),
    ],
)
def test_a_wrong_entry_names_column_and_row(name: str, entry: Any) -> None:
    row = columns(2)
    row[name] = [row[name][0], entry]
    with pytest.raises(ConfigError, match=f"column '{name}', completion 1: .* is not the "):
        regression_reward([PERFECT, PERFECT], **row)


@pytest.mark.parametrize("column", [[TRUTHS], [TRUTHS] * 3, "values", 3])
def test_a_column_has_one_entry_per_completion(column: Any) -> None:
    with pytest.raises(
        ConfigError, match="column 'values' must have one entry for each of the 2 completions"
    ):
        ranking_reward([PERFECT, PERFECT], values=column)


# ── what is logged ───────────────────────────────────────────────────────────────────────────────────────


def test_the_terms_of_the_ranking_reward_are_logged_as_means() -> None:
    logged: dict[str, float] = {}
    # Perfect 1, 1, 1; swapped 1, 1, 2/3; unread 0, 0, 0.
    ranking_reward([PERFECT, SWAPPED, ""], values=[TRUTHS] * 3, log_metric=logged.__setitem__)
    assert logged == pytest.approx({"r_len": 2 / 3, "r_consis": 2 / 3, "r_acc": 5 / 9})


def test_rows_without_a_ranking_are_not_in_the_means() -> None:
    logged: dict[str, float] = {}
    rewards = ranking_reward([PERFECT, PERFECT], values=[TRUTHS, [3]], log_metric=logged.__setitem__)
    assert rewards == [3, None]
    assert logged == {"r_len": 1, "r_consis": 1, "r_acc": 1}


def test_nothing_is_logged_where_nothing_can_be_ranked() -> None:
    logged: dict[str, float] = {}
    assert ranking_reward([PERFECT], values=[[3]], log_metric=logged.__setitem__) == [None]
    assert logged == {}


def test_each_text_is_read_once() -> None:
    parse.cache_clear()
    for _ in range(2):
        regression_reward([SWAPPED], **columns(1))
        ranking_reward([SWAPPED], **columns(1))
        format_reward([SWAPPED], **columns(1))
    assert parse.cache_info().misses == 1


# ── the terms of Eq. 8 ───────────────────────────────────────────────────────────────────────────────────


def test_a_term_is_named_as_its_function() -> None:
    assert [term.name for term in TERMS] == ["regression", "ranking", "format"]
    assert [term.function.__name__ for term in TERMS] == [f"{term.name}_reward" for term in TERMS]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_term_logs_the_parts_that_it_names(term: Any) -> None:
    logged: dict[str, float] = {}
    term.function([PERFECT], **columns(1, log_metric=logged.__setitem__))
    assert list(logged) == list(term.parts)


@pytest.mark.parametrize(
    ("text", "prompt", "weights", "expected"),
    [
        (PERFECT, {"values": TRUTHS}, [1, 1, 1], 5),
        # 29/48 for regression, 8/3 for ranking, 1 for format, as above.
        (SWAPPED, {"values": TRUTHS}, [1, 1, 1], 29 / 48 + 8 / 3 + 1),
        (SWAPPED, {"values": TRUTHS}, [2, 0, 0.5], 29 / 24 + 0.5),
        ("no idea", {"values": TRUTHS}, [1, 1, 1], 0),
        (SWAPPED, {"order": [0, 1, 2]}, [1, 1, 1], 8 / 3 + 1),  # an order has no distance
        (PERFECT, {"values": [3, 3, 3]}, [0, 1, 1], 1),  # nothing to rank
    ],
)
def test_the_score_of_a_reply_is_eq_8(
    text: str, prompt: dict[str, Any], weights: list[float], expected: float
) -> None:
    assert score(text, {**prompt, "delta": 2.0, "range": [0, 9]}, weights) == pytest.approx(expected)


# ── everywhere ───────────────────────────────────────────────────────────────────────────────────────────

finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.sampled_from(
    ["3", "7.5", "-1", "1e308", "-1e308", "1e999", "NaN", "5e-324", "9" * 400, "true", '"3"']
)
ids = st.sampled_from(["1", "2", "3", "4", "0", "-1", "1.0", "9" * 30])
listings = st.lists(st.tuples(ids, numbers), max_size=6).map(
    lambda pairs: ", ".join(f'{{"image_id": {image_id}, "value": {value}}}' for image_id, value in pairs)
)


@given(
    text=listings.map(lambda listed: f"<think></think><answer>[{listed}]</answer>") | st.text(max_size=50),
    truths=st.lists(finite | st.integers(-3, 3).map(float), min_size=1, max_size=4),
    delta=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    ends=st.tuples(finite, finite),
)
def test_rewards_are_finite_and_in_range(
    text: str, truths: list[float], delta: float, ends: tuple[float, float]
) -> None:
    (regression,) = regression_reward([text], values=[truths], delta=[delta], range=[ends])
    (ranking,) = ranking_reward([text], values=[truths])
    (form,) = format_reward([text])
    assert 0 <= regression <= 1
    assert ranking is None or 0 <= ranking <= 3
    assert form in (0, 1)
