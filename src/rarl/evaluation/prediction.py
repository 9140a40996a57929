"""A prediction: one reply to one prompt, read picture by picture and compared with the truth (section 4.1).
It is a line of `predictions.jsonl`. What all predictions of an arm come to is in `summary`, and the file is
read and written in `results`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rarl.data.groups import Group
from rarl.errors import DataError
from rarl.evaluation.metrics import list_tau, tau_values
from rarl.method.replies import Reply, parse, parse_leniently

ROTATED_ONLY = ("list", "rotation")
"""The keys that a line has only if it is of a rotated list."""


@dataclass(frozen=True)
class Reading:
    """What one of the two readings has of a reply; each attribute as in `Prediction`."""

    values: Sequence[float | None]
    positions: Sequence[int | None] | None
    parsed: bool
    valid: bool
    tau: float | None
    tau_values: float | None


@dataclass(frozen=True)
class Expected:
    """What the model's distribution over all answers has for one image, asked for alone
    (`rarl.scoring.expected`).

    Attributes:
        mean, median: in units of the task.
        low, high: the ends of the central interval with 80 % of the probability.
        mode, probability: the likeliest value, and how likely it is.
    """

    mean: float
    median: float
    low: float
    high: float
    mode: float
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a reply says of the N images of its prompt.

    Attributes:
        arm: whose reply it is; empty while an arm is still in training.
        split: of the collection that the images are from.
        images: their number, N.
        ids, truth: of picture 1..N; where only orders are known, `truth` has places in an order.
        reply: as it was written.
        values: of picture 1..N; None for a picture that is missing or listed twice.
        positions: the place of picture 1..N in the reply, from 0; None for a missing picture, and None as a
            whole if the reply is no ranking.
        parsed: whether the reply has a list of values at all.
        valid: whether every picture is in that list exactly once, and nothing else is.
        tau, tau_values: Kendall's tau by listed order and by value; None for a single image.
        list: the number of the list among the rotated ones of N images, from 0; None for a prompt that was
            not asked for rotation.
        rotation: by how many pictures that list was moved on, from 0; None likewise.
        lenient: what the lenient reading has, where that differs; everything above is of the strict one.
        expected: of picture 1..N, each asked for alone; None for one that can't be shown, and None as a whole
            where no distributions were asked for. The prompt's own reply has no part in it.
    """

    arm: str
    split: str
    images: int
    ids: Sequence[str]
    truth: Sequence[float]
    reply: str
    values: Sequence[float | None]
    positions: Sequence[int | None] | None
    parsed: bool
    valid: bool
    tau: float | None
    tau_values: float | None
    list: int | None = None
    rotation: int | None = None
    lenient: Reading | None = None
    expected: Sequence[Expected | None] | None = None

    def read_leniently(self) -> "Prediction":
        """The same prediction with the lenient reading in place of the strict one."""
        return self if self.lenient is None else replace(self, lenient=None, **asdict(self.lenient))

    @property
    def is_rotated(self) -> bool:
        """Whether it belongs to the rotated lists, which count in agreement and position bias alone."""
        return self.rotation is not None

    def to_json(self) -> dict[str, Any]:
        """The line of `predictions.jsonl`, as an object."""
        line = {key: getattr(self, key) for key in KEYS if self.is_rotated or key not in ROTATED_ONLY}
        if self.lenient is not None:
            line[LENIENT_KEY] = asdict(self.lenient)
        if self.expected is not None:
            line[EXPECTED_KEY] = [one and asdict(one) for one in self.expected]
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any], where: str) -> "Prediction":
        """The inverse of `to_json`. Further keys of the line are passed over.

        Args:
            where: the file and the line, for an error.

        Raises:
            DataError: if the line is no prediction.
        """
        if missing := [key for key in KEYS if key not in line and key not in ROTATED_ONLY]:
            raise DataError(f"{where} is not a prediction: it has no {', '.join(missing)}")
        prediction = cls(**{key: line[key] for key in KEYS if key in line})
        if problem := _wrong_value_in(prediction):
            raise DataError(f"{where} is not a prediction: {problem}")
        if (found := line.get(EXPECTED_KEY)) is not None:
            prediction = replace(prediction, expected=_read_expected(found, prediction.images, where))
        if (second := line.get(LENIENT_KEY)) is None:
            return prediction
        if not isinstance(second, dict) or (missing := [key for key in READING_KEYS if key not in second]):
            what = f"has no {', '.join(missing)}" if isinstance(second, dict) else "is no object"
            raise DataError(f"{where} is not a prediction: {LENIENT_KEY} {what}")
        prediction = replace(prediction, lenient=Reading(**{key: second[key] for key in READING_KEYS}))
        if problem := _wrong_value_in(prediction.read_leniently()):
            raise DataError(f"{where} is not a prediction: {LENIENT_KEY}: {problem}")
        return prediction


