"""What the paper leaves open and this library decides: one test per decision, named after it.
docs/semantics.md lists the same decisions with their reasons. What the Response Mutation Operation decides
is held by test_mutation.py.
"""

import ast
import math
from collections.abc import Iterator
from itertools import combinations, combinations_with_replacement, permutations, product
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from rarl.errors import ConfigError
from rarl.evaluation.metrics import (
    SINGLE_IMAGE_METRICS,
    accuracy,
    filled,
    list_tau,
    srcc,
    tau_values,
    within_one,
)
from rarl.method.equations import (
    length_compliance,
    mutated_advantages,
    ranking,
    ranking_accuracy,
    ranking_consistency,
)
from rarl.method.prompts import INSTRUCT, SYSTEM, messages
from rarl.method.replies import parse, reference_reply
from rarl.method.rewards import format_reward, ranking_reward, regression_reward
from rarl.method.tasks import AGE, COUNT, TASKS

DELTA, RANGE = 2.0, (0.0, 9.0)


def framed(answer: str) -> str:
    return f"<think>hm</think><answer>{answer}</answer>"


def listing(*entries: tuple[int, Any]) -> str:
    """A well-framed reply that lists these (image_id, value) in this order."""
    return framed(str([{"image_id": image_id, "value": value} for image_id, value in entries]))


def regression(text: str, truths: list[float]) -> float:
    return regression_reward([text], values=[truths], delta=[DELTA], range=[RANGE])[0]


def terms(text: str, truths: list[float]) -> tuple[float, float, float]:
    """r_len, r_consis and r_acc, as the ranking reward logs them."""
    logged: dict[str, float] = {}
    (total,) = ranking_reward([text], values=[truths], log_metric=logged.__setitem__)
    assert total == pytest.approx(sum(logged.values()))
    return logged["r_len"], logged["r_consis"], logged["r_acc"]


# ── Prompt ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_prompt_is_table_1_with_its_typesetting_undone() -> None:
    assert "[{'image_id': number, 'value': value}, ...]" in INSTRUCT
    assert SYSTEM.endswith("<think> reasoning process here </think> <answer> answer here </answer>.")
    assert (SYSTEM + INSTRUCT).isascii()


def test_rule_and_range_are_filled_from_the_task() -> None:
    for task in TASKS.values():
        question = messages(2, task.rule, task.value_range)[1]["content"][-1]["text"]
        assert f"where value is the {task.rule} ({task.value_range})." in question
        assert "[Rule]" not in question
        assert "[Value_Range]" not in question


def test_images_come_first_and_are_announced_by_their_id() -> None:
    content = messages(2, AGE.rule, AGE.value_range)[1]["content"]
    assert [part.get("text", "(image)")[:11] for part in content] == [
        "Picture 1: ",
        "(image)",
        "Picture 2: ",
        "(image)",
        "Analyze eac",
    ]


# ── Reply ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_last_answer_counts() -> None:
    first, last = listing((1, 3)), listing((1, 7))
    assert parse(first + last).values(1) == [7]


def test_an_answer_of_more_than_8192_characters_is_not_read() -> None:
    answer = '[{"image_id": 1, "value": 3}]'
    assert parse(framed(answer.ljust(8192))).values(1) == [3]
    assert parse(framed(answer.ljust(8193))).items is None


def test_json_is_tried_before_python_literals() -> None:
    assert parse(framed('[{"image_id": 1, "value": 3}]')).values(1) == [3]
    assert parse(framed("[{'image_id': 1, 'value': 3}]")).values(1) == [3]
    assert parse(framed('[{"image_id": 1, "value": 3, "seen": true}]')).values(1) == [3]  # JSON's alone
    assert parse(framed("[{'image_id': 1, 'value': 3, 'seen': True}]")).values(1) == [3]  # Python's alone


@pytest.mark.parametrize("image_id", ["1.0", "true", '"1"', "null"])
def test_an_image_id_is_an_integer(image_id: str) -> None:
    assert parse(framed(f'[{{"image_id": {image_id}, "value": 3}}]')).items is None


