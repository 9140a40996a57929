"""Digests: whatever changes in a folder is found, and nothing else."""

import json
import os
from pathlib import Path

import pytest

from rarl.digests import DIGESTS, damage, write_digests
from rarl.files import finish, unfinished


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of them in a folder of its own, and their digests."""
    (tmp_path / "model" / "part").mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(range(100)))
    (tmp_path / "model" / "part" / "a.json").write_text("{}")
    write_digests(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_as_it_was_written(folder: Path) -> None:
    assert sorted(json.loads((folder / DIGESTS).read_text())) == ["model.safetensors", "part/a.json"]
    assert damage(folder) is None


def test_files_that_are_added_and_hidden_ones_do_not_matter(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    (folder / ".lock").touch()
    assert damage(folder) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.unlink(), "model.safetensors is missing"),
        (lambda file: os.truncate(file, 50), "model.safetensors is cut (50 of 100 bytes)"),
        (lambda file: os.truncate(file, 200), "model.safetensors is longer (200 of 100 bytes)"),
        (lambda file: file.write_bytes(bytes(100)), "model.safetensors is not what was written"),
    ],
)
def test_what_has_changed_is_named(change, said: str, folder: Path) -> None:
    change(folder / "model.safetensors")
    assert damage(folder) == said


@pytest.mark.parametrize("bit", [0, 399, 799])
def test_one_bit_is_found(bit: int, folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    (folder / "model.safetensors").write_bytes(content)
    assert damage(folder) == "model.safetensors is not what was written"
    assert damage(folder, weights=False) is None  # who reads no weights doesn't wait for theirs


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {"bytes": "x", "sha256": 0}}'])
def test_digests_that_can_not_be_read_are_damage(content: str, folder: Path) -> None:
    (folder / DIGESTS).write_text(content)
    assert damage(folder) == f"{DIGESTS} can't be read"


def test_digests_of_files_elsewhere_are_not_followed(folder: Path) -> None:
    (folder / DIGESTS).write_text('{"/dev/zero": {"bytes": 0, "sha256": ""}}')
    assert damage(folder) == "/dev/zero is missing"


def test_a_folder_without_digests_is_of_an_earlier_version(tmp_path: Path) -> None:
    assert damage(tmp_path) is None


def test_a_finished_folder_has_digests_and_is_as_readable_as_any_file(tmp_path: Path) -> None:
    temporary = unfinished(tmp_path / "model")
    (temporary / "model.safetensors").touch(mode=0o600)
    finish(temporary, tmp_path / "model")
    (tmp_path / "other").touch()
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(["model.safetensors", DIGESTS], (tmp_path / "other").stat().st_mode)