LENIENT_KEY = "lenient"
"""The key that a line has only if the two readings of its reply differ."""

EXPECTED_KEY = "expected"
"""The key that a line has only if distributions were asked for."""

KEYS = tuple(field.name for field in fields(Prediction) if field.name not in (LENIENT_KEY, EXPECTED_KEY))
"""Of a line of `predictions.jsonl`, in their order."""

READING_KEYS = tuple(field.name for field in fields(Reading))
EXPECTED_KEYS = tuple(field.name for field in fields(Expected))


def predict(group: Group, text: str, *, arm: str = "", split: str = "") -> Prediction:
    """The prediction that the reply `text` makes for the images of `group`."""
    count, truths = len(group.rows), group.values
    strict, lenient = (_compared(reply, truths) for reply in (parse(text), parse_leniently(text, count)))
    return Prediction(
        arm=arm,
        split=split,
        images=count,
        ids=[row.id for row in group.rows],
        truth=truths,
        reply=text,
        **asdict(strict),
        lenient=None if lenient == strict else lenient,
    )


def _compared(reply: Reply, truths: Sequence[float]) -> Reading:
    count = len(truths)
    values, positions = reply.values(count), reply.positions(count)
    return Reading(
        values=values,
        positions=positions,
        parsed=reply.items is not None,
        valid=reply.is_permutation(count),
        tau=list_tau(positions, truths) if count > 1 else None,
        tau_values=tau_values(positions, values, truths) if count > 1 else None,
    )


def _wrong_value_in(line: Prediction) -> str | None:
    """What is wrong with the values of a line that has all keys; None if nothing is."""
    for key, value in (("ids", line.ids), ("truth", line.truth), ("values", line.values)):
        if not isinstance(value, list) or len(value) != line.images:
            return f"{key} must be a list of {line.images}"
    if line.images > 1 and (line.tau is None or line.tau_values is None):
        return "tau and tau_values must be numbers where there are several images"
    if (line.list is None) != (line.rotation is None):
        return "list and rotation belong together"
    places = line.positions
    if places is not None and (not isinstance(places, list) or len(places) != line.images):
        return f"positions must be null or a list of {line.images}"
    if line.valid and (places is None or None in places):
        return "a valid reply has a position for every picture"
    return None


def _read_expected(found: Any, images: int, where: str) -> list[Expected | None]:
    """What stands under `expected` of a line.

    Raises:
        DataError: if it is not an entry or null for each picture.
    """
    entries = found if isinstance(found, list) else []
    if len(entries) != images or not all(
        one is None
        or (isinstance(one, dict) and all(isinstance(one.get(key), int | float) for key in EXPECTED_KEYS))
        for one in entries
    ):
        raise DataError(
            f"{where} is not a prediction: {EXPECTED_KEY} must be a list of {images}, each null or with "
            f"{', '.join(EXPECTED_KEYS)}"
        )
    return [one and Expected(**{key: one[key] for key in EXPECTED_KEYS}) for one in entries]
