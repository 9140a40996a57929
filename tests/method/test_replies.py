"""Reading replies: what parses and what doesn't, R_format, and the promises about hostile text: reading never
raises, never crashes the interpreter, takes linear time. Then writing: what is written reads back.
"""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import SHARED_DATA
from rarl.method.replies import (
    Item,
    Reply,
    parse,
    reasoning_template,
    reference_items,
    reference_reply,
    write_answer,
    write_reply,
)

TWO = '[{"image_id": 2, "value": 3}, {"image_id": 1, "value": 7}]'
TWO_ITEMS = (Item(2, 3.0), Item(1, 7.0))
UNREAD = Reply(None, False)


def answer(text: str) -> str:
    """`text` as the answer of an otherwise perfect reply."""
    return f"<think>hm</think><answer>{text}</answer>"


def reply(*items: tuple[int, float]) -> Reply:
    return Reply(tuple(Item(image_id, value) for image_id, value in items), True)


# ── which answer counts ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        f"<answer>{TWO}</answer>",
        f"Let me see. <answer>{TWO}</answer> That is all.",
        f"<answer>first try</answer><answer>{TWO}</answer>",
        f"<answer>[]</answer> no: <answer>{TWO}</answer>",
        f"<answer>{TWO}</answer> and <answer>[",  # the last one isn't closed
        f"<answer>{TWO}</answer></answer></answer>",
        f"<answer><answer>{TWO}</answer>",
        f"</answer><answer>{TWO}</answer>",
        f"<think>in an <answer> tag</think><answer>{TWO}</answer>",
        f"<answer>\n{TWO}\n</answer>",
        "<answer>" + TWO.replace("}, {", "},\n   {") + "</answer>",  # over several lines
        "<answer>" + TWO.replace('"', "'") + "</answer>",  # Table 1's single quotes
        f"<answer>  \t {TWO}   </answer>",
    ],
)
def test_the_last_answer_is_read(text: str) -> None:
    assert parse(text).items == TWO_ITEMS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        TWO,  # no tags
        f"<answer>{TWO}",
        f"{TWO}</answer>",
        f"</answer>{TWO}<answer>",
        f"<ANSWER>{TWO}</ANSWER>",
        f"< answer>{TWO}</ answer>",
        f"<answer>{TWO}</answer><answer>none</answer>",  # the last one counts, for better or worse
        "<answer></answer>",
        f"<answer>```json\n{TWO}\n```</answer>",
        f"<answer>The order is {TWO}</answer>",
        f"<answer>{TWO} {TWO}</answer>",
    ],
)
def test_without_a_readable_last_answer_nothing_parses(text: str) -> None:
    assert parse(text) == UNREAD


def test_an_empty_list_parses_but_is_not_well_formed() -> None:
    assert parse(answer("[]")) == Reply((), False)


@pytest.mark.parametrize(
    ("length", "readable"), [(8191, True), (8192, True), (8193, False), (100_000, False)]
)
def test_an_answer_is_read_up_to_8192_characters(length: int, readable: bool) -> None:
    padded = TWO + " " * (length - len(TWO))
    assert (parse(answer(padded)).items == TWO_ITEMS) is readable
    assert parse(answer(padded)).well_formed is readable


# ── what an entry is ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry", "item"),
    [
        ('{"image_id": 1, "value": 3}', Item(1, 3.0)),
        ('{"value": 3, "image_id": 1}', Item(1, 3.0)),
        ('{"image_id": 1, "value": 3.25}', Item(1, 3.25)),
        ('{"image_id": 1, "value": -3}', Item(1, -3.0)),
        ('{"image_id": 1, "value": 1e3}', Item(1, 1000.0)),
        ('{"image_id": 1, "value": 1e308}', Item(1, 1e308)),
        ('{"image_id": 1, "value": 1e-999}', Item(1, 0.0)),
        ('{"image_id": -1, "value": 3}', Item(-1, 3.0)),
        ('{"image_id": 0, "value": 3}', Item(0, 3.0)),
        (f'{{"image_id": {"9" * 4000}, "value": 3}}', Item(int("9" * 4000), 3.0)),
        ("{'image_id': 1, 'value': +3}", Item(1, 3.0)),  # Python's, not JSON's
        ("{'image_id': 1, 'value': 1_000,}", Item(1, 1000.0)),
        ("{'image_id': 0x1, 'value': .5}", Item(1, 0.5)),
    ],
)
def test_an_entry_parses(entry: str, item: Item) -> None:
    assert parse(answer(f"[{entry}]")) == Reply((item,), True)


