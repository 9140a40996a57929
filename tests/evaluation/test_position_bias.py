"""Agreement and position bias: lists of two, three and four images worked by hand, what missing replies do,
and that chance makes no bias. Which lists are rotated is in `test_rotations`."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.asking import prediction
from rarl.evaluation.position_bias import mean_places, order_metrics

# The images A, B, C of a list, as the rotations show them: ABC, BCA, CAB.
SHOWN = {2: ("AB", "BA"), 3: ("ABC", "BCA", "CAB"), 4: ("ABCD", "BCDA", "CDAB", "DABC")}


def line(shown, listed, number, rotation):
    """A reply that lists the images `listed`, such as "BA"; None for one that is no ranking."""
    positions = None if listed is None else [listed.index(image) for image in shown]
    valid = listed is not None
    return prediction(len(shown), valid=valid, positions=positions, list=number, rotation=rotation)


def lines(*lists):
    """Each list: what its rotations were answered with."""
    return [
        line(SHOWN[len(listed)][turn], reply, number, turn)
        for number, listed in enumerate(lists)
        for turn, reply in enumerate(listed)
    ]


def value(metrics, name):
    return metrics[name]["value"]


# ── agreement ────────────────────────────────────────────────────────────────────────────────────────────

AGREEMENTS = [
    (("AB", "AB"), 1),
    (("BA", "BA"), 1),
    (("AB", "BA"), -1),  # as shown
    (("BA", "AB"), -1),  # against what is shown
    ((None, "AB"), 0),
    ((None, None), 0),
    (("CAB", "CAB", "CAB"), 1),
    (("ABC", "BCA", "CAB"), -1 / 3),  # each two share one pair of three: (1 - 2)/3
    (("ABC", "ABC", "ACB"), 5 / 9),  # 1, 1/3, 1/3
    (("ABC", "CBA", "ABC"), -1 / 3),  # -1, 1, -1
    (("ABC", "ABC", None), 1 / 3),  # 1, 0, 0
    (("ABC", None, None), 0),
    # Turned by one, 3 of 6 pairs change their order: tau 0. By two, 4 of 6: -1/3, in 2 of 6 comparisons.
    (("ABCD", "BCDA", "CDAB", "DABC"), -1 / 9),
]


@pytest.mark.parametrize(("replies", "expected"), AGREEMENTS)
def test_agreement_of_one_list(replies, expected):
    entry = order_metrics(lines(replies), seed=0)[f"agreement{len(replies)}"]
    assert entry == {
        "value": pytest.approx(expected),
        "low": pytest.approx(expected),
        "high": pytest.approx(expected),
        "n": 1,
    }


def test_agreement_is_the_mean_over_lists():
    metrics = order_metrics(lines(("AB", "AB"), ("AB", "AB"), ("AB", "BA"), (None, "AB")), seed=0)
    entry = metrics["agreement2"]
    assert (entry["value"], entry["n"]) == (1 / 4, 4)
    assert -1 <= entry["low"] < 1 / 4 < entry["high"] <= 1


# ── position bias ────────────────────────────────────────────────────────────────────────────────────────

BY_IMAGE, AS_SHOWN, AGAINST = ("AB", "AB"), ("AB", "BA"), ("BA", "AB")
# The last rotation is answered with the images' own order, the others as shown. From picture 1, 2 and 3 were
# listed A 0, 0, 2; B 0, 1, 1; C 2, 1, 2: on average 2/3, 2/3 and 5/3.
TWO_AS_SHOWN = ("ABC", "BCA", "ABC")

BIASES = [
    ((BY_IMAGE, BY_IMAGE), 0),
    ((BY_IMAGE, ("BA", "BA")), 0),
    ((AS_SHOWN, AS_SHOWN), 1),
    ((AGAINST, AGAINST), 1),
    # One list is for the first picture and the other for the second: no bias that both share.
    ((AS_SHOWN, AGAINST), 0),
    # A pair of lists counts 1 where both are as shown, else 0: one pair of six, and three of six.
    ((AS_SHOWN, AS_SHOWN, BY_IMAGE, BY_IMAGE), (1 / 6) ** 0.5),
    ((AS_SHOWN, AS_SHOWN, AS_SHOWN, BY_IMAGE), (1 / 2) ** 0.5),
    # Pairs of lists: 3 of 1 and 3 of -1.
    ((AS_SHOWN, AS_SHOWN, AS_SHOWN, AGAINST), 0),
    ((("BCA", "BCA", "BCA"), ("ABC", "ABC", "ABC")), 0),
    ((("ABC", "BCA", "CAB"), ("ABC", "BCA", "CAB")), 1),
    ((("CBA", "ACB", "BAC"), ("CBA", "ACB", "BAC")), 1),  # the last picture first
    ((("BAC", "CBA", "ACB"), ("BAC", "CBA", "ACB")), 1),  # the second, the first, the third
    # Between pictures 1 and 2 no place, to 3 one place each: (0 + 1 + 1)/3 over (1 + 1 + 4)/3.
    ((TWO_AS_SHOWN, TWO_AS_SHOWN), (1 / 3) ** 0.5),
    # With a list that is as shown: (0*1 + 1*2 + 1*1)/3 over 2.
    ((TWO_AS_SHOWN, ("ABC", "BCA", "CAB")), (1 / 2) ** 0.5),
]


@pytest.mark.parametrize(("lists", "expected"), BIASES)
def test_position_bias(lists, expected):
    entry = order_metrics(lines(*lists), seed=0)[f"position_bias{len(lists[0])}"]
    assert entry["value"] == pytest.approx(expected)
    assert entry["n"] == len(lists)
    assert 0 <= entry["low"] <= entry["high"] <= 1


MISSING = [
    # By the images alone, whatever is missing: no bias. A plain mean over the replies that are there would
    # have picture 1 at 1/2 and picture 2 at 3/2, as A and B were shown first, B and C second.
    ((("ABC", "ABC", None), ("ABC", "ABC", None)), 0),
    ((("ABC", None, "ABC"), ("CAB", "CAB", None)), 0),
    # As shown, in two of the three.
    ((("ABC", "BCA", None), ("ABC", "BCA", None)), 1),
    # TWO_AS_SHOWN without its second reply. From pictures 1, 2, 3: A 0, 0, -; B -, 1, 1; C 2, -, 2.
    ((("ABC", None, "ABC"), ("ABC", None, "ABC")), 0),
    ((("ABC", None, "CAB"), ("ABC", "BCA", None), (None, None, "BAC")), 1),
]


@pytest.mark.parametrize(("lists", "expected"), MISSING)
def test_an_image_is_compared_with_itself_where_replies_are_missing(lists, expected):
    entry = order_metrics(lines(*lists), seed=0)["position_bias3"]
    assert entry["value"] == pytest.approx(expected)
    assert entry["n"] == 2  # lists with two replies or more


@pytest.mark.parametrize(
    "lists",
    [
        [BY_IMAGE],
        [("ABC", "BCA", "CAB")],
        [(None, None), (None, None)],
        [("AB", None), (None, "AB"), ("AB", None)],
        [AS_SHOWN, ("AB", None)],
    ],
)
def test_one_list_says_nothing_of_a_bias(lists):
    metrics = order_metrics(lines(*lists), seed=0)
    assert metrics.keys() == {f"agreement{len(lists[0])}"}


def test_any_two_places_must_be_compared_by_two_lists():
    """Of four pictures, rotations that are turned by two compare 1 with 3 and 2 with 4 alone."""
    half = ("ABCD", None, "ABCD", None)
    assert "position_bias4" not in order_metrics(lines(half, half), seed=0)
    whole = ("ABCD", "ABCD", "ABCD", "ABCD")
    assert "position_bias4" not in order_metrics(lines(half, whole), seed=0)
    assert value(order_metrics(lines(half, whole, whole), seed=0), "position_bias4") == 0


def test_the_interval_is_over_lists():
    """Ten lists as shown and ten by image: 45 of 190 pairs. Resampled, the share as shown moves by about
    sqrt(1/4 / 20) = 0.11 around 1/2, and so does the root."""
    entry = order_metrics(lines(*[AS_SHOWN, BY_IMAGE] * 10), seed=0)["position_bias2"]
    assert entry["value"] == pytest.approx((45 / 190) ** 0.5)
    assert entry["low"] == pytest.approx(0.5 - 1.96 * 0.112, abs=0.06)
    assert entry["high"] == pytest.approx(0.5 + 1.96 * 0.112, abs=0.06)


def test_a_seed_decides_the_intervals():
    some = lines(*[AS_SHOWN, BY_IMAGE, AGAINST, AS_SHOWN] * 5)
    assert order_metrics(some, seed=1) == order_metrics(some, seed=1)
    assert order_metrics(some, seed=1) != order_metrics(some, seed=2)


def guesses(generator, count, lists):
    shown = [tuple(range(turn, count)) + tuple(range(turn)) for turn in range(count)]
    return [
        line(shown[turn], generator.sample(shown[turn], count), number, turn)
        for number in range(lists)
        for turn in range(count)
    ]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_guessing_is_no_bias(count):
    """With 25 lists the root mean square of plain means would be 0.14, 0.09 and 0.07, and its intervals would
    never reach 0; two intervals of a hundred, at the lower end alone, would be by chance."""
    generator = random.Random(count)
    entries = [
        order_metrics(guesses(generator, count, 25), seed=0)[f"position_bias{count}"] for _ in range(60)
    ]
    assert sum(entry["value"] for entry in entries) / 60 < {2: 0.12, 4: 0.05, 8: 0.04}[count]
    assert sum(entry["low"] == 0 for entry in entries) >= 58
    assert sum(entry["value"] == 0 for entry in entries) >= 20


def test_lines_in_any_order_and_of_several_counts():
    some = [
        *lines(AS_SHOWN, AS_SHOWN),
        *lines(TWO_AS_SHOWN, TWO_AS_SHOWN, ("ABC", "ABC", "ACB")),
    ]
    # The same images asked once, as they were drawn: no part of this.
    plain = [replace(entry, list=None, rotation=None) for entry in some]
    metrics = order_metrics(some, seed=0)
    assert metrics.keys() == {"agreement2", "position_bias2", "agreement3", "position_bias3"}
    random.Random(0).shuffle(some)
    assert order_metrics(plain + some, seed=0) == metrics
    assert order_metrics(plain, seed=0) == {}


# ── mean places ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([("ABC", "ABC", "ABC")], [1, 1, 1]),
        ([("ABC", "BCA", "CAB")], [0, 1, 2]),
        ([("CBA", "ACB", "BAC")], [2, 1, 0]),
        ([TWO_AS_SHOWN], [2 / 3, 2 / 3, 5 / 3]),
        ([TWO_AS_SHOWN, ("ABC", "BCA", "CAB")], [1 / 3, 5 / 6, 11 / 6]),
        ([("ABC", "ABC", None)], [1, 1, 1]),
        ([("ABC", "BCA", None)], [0, 1, 2]),
        ([("ABC", None, None)], []),
        ([(None, None, None)], []),
        ([AS_SHOWN], []),  # of two images, where three are asked about
        ([], []),
    ],
)
def test_mean_places(lists, expected):
    assert mean_places(lines(*lists), 3) == pytest.approx(expected)


def test_mean_places_are_of_rotated_lists_alone():
    plain = prediction(2)
    assert mean_places([plain, *lines(BY_IMAGE)], 2) == [0.5, 0.5]
    assert mean_places([plain], 2) == []


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────

counts = st.integers(2, 6)


def answered(data, count, reply):
    """Two to five lists of which some replies are missing; `reply(number, shown)` lists images."""
    some = []
    for number in range(data.draw(st.integers(2, 5))):
        for turn in range(count):
            shown = [*range(turn, count), *range(turn)]
            there = data.draw(st.booleans())
            some.append(line(shown, reply(number, shown) if there else None, number, turn))
    return some


@given(st.data(), counts)
def test_who_looks_at_images_alone_has_no_bias_whatever_is_missing(data, count):
    orders = [data.draw(st.permutations(range(count))) for _ in range(5)]
    some = answered(data, count, lambda number, shown: orders[number])
    assert order_metrics(some, seed=0).get(f"position_bias{count}", {"value": 0})["value"] == 0
    assert mean_places(some, count) in ([], [(count - 1) / 2] * count)


@given(st.data(), counts)
def test_who_looks_at_places_alone_has_the_greatest_whatever_is_missing(data, count):
    order = data.draw(st.permutations(range(count)))
    some = answered(data, count, lambda number, shown: [shown[place] for place in order])
    bias = order_metrics(some, seed=0).get(f"position_bias{count}", {"value": 1})["value"]
    assert bias == pytest.approx(1)
    found = mean_places(some, count)
    assert not found or found == pytest.approx([order.index(place) for place in range(count)])


@given(st.data(), counts)
def test_numbers_stay_in_their_range(data, count):
    some = answered(data, count, lambda number, shown: data.draw(st.permutations(shown)))
    metrics = order_metrics(some, seed=0)
    for name, entry in metrics.items():
        lowest = -1 if name.startswith("agreement") else 0
        assert lowest <= entry["low"] <= entry["value"] <= entry["high"] <= 1