@pytest.mark.parametrize("value", ["true", '"3"', "null", "NaN", "Infinity", "1e999", "9" * 400])
def test_a_value_is_a_finite_number(value: str) -> None:
    assert parse(framed(f'[{{"image_id": 1, "value": {value}}}]')).items is None


@pytest.mark.parametrize(
    "answer",
    [
        '[{"image_id": 1, "value": 3}',
        '[{"image_id": 1, "value": 3},, {"image_id": 2, "value": 4}]',
        "[{image_id: 1, value: 3}]",
        '```[{"image_id": 1, "value": 3}]```',
        "[{'image_id': 1, 'value': 1 + 2}]",
        "[dict(image_id=1, value=3)]",
    ],
)
def test_nothing_is_repaired_and_nothing_is_evaluated(answer: str) -> None:
    assert parse(framed(answer)).items is None


def test_reading_catches_no_more_than_it_must() -> None:
    allowed = {"ValueError", "SyntaxError", "TypeError", "RecursionError", "MemoryError", "OverflowError"}
    source = ROOT / "src" / "rarl" / "method" / "replies.py"
    nodes = ast.walk(ast.parse(source.read_text("utf-8")))
    handlers = [node for node in nodes if isinstance(node, ast.ExceptHandler)]
    assert handlers
    for handler in handlers:
        assert handler.type is not None
        caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
        assert caught <= allowed


# ── R_format ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (listing((2, 3), (1, 7)), 1),
        ("\n <think>hm</think>\n\n<answer>[{'image_id': 1, 'value': 3}]</answer> ", 1),
        (listing((1, 3)) + " Done.", 0),
        ("Well: " + listing((1, 3)), 0),
        ("<think>hm</think> so <answer>[{'image_id': 1, 'value': 3}]</answer>", 0),
        ("<think>hm</think><think>hm</think><answer>[{'image_id': 1, 'value': 3}]</answer>", 0),
        ("<answer>[{'image_id': 1, 'value': 3}]</answer><think>hm</think>", 0),
        ("<answer>[{'image_id': 1, 'value': 3}]</answer>", 0),
        (framed("[]"), 0),
        (framed("[{'image_id': 1, 'value': 3, 'note': 'young'}]"), 0),
        (framed("[{'image_id': 1}]"), 0),
        ("", 0),
    ],
)
def test_format_is_one_predicate(text: str, reward: float) -> None:
    assert format_reward([text]) == [reward]


@pytest.mark.parametrize("text", [listing((1, 3), (1, 7)), listing((9, 3), (1, 7)), listing((1, 3))])
def test_duplicate_and_foreign_ids_fail_the_ranking_and_not_the_format(text: str) -> None:
    assert format_reward([text]) == [1]


@pytest.mark.parametrize("extra", [[(2, 9), (77, 0)], [(0, 3)], [(1, 3)], [(1, 5)]])
def test_where_nothing_is_ranked_such_ids_fail_the_format(extra: list[tuple[int, int]]) -> None:
    text = listing((1, 3), *extra)
    assert format_reward([text], values=[[3]]) == [0]
    assert format_reward([text], order=[[0]]) == [0]
    assert format_reward([listing((1, 3), (2, 4), (9, 4))], values=[[4, 4]]) == [0]
    # As before where there is a ranking to lose, and for a list that is whole or lacks an image.
    assert format_reward([text, text], values=[[3, 7], [3, 7, 9]]) == [1, 1]
    assert format_reward([listing((1, 3)), listing((2, 4))], values=[[3], [4, 4]]) == [1, 1]


# ── Rewards, by case ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "truths", [[3, 7], [7, 3], [5, 1, 9, 3], [4, 4, 1], [0, 1, 2, 3, 4, 5, 6, 7], [2.25, 2.5]]
)
def test_the_reference_reply_earns_everything(truths: list[float]) -> None:
    text = reference_reply(truths, 1)
    assert regression(text, truths) == 1
    assert terms(text, truths) == (1, 1, 1)
    assert format_reward([text]) == [1]