@pytest.mark.parametrize(
    "entry",
    [
        '{"image_id": 1}',
        '{"value": 3}',
        "{}",
        "[]",
        "3",
        "null",
        '"image_id"',
        '["image_id", "value"]',
        '[["image_id", 1], ["value", 3]]',
        # ids
        '{"image_id": 1.0, "value": 3}',
        '{"image_id": "1", "value": 3}',
        '{"image_id": true, "value": 3}',
        '{"image_id": null, "value": 3}',
        '{"image_id": [1], "value": 3}',
        # values
        '{"image_id": 1, "value": "3"}',
        '{"image_id": 1, "value": true}',
        '{"image_id": 1, "value": null}',
        '{"image_id": 1, "value": [3]}',
        '{"image_id": 1, "value": 4.5.}',
        '{"image_id": 1, "value": 30-35}',
        '{"image_id": 1, "value": NaN}',
        '{"image_id": 1, "value": Infinity}',
        '{"image_id": 1, "value": -Infinity}',
        '{"image_id": 1, "value": 1e999}',
        f'{{"image_id": 1, "value": {"9" * 401}}}',  # an int that no float holds
        f'{{"image_id": 1, "value": -{"9" * 4000}}}',
        f'{{"image_id": 1, "value": {"9" * 5000}}}',  # an int that Python refuses to read
        f'{{"image_id": {"9" * 5000}, "value": 3}}',
        "{'image_id': 1, 'value': 3+4j}",
        "{'image_id': 1, 'value': 2+1}",
        "{'image_id': 1, 'value': int('3')}",
        "{'image_id': 1, 'value': __import__('os').getpid()}",
        "{'image_id': 1, 'value': nan}",
        # keys
        '{"image": 1, "value": 3}',
        '{"image_id": 1, "age": 3}',
        '{"Image_ID": 1, "Value": 3}',
        "{'image_id', 'value'}",
        "{b'image_id': 1, b'value': 3}",
        "{[]: 1}",  # unhashable: literal_eval raises TypeError
        "{{}: 1}",
        "{{}}",
        "{**{}}",
    ],
)
def test_one_bad_entry_spoils_the_list(entry: str) -> None:
    assert parse(answer(f"[{entry}]")) == UNREAD
    assert parse(answer(f'[{{"image_id": 2, "value": 7}}, {entry}]')) == UNREAD


@pytest.mark.parametrize(
    "document",
    [
        '{"image_id": 1, "value": 3}',
        "({'image_id': 1, 'value': 3},)",
        '"[]"',
        "3",
        "null",
        "true",
        "None",
        "NaN",
    ],
)
def test_an_answer_that_is_no_list_does_not_parse(document: str) -> None:
    assert parse(answer(document)) == UNREAD


@pytest.mark.parametrize("extra", ['"note": "old"', '"rank": 1', '"x": NaN', '"": {}'])
def test_an_extra_key_parses_but_is_not_well_formed(extra: str) -> None:
    assert parse(answer(f'[{{"image_id": 1, "value": 3, {extra}}}]')) == Reply((Item(1, 3.0),), False)


# ── R_format ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        f"<think>reasoning</think><answer>{TWO}</answer>",
        f"<think>reasoning</think>\n<answer>{TWO}</answer>",
        f"  \n<think>\nreasoning\n</think>\n\n\t<answer>\n{TWO}\n</answer>\n ",
        f"<think></think><answer>{TWO}</answer>",
        f"<think>1 < 2, a <b>bold</b> claim</think><answer>{TWO}</answer>",
        answer('[{"image_id": 1, "value": 3}, {"image_id": 1, "value": 4}]'),  # an id twice fails the ranking
        answer('[{"image_id": 99, "value": 3}]'),  # so does an id that is no picture
    ],
)
def test_well_formed(text: str) -> None:
    assert parse(text).well_formed


