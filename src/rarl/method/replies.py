"""What the model wrote, read back: text -> `Reply`, and the reference reply -> text (Table 1's format).
Model output is data, so reading is total: it never raises, runs nothing, and takes time linear in the text.
There are two readings: the strict one, which rewards and the main numbers use, and a lenient one beside it
for models that were never trained on the format. How good a reply is belongs to `equations` and `rewards`."""

import ast
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"

LONGEST_ANSWER = 8192
"""Characters between the answer tags beyond which a reply is not read; 8 images need about 300."""


@dataclass(frozen=True)
class Item:
    """One entry of a list: picture `image_id` (from 1, as the prompt announces it) has `value`."""

    image_id: int
    value: float


@dataclass(frozen=True)
class Reply:
    """A reply as read.

    Attributes:
        items: the entries in listed order; `()` for an empty list, `None` for no answer that parses.
        well_formed: the predicate of R_format (Eq. 8): exactly `<think>…</think>` then `<answer>…</answer>`,
            and in it a list that is not empty, each entry with exactly the two keys.
    """

    items: tuple[Item, ...] | None
    well_formed: bool

    def is_permutation(self, count: int) -> bool:
        """Whether the listed ids are exactly 1..`count`, each once."""
        return self.items is not None and sorted(item.image_id for item in self.items) == [
            *range(1, count + 1)
        ]

    def positions(self, count: int) -> list[int | None] | None:
        """The place (from 0) at which picture 1..`count` is listed, `None` for a picture that is missing.

        The whole is `None` where there is no ranking to speak of: nothing parsed, an empty list, an id twice,
        or an id that is no picture.
        """
        if not self.items:
            return None
        places: list[int | None] = [None] * count
        for place, item in enumerate(self.items):
            if not 1 <= item.image_id <= count or places[item.image_id - 1] is not None:
                return None
            places[item.image_id - 1] = place
        return places

    def values(self, count: int) -> list[float | None]:
        """The value of picture 1..`count`; `None` where missing or listed twice. Foreign ids are ignored."""
        found: list[float | None] = [None] * count
        seen: set[int] = set()
        for item in self.items or ():
            if 1 <= item.image_id <= count:
                found[item.image_id - 1] = None if item.image_id in seen else item.value
                seen.add(item.image_id)
        return found


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=2048)  # in training three rewards read each reply, of the policy and of the group
def parse(text: str) -> Reply:
    """Read a reply. Total: any text gives a `Reply`, in time linear in its length.

    The last answer counts: the last `<answer>` that some `</answer>` follows, up to the first that does.
    It is read as JSON, then as a Python literal, for Table 1 shows single quotes.
    """
    entries = _literal(_last_answer(text))
    if not isinstance(entries, list):
        return Reply(None, False)
    items = [_item(entry) for entry in entries]
    known = tuple(item for item in items if item is not None)
    if len(known) < len(items):
        return Reply(None, False)
    # A known entry holds both keys, so one with two keys holds exactly those.
    exact = all(len(entry) == 2 for entry in entries)
    return Reply(known, bool(known) and exact and _is_framed(text))


def _last_answer(text: str) -> str:
    """What stands in the last pair of answer tags; empty if there is none or it is too long to be read."""
    place = _place_of_answer(text)
    return text[place] if place is not None and place.stop - place.start <= LONGEST_ANSWER else ""


def _place_of_answer(text: str) -> slice | None:
    """Where the content of the last pair of answer tags stands in `text`, or `None` if there is no pair."""
    # Two searches from the right and one from the left: no pattern, so no backtracking.
    start = text.rfind(ANSWER, 0, max(text.rfind(END_ANSWER), 0))
    if start < 0:
        return None
    start += len(ANSWER)
    return slice(start, text.find(END_ANSWER, start))


def _literal(text: str) -> Any:
    """The JSON document or Python literal that `text` is, or `None`."""
    text = text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError, OverflowError):
        pass
    try:
        # Python's tokenizer warns of "\d" and of "1if"; the text is the model's, nobody here can mend it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    # TypeError is literal_eval's answer to a dict or set with an unhashable key, such as {[]: 1}.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError):
        return None