@pytest.mark.parametrize("text", ["", "1 < 2", framed("[1, 2]"), framed("[]"), framed("[{'image_id': 1}]")])
def test_a_reply_that_does_not_parse_or_is_empty_earns_nothing(text: str) -> None:
    assert regression(text, [3, 7]) == 0
    assert terms(text, [3, 7]) == (0, 0, 0)


def test_an_id_twice_costs_that_image_and_the_whole_ranking() -> None:
    # Of four true images 1 is listed twice and 4 not at all; 2 and 3 are exact: (0 + 1 + 1 + 0) / 4.
    text = listing((1, 3), (1, 3), (2, 5), (3, 7))
    assert regression(text, [3, 5, 7, 9]) == 0.5
    assert terms(text, [3, 5, 7, 9]) == (0, 0, 0)


def test_an_id_that_is_no_picture_costs_the_whole_ranking() -> None:
    # Everything true is there and exact, and a third picture of two: the mean is over the two true images.
    for foreign in (3, 0, -1):
        text = listing((1, 3), (2, 7), (foreign, 9))
        assert regression(text, [3, 7]) == 1
        assert terms(text, [3, 7]) == (0, 0, 0)
    assert regression(listing((1, 3), (9, 7)), [3, 7]) == 0.5


def test_a_value_outside_the_range_costs_its_regression_and_not_the_ranking() -> None:
    text = listing((1, 8), (2, 10))  # the range is 0-9, and 10 within 2 of the truth
    assert regression(text, [8, 9]) == 0.5
    assert terms(text, [8, 9]) == (1, 1, 1)
    assert regression(listing((1, 8), (2, 9)), [8, 9]) == 1


def test_a_partial_list_counts_a_missing_image_0_everywhere() -> None:
    # Picture 3 of three is missing. R_reg (1 + 1 + 0)/3; r_len 2/3; tau +1 of 3 pairs.
    text = listing((1, 3), (2, 5))
    assert regression(text, [3, 5, 7]) == pytest.approx(2 / 3)
    assert terms(text, [3, 5, 7]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    # In the wrong order and against its own values: tau -1 of 3 pairs.
    assert terms(listing((2, 5), (1, 3)), [3, 5, 7]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))


def test_one_image_listed_of_eight() -> None:
    assert terms(listing((3, 5)), [1, 2, 3, 4, 5, 6, 7, 8]) == (1 / 8, 1 / 2, 1 / 2)


def test_a_pair_tied_in_truth_is_left_out_of_accuracy() -> None:
    truths: list[float] = [3, 3, 7]
    assert terms(listing((1, 3), (2, 4), (3, 7)), truths)[2] == 1
    assert terms(listing((2, 3), (1, 4), (3, 7)), truths)[2] == 1
    assert terms(listing((1, 3), (3, 4), (2, 7)), truths)[2] == 0.5  # +1 -1 of the two pairs with picture 3


def test_a_pair_tied_in_truth_and_in_values_is_left_out_of_consistency() -> None:
    truths: list[float] = [3, 3, 7]
    for first, second in ((1, 2), (2, 1)):
        assert terms(listing((first, 3), (second, 3), (3, 7)), truths)[1] == 1


def test_a_pair_tied_in_truth_alone_is_compared_in_consistency() -> None:
    # 1 and 2 are listed against their own values: tau (2 - 1)/3.
    assert terms(listing((2, 4), (1, 3), (3, 7)), [3, 3, 7])[1] == pytest.approx(2 / 3)
    assert terms(listing((1, 3), (2, 4), (3, 7)), [3, 3, 7])[1] == 1