@pytest.mark.parametrize(
    "text",
    [
        f"<answer>{TWO}</answer>",
        f"<think>hm</think>{TWO}",
        f"<think>hm<answer>{TWO}</answer>",
        f"hm</think><answer>{TWO}</answer>",
        f"<answer>{TWO}</answer><think>hm</think>",
        f"<think>hm</think> so <answer>{TWO}</answer>",
        f"Sure! <think>hm</think><answer>{TWO}</answer>",
        f"<think>hm</think><answer>{TWO}</answer> Done.",
        f"<think>hm</think><answer>{TWO}</answer></answer>",
        f"<think>hm</think><answer>{TWO}</answer><answer>{TWO}</answer>",
        f"<think><think>hm</think><answer>{TWO}</answer>",
        f"<think>hm</think></think><answer>{TWO}</answer>",
        f"<think>an <answer> tag</think><answer>{TWO}</answer>",
        f"<think>hm<answer>{TWO}</answer></think>",
        f"<think><answer>{TWO}</answer>hm</think>",
        f"</think>hm<think><answer>{TWO}</answer>",
        f"<Think>hm</Think><answer>{TWO}</answer>",
        answer("[]"),
        answer("[{}]"),
        answer(""),
        answer("42"),
    ],
)
def test_not_well_formed(text: str) -> None:
    assert not parse(text).well_formed


def test_every_truncation_of_a_reply_reads_and_none_is_well_formed() -> None:
    text = reference_reply([30.0, 7.0, 7.0, 12.5], 1.0)
    closed = text.index("</answer>") + len("</answer>")
    assert parse(text).well_formed
    for length in range(len(text)):
        cut = parse(text[:length])
        assert not cut.well_formed
        assert (cut.items is None) is (length < closed)


# ── what a reply knows of N pictures ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("read", "count", "permutation", "positions", "values"),
    [
        (reply((2, 3), (1, 7)), 2, True, [1, 0], [7, 3]),
        (reply((3, 1), (1, 2), (2, 3)), 3, True, [1, 2, 0], [2, 3, 1]),
        (reply((2, 3)), 2, False, [None, 0], [None, 3]),  # one missing
        (reply((1, 3), (1, 7)), 2, False, None, [None, None]),  # an id twice: which value is meant?
        (reply((1, 3), (1, 3), (1, 3), (2, 5)), 2, False, None, [None, 5]),
        (reply((1, 3), (2, 5), (3, 6)), 2, False, None, [3, 5]),  # an id that is no picture
        (reply((0, 3), (1, 5)), 2, False, None, [5, None]),
        (reply((-1, 3), (1, 5)), 2, False, None, [5, None]),  # not the last picture, as Python would count
        (reply((10**300, 3), (1, 5)), 2, False, None, [5, None]),
        (Reply((), False), 2, False, None, [None, None]),
        (UNREAD, 2, False, None, [None, None]),
        (reply((1, 5)), 1, True, [0], [5]),
    ],
)
def test_reply(
    read: Reply,
    count: int,
    permutation: bool,
    positions: list[int | None] | None,
    values: list[float | None],
) -> None:
    assert read.is_permutation(count) is permutation
    assert read.positions(count) == positions
    assert read.values(count) == values


# ── hostile text ─────────────────────────────────────────────────────────────────────────────────────────

NESTED = [
    "[",
    "(",
    "{",
    "-",
    "~",
    "+",
    "- ",
    "not ",
    "{1:",
    "[[],",
    '{"a":',
    "lambda:",
    "a[",
    "1 if 1 else ",
    "f'{",
]
LONG = [
    "[]",
    "()",
    "1+",
    "1**",
    "a()",
    ".a",
    '"a"',
    "1,",
    "9",
    "\\\n",
    "\n",
    "1<",
    "1 and ",
    "1_",
    "\\d",
    "1if ",
]


