"""Reading leniently: replies as models write them that were never trained on the format, each as both
readings have it, and the promises: total, linear, and the strict reading wherever that reads."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rarl.method.replies
from rarl.method.replies import Item, Reply, parse, parse_leniently, reference_reply

UNREAD = Reply(None, False)
ONE = '[{"image_id": 1, "value": 25}]'
THREE = '[{"image_id": 2, "value": 3}, {"image_id": 3, "value": 7}, {"image_id": 1, "value": 30}]'
LISTED = ((2, 3.0), (3, 7.0), (1, 30.0))
OTHER = THREE.replace("30", "40")


def inside(text: str) -> str:
    return f"<think>hm</think><answer>{text}</answer>"


def read(text: str, count: int) -> tuple[tuple[int, float], ...] | None:
    """What the lenient reading has, where the strict one has nothing."""
    assert parse(text) == UNREAD
    found = parse_leniently(text, count)
    assert not found.well_formed
    return None if found.items is None else tuple((item.image_id, item.value) for item in found.items)


@pytest.mark.parametrize(
    "text",
    [
        inside(f"```json\n{THREE}\n```"),
        inside(f"```\n{THREE}\n```"),
        inside(f"```JSON\n{THREE}\n```"),
        inside(f"```python\n{THREE}```"),
        inside(f"```json\n{THREE}"),  # a fence that is not closed
        inside(f"Here is the list: {THREE}"),
        inside(f"{THREE}\n\nPicture 2 is the youngest [see above]."),
        inside(f"It's [hard], but:\n{THREE}"),
        inside(f"Not {OTHER}, but {THREE}"),  # the last counts
        inside(f"```json\n{OTHER}\n```\nor rather\n```json\n{THREE}\n```"),
        inside(f"```json\n{THREE}\n```\nand not {OTHER}"),  # what is fenced comes before what is not
        inside(f"{THREE} []"),  # an empty list says nothing
        THREE,
        THREE.replace('"', "'"),
        f"Sure! {THREE} I hope that helps.",
        f"```json\n{THREE}\n```",
        f"<think>maybe {OTHER}</think>\n{THREE}",
        f"<think>it is {THREE}",  # a thought that never ends
        f"<answer>{THREE}",
        f"<ANSWER>{THREE}</ANSWER>",
        f"{OTHER} <answer>The order: {THREE}</answer> {OTHER}",  # between the tags, and nowhere else
        inside(f'{{"answer": {THREE}}}'),
        inside(f"[{THREE}]"),
        inside(f"{{{{{THREE}}}}}"),
        inside(THREE.replace("7", '"7"')),
        inside(THREE.replace("30", '" +30.0 "').replace("3}", '"3"}')),
        inside(THREE.replace('"image_id": 2', '"image_id": "2"')),
        inside(THREE.replace('"image_id": 2', '"image_id": "Picture 2"')),
        inside(THREE.replace('"image_id": 2', '"image_id": "image 2"')),
        inside(THREE.replace("7}", '"7", "note": "old"}')),
        inside(THREE + " " * 9000),  # too long for the strict reading, but its list isn't
    ],
)
def test_a_list_of_three_in_another_format(text: str) -> None:
    assert read(text, 3) == LISTED


@pytest.mark.parametrize(
    "text",
    [
        inside("```json\n" + ONE + "\n```"),
        inside('{"image_id": 1, "value": 25}'),
        inside("{'image_id': 1, 'value': 25}"),
        inside('The age: {"image_id": "1", "value": "25"}.'),
        inside('```json\n{"image_id": 1, "value": 25}\n```'),
        inside('{"value": 25}'),
        inside('[{"value": "25"}]'),
        inside('[{"image_id": 1, "value": 25}'),  # the list is cut, its dict isn't
        inside("25"),
        inside(' "25.0" '),
        inside("```\n25\n```"),
        "25",
        "<think>about thirty, or less</think> 25",
        ONE,
        f"Sure: {ONE}",
    ],
)
def test_a_single_picture_in_another_format(text: str) -> None:
    assert read(text, 1) == ((1, 25.0),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no idea",
        inside("25"),
        inside('{"image_id": 1, "value": 25}'),
        inside('[{"value": 25}, {"value": 30}, {"value": 3}]'),  # which is which?
        inside("[25, 30, 3]"),
        inside("[]") + "<answer></answer>",
        f"{THREE} <answer>see above</answer>",  # the last answer counts, for better or worse
        f"<think>{THREE}</think> Done.",
        inside(THREE[:-1]),  # cut
        inside(THREE[:-1] + ",,]"),
        inside(THREE.replace('"image_id": 1', '"image_id": true,')),
        inside(THREE.replace(", {", " {")),
        inside(THREE.replace('"', "“")),
        inside(THREE.replace("30", "30-35")),
        inside(THREE.replace("30", '"30-35"')),
        inside(THREE.replace("30", '"30 years"')),
        inside(THREE.replace("30", '"nan"')),
        inside(THREE.replace("30", '"1e999"')),
        inside(THREE.replace("30", "null")),
        inside(THREE.replace("30", "true")),
        inside(THREE.replace("30", '"1_0"')),
        inside(THREE.replace("30", "int('30')")),
        inside(THREE.replace('"image_id": 1', '"image_id": 1.0')),
        inside(THREE.replace('"image_id": 1', '"image_id": "the first"')),
        inside(THREE.replace("value", "age")),
    ],
)
def test_nothing_is_repaired_and_nothing_is_guessed(text: str) -> None:
    assert parse_leniently(text, 3).items in (None, parse(text).items)
    assert parse_leniently(text, 3).items is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "about 25 years",
        inside("about 25"),
        inside("**25**"),
        inside("[25]"),
        inside("25 30"),
        inside("true"),
    ],
)
def test_no_number_is_picked_out_of_prose(text: str) -> None:
    assert read(text, 1) is None


@pytest.mark.parametrize(
    "text",
    [
        inside(THREE),
        inside("[]"),
        inside(ONE),
        inside(THREE.replace("30}", "30,}")),  # a trailing comma is Python's, and strict reading has it
        inside(THREE.replace("30}", '30, "note": 1}')),
        f"<answer>{THREE}</answer> but ```json\n{OTHER}\n```",
        reference_reply([3, 1, 2], 1),
    ],
)
def test_what_reads_strictly_is_read_so(text: str) -> None:
    assert parse(text).items is not None
    for count in (1, 3):
        assert parse_leniently(text, count) == parse(text)


# ── hostile text ─────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = [
    *(
        "[",
        "]",
        "{",
        "[]",
        "{}",
        "[{",
        "[{}]",
        "[1,",
        "```",
        "```[]",
        "<answer>",
        "</think>",
        "{[}]",
        "'[",
        "9",
    ),
    '{"value": 1}',
    '[{"image_id": 1, "value": [',
]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("wrap", [str, inside], ids=["bare", "inside"])
def test_work_does_not_grow_with_hostile_text(piece: str, wrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last 32,768 characters are searched for brackets, and 32 pieces of at most 8,192 are read."""
    read_lengths: list[int] = []
    original = rarl.method.replies._literal
    monkeypatch.setattr(
        rarl.method.replies, "_literal", lambda text: read_lengths.append(len(text)) or original(text)
    )
    work = []
    for size in (250_000, 500_000, 1_000_000):
        read_lengths.clear()
        parse.cache_clear()
        started = time.perf_counter()
        parse_leniently(wrap(piece * (size // len(piece))), 3)
        assert time.perf_counter() - started < 1.0  # milliseconds; a second for a busy machine
        work.append(len(read_lengths))
        assert max(read_lengths) <= 8192
    assert max(work) <= 34  # the strict reading's one, and 32
    assert max(work) - min(work) <= 1


def test_nested_brackets_are_read_from_the_outside_in() -> None:
    assert read(inside("[" * 20 + THREE + "]" * 20), 3) == LISTED
    assert read(inside("[" * 60 + THREE + "]" * 60), 3) is None  # 32 tries are enough


pieces = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "```",
            "```json\n",
            "[",
            "]",
            "{",
            "}",
            "(",
            ")",
            ",",
        ),
        *(":", "'", '"', "\\", "\0", "25", '"25"', "nan", "1e999", '"image_id"', '"value"', ONE, THREE),
        '{"image_id": "Picture 1", "value": "9"}',
    ]
)


@given(st.lists(pieces | st.text(max_size=3), max_size=12).map("".join), st.integers(1, 8))
@example("{[]: 1}", 1)
@example("[" * 5000, 1)
@example("-" * 8000 + "1", 1)
def test_any_text_reads_and_the_strict_reading_stands(text: str, count: int) -> None:
    strict, found = parse(text), parse_leniently(text, count)
    if strict.items is not None:
        assert found == strict
    else:
        assert not found.well_formed
        assert found.items is None or len(found.items) > 0
    assert all(type(item.image_id) is int for item in found.items or ())
    assert all(-1e309 < item.value < 1e309 for item in found.items or ())


def test_the_id_may_be_no_picture_of_the_prompt() -> None:
    """As in the strict reading: it is kept, and is no ranking."""
    found = parse_leniently(inside("Here: " + THREE), 2)
    assert found.items == tuple(Item(image_id, value) for image_id, value in LISTED)
    assert found.positions(2) is None