def test_a_pair_tied_in_values_counts_0_in_consistency_and_by_position_in_accuracy() -> None:
    # 1 and 2 are both said to be 4. r_consis: (2 + 0)/3 = 2/3 as tau, 5/6; r_acc by the place in the list.
    truths: list[float] = [3, 5, 7]
    assert terms(listing((1, 4), (2, 4), (3, 7)), truths)[1:] == pytest.approx((5 / 6, 1))
    assert terms(listing((2, 4), (1, 4), (3, 7)), truths)[1:] == pytest.approx((5 / 6, 2 / 3))


@pytest.mark.parametrize("truths", [[5.0], [5.0, 5.0], [5.0] * 8])
def test_one_image_or_tied_truths_have_no_ranking_reward(truths: list[float]) -> None:
    for text in (reference_reply(truths, 1), "no idea"):
        assert ranking_reward([text], values=[truths]) == [None]
    assert regression(listing((1, 4)), [5]) == 0.5625  # Eq. 3: (1 - 1/4)^2


# ── tau ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_tau_is_of_positions_and_not_of_id_lists() -> None:
    # Listed 2, 3, 1 where the truth is 1, 3, 2: exactly the reverse, so 0 = (-1 + 1)/2. The id lists
    # themselves, compared slot by slot, have two pairs of three in agreement and would earn 2/3.
    assert terms(listing((2, 3), (3, 5), (1, 7)), [3, 7, 5])[2] == 0


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_constant_values_do_not_earn_consistency(count: int) -> None:
    # Every pair counts 0: tau 0, as a coin would have it, in whichever order they are listed.
    truths = [float(n) for n in range(count)]
    for order in (range(1, count + 1), range(count, 0, -1)):
        assert terms(listing(*((n, 5) for n in order)), truths)[1] == 0.5


Listed = tuple[list[int | None], list[float | None]]


def rank_reward(listed: Listed, truths: list[float]) -> float:
    positions, _ = listed
    length = length_compliance(sum(place is not None for place in positions), len(truths))
    return ranking(length, ranking_consistency(*listed, truths), ranking_accuracy(positions, truths))


def listed(order: tuple[int, ...], values: tuple[int, ...]) -> Listed:
    """The pictures of `order` (from 0) as listed, of as many as there are `values`."""
    pictures = range(len(values))
    positions = [order.index(picture) if picture in order else None for picture in pictures]
    return positions, [float(values[picture]) if picture in order else None for picture in pictures]