def _item(entry: Any) -> Item | None:
    """`entry` as an item, or `None` if it is not a dict with an integer id and a finite number as value."""
    if not isinstance(entry, dict):
        return None
    image_id, value = entry.get("image_id"), entry.get("value")
    # bool is a subclass of int: `true` is neither an id nor a value.
    if isinstance(image_id, bool) or not isinstance(image_id, int):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return Item(image_id, float(value)) if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float holds, such as 10**400
        return None


def _is_framed(text: str) -> bool:
    """Whether `text` is one think block and then one answer block, white space around them free."""
    text = text.strip()
    if any(text.count(tag) != 1 for tag in (THINK, END_THINK, ANSWER, END_ANSWER)):
        return False
    thought, _, rest = text.partition(END_THINK)
    return thought.startswith(THINK) and rest.lstrip().startswith(ANSWER) and rest.endswith(END_ANSWER)


# ── replies that the prompt begins ───────────────────────────────────────────────────────────────────────

_OPENING = re.compile(r"<think>[^<]*(?:</think>\s*)?\Z")


def opening_of(prompt: str) -> str:
    """What the end of a rendered prompt already writes of the reply: from its `<think>` on, or nothing.

    The chat templates of models that always reason end with `<think>`, and those of models that were told
    not to with an empty `<think></think>`. The reply is then this text and what the model writes after it.
    """
    found = _OPENING.search(prompt, max(prompt.rfind(THINK), 0))
    return found[0] if found else ""


def continuation(reply: str, opening: str) -> str:
    """What a model has to write of `reply` where the prompt has written `opening` (see `opening_of`). If that
    closes its reasoning, the reply's is left out."""
    if END_THINK in opening:
        return reply.partition(END_THINK)[2].lstrip()
    return reply.removeprefix(THINK) if opening else reply


# ── reading leniently ────────────────────────────────────────────────────────────────────────────────────

FARTHEST_BACK = 4 * LONGEST_ANSWER
"""Characters from the end of an answer in which the lenient reading looks for a list."""

MOST_CANDIDATES = 32
"""The most pieces of an answer that the lenient reading tries; it begins with the last."""

FENCE = "```"
_BRACKETS = re.compile(r"[][{}]")
_ID = re.compile(r"(?:picture|image)? {0,3}([0-9]{1,9})", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)


def parse_leniently(text: str, count: int) -> Reply:
    """Read a reply to `count` pictures as a person would who doesn't mind the format. For evaluation and use
    only, never for a reward. Total, as `parse` is, and linear in the text.

    A reply that `parse` reads is read so. Of any other, this looks at the last answer; where there is no pair
    of answer tags, at what follows the last `</think>`, or at the whole text. There it takes the first of
    these that is a list of entries: the whole, the last fenced block (```), the last list or dict in that
    block, the last list or dict anywhere. One that holds another is tried before it. Each is read as JSON,
    then as a Python literal.

    Beyond what `parse` accepts, an id or a value may be a number written as a text (`"25"`, `"Picture 1"`).
    For a single picture a dict will do in place of a list, wherever it stands, and without `image_id`; and so
    will a number, if it is all of the answer. Broken JSON is not repaired, no number is picked out of prose,
    one bad entry spoils its list, and an empty list says nothing.

    Returns:
        The reply as `parse` has it where that reads it; else what was found, never `well_formed`.
    """
    strict = parse(text)
    if strict.items is not None:
        return strict
    place = _place_of_answer(text)
    if place is None:
        thought_to = text.rfind(END_THINK)
        place = slice(0 if thought_to < 0 else thought_to + len(END_THINK), len(text))
    answer = text[max(place.start, place.stop - FARTHEST_BACK) : place.stop]
    for number, candidate in enumerate(_candidates(answer)):
        if number == MOST_CANDIDATES:
            break
        if len(candidate) <= LONGEST_ANSWER and (items := _lenient_items(_literal(candidate), count)):
            return Reply(items, False)
    return Reply(None, False)


def _candidates(answer: str) -> Iterator[str]:
    """The pieces of an answer that may be its list, the likeliest first."""
    yield answer
    end = answer.rfind(FENCE)
    start = answer.rfind(FENCE, 0, max(end, 0))
    if start >= 0:
        block = answer[start + len(FENCE) : end]
        yield block.lstrip().removeprefix("json").removeprefix("python")
        yield from _balanced(block)
    yield from _balanced(answer)


