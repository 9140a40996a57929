"""Exports of annotation tools as tables: Label Studio's JSON and CVAT's XML."""

import json
from pathlib import Path
from typing import Any

import pytest

from rarl.data.sources.tables import read_table
from rarl.errors import DataError


def answer(name: str, value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "image", "type": "x", "value": value}


def test_label_studios_tasks_have_a_row_for_each_rater(tmp_path: Path) -> None:
    tasks = [
        {
            "id": 7,
            "data": {"image": "/data/upload/3/a.jpg"},
            "annotations": [
                {"completed_by": 1, "result": [answer("rating", {"rating": 4})]},
                {
                    "completed_by": {"id": 2, "email": "b@x.org"},
                    "result": [answer("rating", {"rating": 5}), answer("kind", {"choices": ["leaf"]})],
                },
                {"completed_by": 3, "was_cancelled": True, "result": [answer("rating", {"rating": 1})]},
            ],
        },
        {"id": 8, "data": {"image": "b.jpg"}, "annotations": []},
    ]
    (tmp_path / "p.json").write_text(json.dumps(tasks))
    rows = read_table(tmp_path / "p.json")
    image = "/data/upload/3/a.jpg"
    assert [row for _, row in rows] == [
        {"rating": 4, "kind": None, "image": image, "annotator": 1},
        {"rating": 5, "kind": "leaf", "image": image, "annotator": "b@x.org"},
    ]


def cvat(folder: Path, images: str) -> Path:
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    return folder / "annotations.xml"


def test_cvats_tags_are_columns(tmp_path: Path) -> None:
    score = '<tag label="q"><attribute name="score">{}</attribute></tag>'
    images = (
        f'<image id="0" name="a.jpg" subset="Train">{score.format(3)}<box label="cell"/></image>'
        f'<image id="1" name="b/b.jpg" subset="Test">{score.format(4)}</image>'
        '<image id="2" name="c.jpg" subset="Test"></image>'
    )
    rows = [row for _, row in read_table(cvat(tmp_path, images))]
    assert rows == [
        {"file": "a.jpg", "split": "Train", "score": "3"},
        {"file": "b/b.jpg", "split": "Test", "score": "4"},
    ]
    other = cvat(tmp_path, images.replace('"Test"', '"batch 2"'))
    assert [row for _, row in read_table(other)] == [
        {"file": "a.jpg", "score": "3"},
        {"file": "b/b.jpg", "score": "4"},
    ]
    labels = '<image name="a.jpg"><tag label="low"/></image><image name="b.jpg"><tag label="high"/></image>'
    assert [row for _, row in read_table(cvat(tmp_path, labels))] == [
        {"file": "a.jpg", "label": "low"},
        {"file": "b.jpg", "label": "high"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<annotations><image name="a"><box/></image></annotations>', "none of its 1 images has a tag"),
        ("<annotation/>", "its root is <annotation>, not <annotations>; a table in XML is CVAT's"),
        ("<!DOCTYPE x []><annotations/>", "DOCTYPE"),
        ("x", "not XML"),
    ],
)
def test_what_is_no_export_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.xml")