def partial(order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """`order` without one picture, without two, … down to a single one."""
    for size in range(1, len(order)):
        yield from combinations(order, size)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_dropping_images_never_pays_a_list_that_follows_its_own_values(count: int) -> None:
    # All orders there are, right and wrong, each sorted by the reply's values; what is dropped costs 1/N
    # at least.
    truths = [float(n) for n in range(count)]
    for values in permutations(range(count)):
        order = tuple(sorted(range(count), key=lambda picture: values[picture]))
        whole = rank_reward(listed(order, values), truths)
        for kept in partial(order):
            dropped = count - len(kept)
            assert rank_reward(listed(kept, values), truths) <= whole - dropped / count + 1e-9


def reward_of(text: str, truths: list[float]) -> float:
    """Eq. 8 with all weights 1."""
    return regression(text, truths) + sum(terms(text, truths)) + format_reward([text], values=[truths])[0]


def test_dropping_can_pay_where_truths_are_tied_unevenly() -> None:
    # R_reg: 2 for 1 is (3/4)^2, 3 for 1 is 1/4: 13/16 of 5 images, 0.1625. In its own order: 1 + 1 + 0.
    truths: list[float] = [1, 1, 1, 1, 4]
    wrong = [(5, 0), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert reward_of(listing(*wrong), truths) == pytest.approx(3.1625)
    # Without picture 5: 4/5, tau 6 of 10 is 4/5, and the four pairs that differ count 0: 1/2.
    assert reward_of(listing(*wrong[1:]), truths) == pytest.approx(3.2625)
    # Listed where it belongs, against its value: 1, tau (6 - 4)/10 is 3/5, and 1. With a value that fits: 5.
    assert reward_of(listing(*wrong[1:], wrong[0]), truths) == pytest.approx(3.7625)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_dropping_never_pays_as_listing_it_in_some_place_does(count: int) -> None:
    # Tied truths and tied values included, for lists that follow their own values.
    numbers = range(count)
    for truths in combinations_with_replacement([float(n) for n in numbers], count):
        for values in product(numbers, repeat=count) if len(set(truths)) > 1 else ():
            order = tuple(sorted(numbers, key=lambda picture: values[picture]))
            for dropped in numbers:
                rest = tuple(picture for picture in order if picture != dropped)
                without = rank_reward(listed(rest, values), list(truths))
                places = [(*rest[:place], dropped, *rest[place:]) for place in numbers]
                best = max(rank_reward(listed(place, values), list(truths)) for place in places)
                assert best >= without + 1 / count - 1e-9


def test_a_list_in_the_order_of_its_own_values_earns_no_less_than_right_values_backwards() -> None:
    # Of 3 and 4 each said to be the other: R_reg 9/16, and 1 + 1 + 0 and the form: 3.5625 against 3.
    assert reward_of(listing((2, 3), (1, 4)), [3, 4]) == 3.5625
    for count in (2, 3, 4):
        truths = [float(2 * n) for n in range(count)]
        right = [(n + 1, 2 * n) for n in range(count)]
        assert reward_of(listing(*right[::-1]), truths) == pytest.approx(3)
        assert reward_of(listing(*right), truths) == pytest.approx(5)
        for said in permutations(range(count)):
            own = sorted(((n + 1, 2 * said[n]) for n in range(count)), key=lambda entry: entry[1])
            assert reward_of(listing(*own), truths) >= 3 - 1e-9
            assert reward_of(listing(*own), truths) >= reward_of(listing(*own[::-1]), truths)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_dropping_an_image_never_pays_as_listing_it_at_one_end_does(count: int) -> None:
    # Any order with any values, one picture dropped: with the same value at a random end of the list it
    # would have earned 1/N more on average, for what one end loses in Eqs. 5 and 6 the other gains.
    truths = [float(n) for n in range(count)]
    pictures = range(count)
    for values in permutations(pictures):
        for order in permutations(pictures):
            dropped, *rest = order
            without = rank_reward(listed(tuple(rest), values), truths)
            first = rank_reward(listed((dropped, *rest), values), truths)
            last = rank_reward(listed((*rest, dropped), values), truths)
            assert abs((first + last) / 2 - (without + 1 / count)) < 1e-9


@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", "1e308", "-1e308", "5e-324", "1e999", "9" * 400, "9" * 5000]
)
def test_nan_and_infinity_never_leave_a_reward(value: str) -> None:
    text = framed(f'[{{"image_id": 2, "value": {value}}}, {{"image_id": 1, "value": 3}}]')
    assert 0 <= regression(text, [3, 7]) <= 1
    (total,) = ranking_reward([text], values=[[3, 7]])
    assert total is not None
    assert 0 <= total <= 3
    assert all(math.isfinite(reward) for reward in format_reward([text]))


def test_the_ranking_reward_reaches_3_while_the_regression_reward_reaches_1() -> None:
    text = reference_reply([3, 7], 1)
    assert regression(text, [3, 7]) == 1
    assert ranking_reward([text], values=[[3, 7]]) == [3]


def test_the_tolerances_are_those_decided() -> None:
    assert {name: task.delta for name, task in TASKS.items()} == {
        "age": 10,
        "count": 2,
        "aesthetics": 1,
        "digits": 2,
    }


def test_advantages_come_from_the_group_after_replacement() -> None:
    # All 0, one replaced by a reference of 5: [5, 0, 0, 0], mean 5/4, std 5/2. Before it, std is 0.
    expected = [1.49994, -0.49998, -0.49998, -0.49998]  # 3.75/2.5001 and -1.25/2.5001
    assert mutated_advantages([0, 0, 0, 0], {0: 5}) == pytest.approx(expected, abs=1e-5)


# ── Orders alone ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_order_earns_what_any_values_in_it_earn() -> None:
    for values in permutations([1.0, 2.0, 4.0]):
        order = [sorted(values).index(value) for value in values]
        for listed in permutations([(1, 3), (2, 5), (3, 7)]):
            text = listing(*listed)
            assert ranking_reward([text], order=[order]) == ranking_reward([text], values=[list(values)])


def test_an_order_has_no_regression_reward() -> None:
    with pytest.raises(ConfigError, match="orders alone"):
        regression_reward([listing((1, 3))], order=[[0]], delta=[DELTA], range=[RANGE])


# ── Evaluation ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    ["no idea", framed("[]"), listing((1, 3)), listing((1, 3), (1, 7)), listing((1, 3), (2, 7), (3, 9))],
)
def test_an_invalid_list_has_tau_0(text: str) -> None:
    reply, truths = parse(text), [3.0, 7.0]
    assert list_tau(reply.positions(2), truths) == 0
    assert tau_values(reply.positions(2), reply.values(2), truths) == 0


