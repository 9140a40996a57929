"""files.py: whole or not there, and one at a time."""

import errno
import os
import threading
from pathlib import Path

import pytest

from rarl.disk import written_to
from rarl.errors import ConfigError, DiskError
from rarl.files import finish, locked, new_folder, unfinished, write_text


def test_a_text_is_written_with_its_folders_and_over_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.json"
    write_text(path, "one\n")
    write_text(path, "zwei ä\n")
    assert path.read_bytes() == "zwei ä\n".encode()
    assert os.listdir(path.parent) == ["text.json"]


def test_a_text_that_can_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of a pair: \ud800")
    assert path.read_text() == "old"


def test_a_new_folder_has_its_name_only_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "new"
    with new_folder(folder) as place:
        (place / "file").write_text("x")
        assert place.parent == folder.parent  # the same disk, so that it can be renamed
        assert not folder.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["new"]
    assert (folder / "file").read_text() == "x"


@pytest.mark.parametrize("reason", [KeyboardInterrupt, SystemExit, OSError])
def test_a_new_folder_that_is_left_early_is_gone(tmp_path: Path, reason: type[BaseException]) -> None:
    def write() -> None:
        with new_folder(tmp_path / "new") as place:
            (place / "sub").mkdir()
            raise reason

    with pytest.raises(reason):
        write()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (unfinished(tmp_path / "new") / "rest").write_text("half")
    with new_folder(tmp_path / "new") as place:
        assert list(place.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_new_folder_is_never_made_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(FileExistsError), new_folder(tmp_path / name):
            pytest.fail("it began")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]


def test_what_comes_to_be_meanwhile_is_kept(tmp_path: Path) -> None:
    def write() -> None:
        with new_folder(tmp_path / "new"):
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "theirs").touch()

    with pytest.raises(OSError, match=r"not empty|exists"):
        write()
    assert os.listdir(tmp_path) == ["new"]
    assert os.listdir(tmp_path / "new") == ["theirs"]


def test_finish_takes_the_place_of_an_old_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    place = unfinished(tmp_path / "model")
    (place / "new").touch()
    assert finish(place, tmp_path / "model") == tmp_path / "model"
    assert os.listdir(tmp_path) == ["model"]
    assert sorted(os.listdir(tmp_path / "model")) == ["digests.json", "new"]


def test_two_commands_are_not_at_the_same_work_in_a_folder(tmp_path: Path, other_command) -> None:
    other_command(tmp_path / "run", "training")
    with pytest.raises(ConfigError) as caught, locked(tmp_path / "run", "training"):
        pytest.fail("both are at work")
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: another command is at work here (training): wait until it has ended, or choose "
        "another folder"
    )
    with locked(tmp_path / "run", "results"), locked(tmp_path / "other", "training"):
        pass  # other work, and another folder


def test_one_that_is_killed_or_has_failed_keeps_nobody_out(tmp_path: Path, other_command) -> None:
    process = other_command(tmp_path, "training")
    process.kill()
    process.wait()
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path, "training"):
            raise KeyError


def test_who_waits_goes_on_when_the_other_has_ended(tmp_path: Path, other_command) -> None:
    process = other_command(tmp_path, "results")
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        process.kill()

    threading.Timer(0.3, kill).start()
    with locked(tmp_path, "results", wait=True):
        assert killed.is_set()


def test_the_longest_name_can_be_written_under_another_one_first(tmp_path: Path) -> None:
    name = "x" * 255
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"
    with new_folder(tmp_path / "y" / name) as root:
        (root / "file").touch()
    assert (tmp_path / "y" / name / "file").is_file()


# ── what goes wrong with a disk ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/model.safetensors"),
        RuntimeError("I/O error: No space left on device (os error 28): runs/model.safetensors"),
        RuntimeError(
            "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3"
        ),
    ],
)
def test_a_full_disk_is_named(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match="can't be written, the disk is full: make room"),
        written_to(tmp_path),
    ):
        raise error


def test_other_errors_are_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), written_to(tmp_path):
        raise RuntimeError("something else")


def test_a_file_that_can_not_be_written_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_text(tmp_path / "a.json", "{}")
    assert error.value.filename == tmp_path / "a.json"
    assert list(tmp_path.iterdir()) == []


def test_one_of_two_that_write_one_folder_is_told_of_the_other(tmp_path: Path) -> None:
    with new_folder(tmp_path / "new") as place:
        (place / "file").touch()
        with pytest.raises(ConfigError, match="another command is writing it"), new_folder(tmp_path / "new"):
            pytest.fail("it began")
    assert os.listdir(tmp_path) == ["new"]
    assert os.listdir(tmp_path / "new") == ["file"]
