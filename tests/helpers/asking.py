"""Evaluation without a model, for the tests of `evaluate`: images of one grey each, whose replies a test
writes as a function of their values (the fixture `script`), and predictions made up by hand."""

import json

from PIL import Image

from rarl.data.groups import Group
from rarl.evaluation.evaluate import evaluate
from rarl.evaluation.prediction import Prediction
from rarl.method.replies import reference_reply
from rarl.method.tasks import Task

TASK = Task("toy", "brightness", low=0, high=10, step=1, delta=2)
SINGLE = {"mae", "accuracy", "within_one", "srcc", "plcc"}
MEASURED = {*SINGLE, "tau2", "tau2_values", "tau4", "tau4_values", "parsed", "valid"}
MEASURED |= {f"{name}_lenient" for name in ("mae", "accuracy", "srcc", "tau2", "tau4", "parsed", "valid")}
ROTATED = {"agreement2", "position_bias2", "agreement4", "position_bias4"}


def image(value):
    return Image.new("RGB", (28, 28), (int(value) * 20,) * 3)


def right(values):
    return reference_reply(values, TASK.step)


def as_shown(values):
    """A reply that lists the pictures as they stand in the prompt."""
    return reference_reply(list(range(len(values))), TASK.step)


def run(collection, out, arm="base", images=(1, 2, 4), lists=6, position_lists=0, **options):
    options |= {"arm": arm, "images": images, "lists": lists, "position_lists": position_lists}
    return evaluate(None, None, collection, out, **options)


def read(out):
    """`metrics.json`, and the lines of `predictions.jsonl`."""
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return json.loads((out / "metrics.json").read_text()), [json.loads(line) for line in lines]


def rotated(lines):
    return [line for line in lines if "rotation" in line]


def prediction(images=1, **fields):
    """A prediction of which a test says what it looks at: by default every picture has the value and the
    truth 0 and is listed where it stands in the prompt."""
    known = {"arm": "base", "split": "test", "images": images, "ids": [f"i{n}" for n in range(images)]}
    known |= {"truth": [0.0] * images, "reply": "", "values": [0.0] * images, "parsed": True, "valid": True}
    known |= {"positions": list(range(images)), "tau": None, "tau_values": None}
    if images > 1:
        known |= {"tau": 0.0, "tau_values": 0.0}
    return Prediction(**known | fields)


def group_of(collection, *values):
    """One image for each of these values."""
    by_value = {row.value: row for rows in collection.splits.values() for row in rows}
    return Group(tuple(by_value[value] for value in values))


LISTS = [  # truth of picture 1.., reply, parsed, valid, tau by listed order, tau by values
    ((1, 5), '[{"image_id": 1, "value": 2}, {"image_id": 2, "value": 3}]', True, True, 1, 1),
    ((1, 5), '[{"image_id": 2, "value": 2}, {"image_id": 1, "value": 3}]', True, True, -1, -1),
    ((1, 5), '[{"image_id": 2, "value": 3}, {"image_id": 1, "value": 2}]', True, True, -1, 1),
    ((1, 5), '[{"image_id": 1, "value": 3}, {"image_id": 2, "value": 3}]', True, True, 1, 0),
    ((1, 5), '[{"image_id": 1, "value": 2}]', True, False, 0, 0),
    ((1, 5), '[{"image_id": 1, "value": 2}, {"image_id": 1, "value": 3}]', True, False, 0, 0),
    ((1, 5), '[{"image_id": 1, "value": 2}, {"image_id": 3, "value": 3}]', True, False, 0, 0),
    ((1, 5), "[]", True, False, 0, 0),
    ((1, 5), "one, then two", False, False, 0, 0),
    # By listed order 3, 1, 2 and truths 5, 1, 2: of (1,2) (1,3) (2,3) only the last disagrees.
    (
        (1, 5, 2),
        '[{"image_id": 1, "value": 1}, {"image_id": 2, "value": 6}, {"image_id": 3, "value": 2}]',
        True,
        True,
        1 / 3,
        1,
    ),
]
