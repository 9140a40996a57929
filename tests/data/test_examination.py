"""Examining image files: each is looked at once, in order, and a bad one doesn't stop the others."""

import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rarl.data import images as examination
from rarl.data.images import Examined, examine, examine_all, thumbnail


def test_an_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    image.save(tmp_path / "a.png", exif=exif)
    found = examine(tmp_path / "a.png")
    assert found.digest == hashlib.sha256((tmp_path / "a.png").read_bytes()).digest()
    assert found.size == (16, 32)
    assert found.problem is None
    assert found.thumbnail is not None
    grey = np.frombuffer(found.thumbnail, dtype=np.uint8).reshape(16, 16)
    assert (grey[:7] == 255).all()  # white was left and is above
    assert (grey[9:] == 0).all()


def test_the_thumbnail_is_rows_of_grey() -> None:
    image = Image.new("RGB", (16, 16))
    image.putpixel((3, 0), (255, 0, 0))
    small = thumbnail(image)
    assert len(small) == 256
    assert small[3] == 76  # 0.299 of 255
    assert sum(small) == 76


def test_a_broken_file_has_a_digest_and_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    found = examine(tmp_path / "a.png")
    assert found.digest == hashlib.sha256(b"nothing").digest()
    assert (found.size, found.thumbnail) == (None, None)
    assert found.problem is not None
    assert found.problem.startswith(f"{tmp_path / 'a.png'}: not a readable")


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    assert examine(tmp_path / "a.png") == Examined(
        b"", problem=f"{tmp_path / 'a.png'}: no such image file; check the path"
    )


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    read = []
    monkeypatch.setattr(
        examination, "image_bytes", lambda path: read.append(path) or (tmp_path / "a.png").read_bytes()
    )
    assert examine(tmp_path / "a.png").size == (4, 4)
    assert read == [tmp_path / "a.png"]


def numbered(folder: Path, number: int) -> list[Path]:
    """Images whose width is their number, but for those of which 7 is left over by 10: they are broken."""
    paths = [folder / f"{place}.png" for place in range(number)]
    for place, path in enumerate(paths):
        if place % 10 == 7:
            path.write_bytes(b"broken")
        else:
            Image.new("RGB", (place + 1, 1)).save(path)
    return paths


@pytest.mark.parametrize("threads", [1, 3, None])
def test_results_and_progress_are_in_order(tmp_path: Path, threads: int | None) -> None:
    paths = numbered(tmp_path, 40)
    told: list[tuple[int, int]] = []
    found = list(examine_all(paths, lambda done, total: told.append((done, total)), threads=threads))
    widths = [None if one.size is None else one.size[0] for one in found]
    assert widths == [None if place % 10 == 7 else place + 1 for place in range(40)]
    assert told == [(done, 40) for done in range(1, 41)]


def test_no_paths() -> None:
    assert list(examine_all([])) == []


def test_few_results_wait_to_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def slow(path: Path) -> Examined:
        begun.append(path)
        time.sleep(0.02)
        return Examined(b"")

    monkeypatch.setattr(examination, "examine", slow)
    every = examine_all([tmp_path] * 1000, threads=2)
    next(every)
    time.sleep(0.6)
    assert len(begun) == 16
    next(every)
    every.close()
    assert len(begun) <= 17


def test_what_has_not_begun_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(examination, "examine", lambda path: begun.append(path) or time.sleep(0.1))
    every = examine_all([tmp_path] * 1000, threads=2)
    next(every)
    every.close()
    assert len(begun) <= 8


def test_no_more_threads_than_memory_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    running, most, lock = 0, 0, threading.Lock()
    gate = threading.Event()

    def one(path: Path) -> Examined:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if most > 16:
                gate.set()
        gate.wait(0.3)
        with lock:
            running -= 1
        return Examined(b"")

    monkeypatch.setattr(examination, "examine", one)
    assert len(list(examine_all([Path("a")] * 40))) == 40
    assert most == 16