def filled(pieces: list[str]) -> list[str]:
    """Each piece repeated to just under 8,192 characters, bare and closed with a number."""
    return [piece * (8190 // len(piece)) + end for piece in pieces for end in ("", "1")]


@pytest.mark.parametrize("text", filled(NESTED + LONG))
def test_hostile_answers_read_as_nothing(text: str) -> None:
    assert parse(answer(text)) == UNREAD


def test_hostile_answers_do_not_crash_the_interpreter() -> None:
    # A stack overflow in C can't be caught, so this runs where it would be seen, in its own process: once
    # on the main thread's stack (8 MB on Linux), once on 2 MB, as little as a common system gives.
    program = (
        "import json, sys, threading\n"
        "from rarl.method.replies import parse\n"
        "texts = json.load(sys.stdin)\n"
        "def read():\n"
        "    assert all(parse(f'<answer>{text}</answer>').items is None for text in texts)\n"
        "    print('read')\n"
        "read()\n"
        "threading.stack_size(2 * 1024 * 1024)\n"
        "thread = threading.Thread(target=read)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    closed = ["[" * 4096 + "]" * 4096, "(" * 4096 + ")" * 4096, "-(" * 2730 + "1" + ")" * 2730]
    texts = [*filled(NESTED), *closed]
    ran = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["read", "read"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "<answer>" + "[" * 1_000_000 + "</answer>",
        "<answer>" * 100_000,
        "</answer>" * 100_000,
        "<answer></answer>" * 100_000,
        "<answer>" * 100_000 + "</answer>" * 100_000,
        "</answer>" * 100_000 + "<answer>" * 100_000,
        "<think>" * 100_000,
        "<think>" * 100_000 + "</think>" * 100_000 + answer(TWO),
        "<think>"
        + " " * 1_000_000
        + "</think>"
        + " " * 1_000_000
        + f"<answer>{TWO}</answer>"
        + " " * 1_000_000,
        "<" * 1_000_000,
        "<answer" * 100_000 + "</answer>",
    ],
    ids=range(12),
)
def test_a_megabyte_reads_in_no_time(text: str) -> None:
    # Linear reading takes milliseconds; reading again from each of 100,000 tags would take minutes.
    started = time.perf_counter()
    parse(text)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    "text",
    [
        r"['\d']",
        "[1if 1else 2]",
        "[0x1for x in y]",
        "[1 is 1]",
        "[1](2)",
        "\0",
        "\ud800",
        "'\ud800'",
        "\ufeff[]",
        "# -*- coding: latin-1 -*-\n[]x",
        "[" + "\r" * 10,
    ],
)
def test_no_warning_and_no_error_reaches_the_user(text: str) -> None:
    assert parse(answer(text)).items is None  # warnings are errors in these tests


tags = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>"])
tokens = tags | st.sampled_from(
    ["[", "]", "{", "}", "(", ")", ",", ":", "'", '"', "-", "\\", "\0", "1", "nan", "1e999"]
)


@given(
    st.text()
    | st.lists(tokens | st.sampled_from(['"image_id"', '"value"']) | st.text(max_size=3)).map("".join)
)
@example(answer("{[]: 1}"))
def test_any_text_reads(text: str) -> None:
    for whole in (text, answer(text)):
        read = parse(whole)
        assert all(math.isfinite(item.value) for item in read.items or ())
        assert not read.well_formed or read.items


keys = st.sampled_from(["image_id", "value", "x"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {"image_id": st.integers(-2, 9), "value": scalars}, optional={"x": scalars}
) | st.dictionaries(keys, scalars, max_size=3)


def is_entry(entry: Any) -> bool:
    return (
        type(entry) is dict
        and type(entry.get("image_id")) is int
        and type(entry.get("value")) in (int, float)
        and abs(entry["value"]) <= sys.float_info.max
    )


@given(st.lists(entries, max_size=5) | documents, st.sampled_from([json.dumps, repr]))
@example([{"image_id": 0, "value": 1e308}], json.dumps)
def test_any_document_reads_as_exactly_its_items(document: Any, write: Any) -> None:
    read = parse(answer(write(document)))
    if type(document) is list and all(is_entry(entry) for entry in document):
        assert read.items == tuple(Item(entry["image_id"], float(entry["value"])) for entry in document)
        assert read.well_formed is (bool(document) and all(len(entry) == 2 for entry in document))
    else:
        assert read == UNREAD


def suite() -> list[Path]:
    """The JSON Parsing Test Suite, where it is at hand."""
    return sorted((SHARED_DATA / "json_test_suite" / "test_parsing").glob("*.json"))


@pytest.mark.skipif(not suite(), reason="the JSON Parsing Test Suite is not at hand (RARL_SHARED_DATA)")
def test_json_parsing_test_suite() -> None:
    """Each document, to be accepted (y), rejected (n) or either (i), alone and inside an entry."""
    accepted = 0
    for path in suite():
        text = path.read_bytes().decode("utf-8", errors="replace")
        assert not parse(answer(text)).well_formed, path.name
        inside = parse(answer(f'[{{"image_id": 1, "value": 3, "note": {text}}}]'))
        assert not inside.well_formed, path.name
        if path.name.startswith("y_"):
            assert inside.items == (Item(1, 3.0),), path.name
            accepted += 1
    assert accepted > 90


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "step", "written"),
    [
        (3.0, 1, "3"),
        (3, 1.0, "3"),
        (0.0, 1, "0"),
        (-0.0, 1, "0"),
        (116.0, 1, "116"),
        (5.0, 0.01, "5.00"),
        (5.4, 0.01, "5.40"),
        (5.43, 0.01, "5.43"),
        (0.1 + 2 * 0.1, 0.1, "0.3"),  # 0.30000000000000004: on the grid but for binary
        (1 + 443 * 0.01, 0.01, "5.43"),
        (2.5, 0.5, "2.5"),
        (0.25, 0.25, "0.25"),
        (30.0, 5, "30"),
        (-12.0, 1, "-12"),
        (3.4, 1, "3.4"),  # off the grid: in full
        (5.4321, 0.01, "5.4321"),
        (0.5, 1, "0.5"),  # on a grid that starts at 0.5
        (1e300, 1, "1e+300"),
    ],
)
def test_numbers_are_written_short_on_the_grid_and_in_full_off_it(
    value: float, step: float, written: str
) -> None:
    assert write_answer([Item(1, value)], step) == f'[{{"image_id": 1, "value": {written}}}]'


