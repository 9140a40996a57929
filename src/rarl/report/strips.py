"""The images in a report: ranked lists as strips in the order of the reply (the best, the median and the
worst of an arm, each with the base's reply to the same list), and whole groups of responses from training.
Images are small copies inside the page; nothing is measured here."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.evaluation.prediction import Expected, Prediction
from rarl.method.tasks import Task
from rarl.report.record import Record
from rarl.report.tables import arm_names

LARGEST_SIDE = 128  # pixels of a copy; smaller images are left as they are
GROUPS_SHOWN = 3


@dataclass(frozen=True)
class Bar:
    """An 80 % interval with mean and truth, in per cent of the task's range, and in words."""

    low: float
    width: float
    mean: float
    truth: float
    text: str


@dataclass(frozen=True)
class Tile:
    """One image, with what the reply says of it.

    Attributes:
        picture: its number in the prompt, from 1.
        source: a copy of it as a data URI; None if it can't be opened.
        truth, given: the true and the predicted value, as texts.
        right: whether the two are the same on the task's grid.
        bar: what the model's distribution for this image alone says; None where there is none.
    """

    picture: int
    source: str | None
    truth: str
    given: str
    right: bool
    bar: Bar | None = None


@dataclass(frozen=True)
class Strip:
    """The images of a list in the order of a reply, or in that of the prompt if the reply is no ranking."""

    arm: str
    valid: bool
    tau: float
    tiles: list[Tile]
    reply: str


@dataclass(frozen=True)
class Response:
    """One response of a group, with the rewards and the advantage it was trained with."""

    text: str
    rewards: list[tuple[str, str]]
    reward: str
    advantage: str
    mutated: bool


@dataclass(frozen=True)
class ResponseGroup:
    """A group of responses to one prompt, as it was trained on."""

    step: int
    tiles: list[Tile]
    responses: list[Response]


class Thumbnails:
    """Small copies of images by id, each made once."""

    def __init__(self, images: dict[str, Path]) -> None:
        self._images = images
        self._made: dict[str, str | None] = {}

    def of(self, name: str) -> str | None:
        """The copy as a data URI; None where the image is gone or can't be opened."""
        if name not in self._made:
            self._made[name] = self._make(self._images.get(name))
        return self._made[name]

    def _make(self, path: Path | None) -> str | None:
        if path is None:
            return None
        try:
            image = open_image(path)
        except DataError:
            return None
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        file = io.BytesIO()
        small = max(image.size) <= 64  # where JPEG would blur what little there is
        image.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 80}))
        kind = "png" if small else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def ranked_strips(record: Record, thumbnails: Thumbnails) -> list[tuple[str, list[Strip]]]:
    """The best, the median and the worst of the main arm's longest lists, by tau, each with the base's reply
    to the same list: (heading, strips)."""
    lists = [line for line in record.main.predictions if line.images > 1]
    if not lists:
        return []
    longest = max(line.images for line in lists)
    by_tau = sorted((line for line in lists if line.images == longest), key=lambda line: line.tau or 0.0)
    names = arm_names(record.arms, record.model)
    base = record.arms.get("base") if record.main.name != "base" else None
    replies = {tuple(line.ids): line for line in (base.predictions if base else ())}
    found = []
    for title, place in (("Best", -1), ("Median", len(by_tau) // 2), ("Worst", 0)):
        line = by_tau[place]
        strips = [_strip(names[record.main.name], line, record, thumbnails)]
        if other := replies.get(tuple(line.ids)):
            strips.append(_strip(names["base"], other, record, thumbnails))
        found.append((f"{title} of {len(by_tau)} lists of {longest}", strips))
    return found


def response_groups(record: Record, thumbnails: Thumbnails) -> list[ResponseGroup]:
    """Groups of the main arm from the beginning, the middle and the end of its training. If some groups have
    a mutated response, only those are taken."""
    lines = [line for line in record.main.groups if len(line["ids"]) > 1] or record.main.groups
    lines = [line for line in lines if any(r["mutated"] for r in line["responses"])] or lines
    places = (
        sorted({round(third * (len(lines) - 1) / (GROUPS_SHOWN - 1)) for third in range(GROUPS_SHOWN)})
        if lines
        else []
    )
    return [_response_group(lines[place], record.main.since, thumbnails) for place in places]


def _strip(arm: str, line: Prediction, record: Record, thumbnails: Thumbnails) -> Strip:
    order: Sequence[int] = range(line.images)
    if line.valid and line.positions is not None:
        places = [place or 0 for place in line.positions]  # of a valid reply none is missing
        order = sorted(order, key=places.__getitem__)
    tiles = []
    for index in order:
        truth, given = line.truth[index], line.values[index]
        if record.knows_values:
            known = f"{truth:g}"
            right = given is not None and record.task.nearest(given) == record.task.nearest(truth)
        else:
            known, right = f"place {truth + 1:g}", False
        said = line.expected[index] if line.expected and record.knows_values else None
        bar = None if said is None else _bar(said, truth, record.task)
        tiles.append(Tile(index + 1, thumbnails.of(line.ids[index]), known, _value_text(given), right, bar))
    return Strip(arm, line.valid, line.tau or 0.0, tiles, line.reply)


def _bar(said: Expected, truth: float, task: Task) -> Bar:
    low, high, mean, true = (
        round(100 * (number - task.low) / (task.high - task.low), 1)
        for number in (said.low, said.high, said.mean, truth)
    )
    text = f"mean {said.mean:.3g}, 80 % from {said.low:g} to {said.high:g}"
    return Bar(low, round(high - low, 1), mean, true, text)


def _value_text(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _response_group(line: dict[str, Any], since: int, thumbnails: Thumbnails) -> ResponseGroup:
    truths = line.get("truth") or [f"place {place + 1}" for place in line.get("order", ())]
    tiles = [
        Tile(place, thumbnails.of(name), truth if isinstance(truth, str) else f"{truth:g}", "", False)
        for place, (name, truth) in enumerate(zip(line["ids"], truths, strict=True), 1)
    ]
    responses = [
        Response(
            text=response["text"],
            rewards=[(name, _reward_text(value)) for name, value in response["rewards"].items()],
            reward=_reward_text(response["reward"]),
            advantage=f"{response['advantage']:+.2f}",
            mutated=response["mutated"],
        )
        for response in line["responses"]
    ]
    return ResponseGroup(since + line["step"], tiles, responses)


def _reward_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
