"""The digits: which digit is in which split, what its picture looks like; and a second call loads."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rarl.data.collection import Collection
from rarl.data.images import open_image
from rarl.data.sources.digits import prepare_digits
from rarl.errors import DataError
from rarl.method.tasks import DIGITS


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return prepare_digits(tmp_path_factory.mktemp("data") / "digits")


def test_splits_are_those_of_the_data_sets_order_and_share_nothing(digits: Collection) -> None:
    between = range(300, 1397)
    parts = {
        "train": [index for index in between if index % 6],
        "validation": [index for index in between if index % 6 == 0],
        "test": range(1397, 1797),
        "pretrain": range(300),
    }
    assert list(digits.splits) == list(parts)
    for name, indices in parts.items():
        assert [row.id for row in digits.split(name)] == [f"{index:04d}" for index in indices]
    assert digits.split("train")[0].path.name == "0301.png"
    assert digits.task == DIGITS


def test_values_are_those_of_the_data_set(digits: Collection) -> None:
    values = load_digits().target
    assert all(row.value == values[int(row.id)] for rows in digits.splits.values() for row in rows)
    assert [row.value for row in digits.split("pretrain")[:10]] == list(range(10))


def test_pictures_are_28_by_28_rgb_with_light_ink(digits: Collection) -> None:
    zero = np.asarray(open_image(digits.split("pretrain")[0].path))
    assert zero.shape == (28, 28, 3)
    assert (zero[..., 0] == zero[..., 1]).all()
    assert (zero[..., 0] == zero[..., 2]).all()
    assert zero[0, 0].max() <= 5  # the corner is paper
    assert zero[12:16, 12:16].max() <= 20  # and so is the hole of a zero
    assert zero[14, 5:11].max() >= 120  # between them runs ink


def test_the_bytes_are_the_same_each_time(digits: Collection, tmp_path: Path) -> None:
    def digest(root: Path) -> dict[str, str]:
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    again = digest(prepare_digits(tmp_path / "again").root)
    assert again == digest(digits.root)
    assert len(again) == 1797 + 4 + 1


def test_a_second_call_loads_and_writes_nothing(digits: Collection) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.root.rglob("*")}
    assert prepare_digits(digits.root) == digits
    assert {path: path.stat().st_mtime_ns for path in digits.root.rglob("*")} == before


def test_another_collection_is_not_taken_for_it(digits: Collection, tmp_path: Path) -> None:
    other = prepare_digits(tmp_path / "other")
    file = other.root / "test" / "metadata.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="something other than the digits"):
        prepare_digits(other.root)
    file.write_text("".join(lines))
    assert prepare_digits(other.root).splits.keys() == digits.splits.keys()
    (other.root / "task.yaml").write_text(
        (other.root / "task.yaml").read_text().replace("delta: 2", "delta: 3")
    )
    with pytest.raises(DataError, match="something other than the digits"):
        prepare_digits(other.root)