def test_write_answer_keeps_the_order_given() -> None:
    assert write_answer(TWO_ITEMS, 1) == TWO
    assert write_answer([], 1) == "[]"


def test_write_reply() -> None:
    assert write_reply("Hm.", TWO_ITEMS, 1) == f"<think>Hm.</think>\n<answer>{TWO}</answer>"


def test_reasoning_template_spells_the_values_in_picture_order() -> None:
    assert reasoning_template([3.0, 7.0], 1) == "Picture 1: 3. Picture 2: 7."
    assert reasoning_template([5.4], 0.01) == "Picture 1: 5.40."


def test_reference_items_ascend_and_ties_go_by_id() -> None:
    assert reference_items([7, 3, 7, 1]) == [Item(4, 1.0), Item(2, 3.0), Item(1, 7.0), Item(3, 7.0)]


def test_reference_reply() -> None:
    assert reference_reply([7, 3], 1) == (
        "<think>Picture 1: 7. Picture 2: 3.</think>\n"
        '<answer>[{"image_id": 2, "value": 3}, {"image_id": 1, "value": 7}]</answer>'
    )


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.sampled_from([1, 0.5, 0.01, 5, 1 / 3, 1e-12]),
)
def test_what_is_written_reads_back(values: list[float], step: float) -> None:
    read = parse(reference_reply(values, step))
    assert read.well_formed
    assert read.is_permutation(len(values))
    assert read.values(len(values)) == pytest.approx(values, rel=0, abs=1e-6 * step)