def test_tau_of_a_list_by_order_and_by_values() -> None:
    # Listed 2, 1, 3 with the values 4, 4, 9; the truth is 3, 5, 7. By order: 2 before 1 is discordant, (2
    # - 1)/3. By values: 2 and 1 are tied and count 0, (1 + 1 + 0)/3.
    reply, truths = parse(listing((2, 4), (1, 4), (3, 9))), [3.0, 5.0, 7.0]
    assert list_tau(reply.positions(3), truths) == pytest.approx(1 / 3)
    assert tau_values(reply.positions(3), reply.values(3), truths) == pytest.approx(2 / 3)


def test_accuracy_is_exact_after_rounding_to_the_step() -> None:
    assert accuracy([3.4, 2.6, 3.6, 4], [3, 3, 3, 3], COUNT) == 0.5


def test_srcc_of_constants_is_0() -> None:
    assert srcc([5, 5, 5], [1, 2, 3]) == 0
    assert srcc([1, 2, 3], [5, 5, 5]) == 0


def test_a_missing_value_is_scored_as_the_midpoint() -> None:
    assert filled(parse("no idea").values(1), AGE) == [58]


def test_a_missing_value_is_a_miss() -> None:
    # The midpoint of 0 to 200 objects would be right for the first image and a step away for the second.
    missing = parse("no idea").values(1)[0]
    predicted = [math.nan if missing is None else missing] * 2
    assert accuracy(predicted, [100, 101], COUNT) == within_one(predicted, [100, 101], COUNT) == 0
    assert {row.name for row in SINGLE_IMAGE_METRICS if row.missing == "miss"} == {"accuracy", "within_one"}


# ── the document ─────────────────────────────────────────────────────────────────────────────────────────


def named_in_document() -> list[str]:
    """The tests that docs/semantics.md names in the last column of its tables, as `file::test`."""
    rows = (ROOT / "docs" / "semantics.md").read_text("utf-8").splitlines()
    names = [name for row in rows if row.startswith("|") for name in row.split("|")[-2].split("`")[1::2]]
    return [name if "::" in name else f"tests/method/test_semantics.py::test_{name}" for name in names]


@pytest.mark.parametrize("name", named_in_document())
def test_document_names_a_test_that_exists(name: str) -> None:
    file, test = name.split("::")
    assert f"def {test}(" in (ROOT / file).read_text("utf-8")


def test_document_leaves_out_no_test_of_this_file() -> None:
    functions = [node for node in ast.parse(Path(__file__).read_text("utf-8")).body if hasattr(node, "name")]
    tests = {node.name for node in functions if node.name.startswith("test_")}
    named = {name.split("::")[1] for name in named_in_document()}
    assert {test for test in tests - named if not test.startswith("test_document_")} == set()