def _balanced(text: str) -> Iterator[str]:
    """The pieces from a bracket to its partner, those that end last first: so what holds another comes before
    it. A bracket within quotes is a bracket, too, for an apostrophe in prose opens no text."""
    open_at: list[int] = []
    spans: list[tuple[int, int]] = []
    for found in _BRACKETS.finditer(text):
        here = found.start()
        if text[here] in "[{":
            open_at.append(here)
        elif open_at and text[open_at[-1]] + text[here] in ("[]", "{}"):
            start = open_at.pop()
            if here - start < LONGEST_ANSWER:
                spans.append((start, here + 1))
        else:
            open_at.clear()  # nothing that is open can have its partner beyond this one
    for start, end in reversed(spans):
        yield text[start:end]


def _lenient_items(document: Any, count: int) -> tuple[Item, ...] | None:
    """The entries that a document lists, or `None` if it is no list of entries."""
    alone = count == 1
    if alone and (value := _lenient_value(document)) is not None:
        return (Item(1, value),)
    if alone and isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        return None
    items = [_lenient_item(entry, alone) for entry in document]
    known = tuple(item for item in items if item is not None)
    return known if known and len(known) == len(items) else None


def _lenient_item(entry: Any, alone: bool) -> Item | None:
    if not isinstance(entry, dict):
        return None
    value = _lenient_value(entry.get("value"))
    if value is None:
        return None
    image_id = entry.get("image_id", 1 if alone else None)
    if isinstance(image_id, str) and (found := _ID.fullmatch(image_id.strip())):
        image_id = int(found[1])
    return _item({"image_id": image_id, "value": value})


def _lenient_value(value: Any) -> float | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    item = _item({"image_id": 1, "value": value})
    return None if item is None else item.value


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────


def write_answer(items: Sequence[Item], step: float) -> str:
    """The list as JSON, in the order given: `[{"image_id": 2, "value": 3}, …]`.

    A value on the grid of `step` has the step's decimals (step 1: `3`; step 0.01: `5.40`); a value off it is
    written in full, so that what is written always reads back as what was meant.
    """
    entries = (f'{{"image_id": {item.image_id}, "value": {_written(item.value, step)}}}' for item in items)
    return f"[{', '.join(entries)}]"


def write_reply(reasoning: str, items: Sequence[Item], step: float) -> str:
    """A whole reply: `reasoning` between think tags, then the list between answer tags."""
    return f"{THINK}{reasoning}{END_THINK}\n{ANSWER}{write_answer(items, step)}{END_ANSWER}"


def reasoning_template(values: Sequence[float], step: float) -> str:
    """Reasoning that spells the values in picture order: `Picture 1: 3. Picture 2: 7.`

    The rule is not repeated: the prompt has just named it, and every token here costs in each rollout.
    """
    return " ".join(
        f"Picture {number}: {_written(value, step)}." for number, value in enumerate(values, start=1)
    )


def reference_items(values: Sequence[float]) -> list[Item]:
    """The true list for pictures 1..N with these values: ascending by value, ties by `image_id`."""
    items = [Item(number, float(value)) for number, value in enumerate(values, start=1)]
    return sorted(items, key=lambda item: item.value)  # sorting is stable: ties stay in order of image_id


def reference_reply(values: Sequence[float], step: float, *, reasoned: bool = True) -> str:
    """The reply that earns every reward in full for pictures 1..N with these values; its reasoning spells the
    values, or is empty where it is not to be `reasoned`."""
    return write_reply(reasoning_template(values, step) if reasoned else "", reference_items(values), step)


def _written(value: float, step: float) -> str:
    """`value` with the decimals of `step` if that is the same number, else in full."""
    decimals = len(f"{step:.9f}".rstrip("0").partition(".")[2])
    short = f"{value + 0.0:.{decimals}f}"  # + 0.0: minus zero is written 0
    # The slack is for grids that binary can't hold: 0.1 + 2 * 0.1 is 0.30000000000000004.
    same = abs(value) < 1e15 and abs(float(short) - value) <= 1e-6 * step
    return short if same else repr(float(value))
