"""A name finds a file inside its folder and never leads out of it; what systems leave is no photo."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from rarl.data.listing import ListedFolder, no_photo, walk_files
from rarl.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("f/a.png", "f/sub/b.png", "f/sub/deep/c", "secret/d.png", "f-too/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "f"


@pytest.mark.parametrize("name", ["a.png", "sub/b.png", "sub/deep/c"])
def test_files_are_found_in_folders_too(folder: Path, name: str) -> None:
    assert ListedFolder(folder).find(name, "here") == folder / name


@pytest.mark.parametrize("name", ["b.png", "A.png", "sub", "none/a.png", "a.png/b", "sub/none/c", "x" * 300])
def test_what_is_no_file_is_none(folder: Path, name: str) -> None:
    assert ListedFolder(folder).find(name, "here") is None


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            "/",
            "/etc/passwd",
            "..",
            "../secret/d.png",
            "sub/../../secret/d.png",
            "sub/../a.png",
            "./a.png",
        ],
        *["sub//b.png", "sub/", ".", "a.png\0", "a\0/../a.png", "..\\secret\\d.png", "C:\\a.png", "C:/a.png"],
        *["https://example.org/a.png", "file:///etc/passwd"],
    ],
)
def test_a_name_that_may_lead_out_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        ListedFolder(folder).find(name, "list.csv line 3")
    assert str(caught.value).startswith(
        f"list.csv line 3: file_name {name!r} must name a file inside {folder}"
    )


def test_paths_are_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert ListedFolder("f").find("a.png", "here") == folder / "a.png"


@pytest.mark.parametrize(
    ("link", "target"),
    [("l.png", "a.png"), ("sub/l.png", "../a.png"), ("l.png", "sub/deep/c"), ("l.png", "../f/a.png")],
)
def test_links_within_are_fine(folder: Path, link: str, target: str) -> None:
    (folder / link).symlink_to(target)
    assert ListedFolder(folder).find(link, "here") == folder / link


def test_a_link_to_a_folder_within_is_fine(folder: Path) -> None:
    (folder / "l").symlink_to("sub")
    assert ListedFolder(folder).find("l/b.png", "here") == folder / "l" / "b.png"
    assert ListedFolder(folder).find("l", "here") is None


@pytest.mark.parametrize("target", ["../secret/d.png", "../f-too/e.png", "/etc/passwd", "..", "../nothing"])
def test_a_link_that_leads_out_is_refused(folder: Path, target: str) -> None:
    (folder / "l.png").symlink_to(target)
    with pytest.raises(
        DataError, match=r"here: .*l\.png.* is a link that leads out of .*; put the file itself"
    ):
        ListedFolder(folder).find("l.png", "here")


@pytest.mark.parametrize("name", ["l/d.png", "l/none.png", "sub/l/d.png"])
def test_a_folder_that_is_a_link_out_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.symlink_to(folder.parent / "secret")
    with pytest.raises(DataError, match="is a link that leads out of"):
        ListedFolder(folder).find(name, "here")


def test_a_link_by_way_of_a_link_that_leads_out_is_refused(folder: Path) -> None:
    (folder / "way").symlink_to(folder.parent / "secret")
    (folder / "l.png").symlink_to("way/d.png")
    with pytest.raises(DataError, match="is a link that leads out of"):
        ListedFolder(folder).find("l.png", "here")


def test_links_to_nothing_and_to_themselves_are_none(folder: Path) -> None:
    (folder / "nothing").symlink_to("none.png")
    (folder / "loop").symlink_to("loop")
    assert ListedFolder(folder).find("nothing", "here") is None
    assert ListedFolder(folder).find("loop", "here") is None
    assert ListedFolder(folder).find("loop/a.png", "here") is None
    assert ListedFolder(folder).find("a.png", "here") == folder / "a.png"


def test_a_link_elsewhere_is_not_in_the_way_of_other_files(folder: Path) -> None:
    (folder / "l.png").symlink_to("/etc/passwd")
    assert ListedFolder(folder).find("a.png", "here") == folder / "a.png"


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    (folder / "l.png").symlink_to(folder / "a.png")
    found = ListedFolder(folder.parent / "link")
    assert found.find("sub/b.png", "here") == folder.parent / "link" / "sub" / "b.png"
    assert found.find("l.png", "here") == folder.parent / "link" / "l.png"


def test_links_may_lead_anywhere_in_what_is_given(folder: Path) -> None:
    (folder / "l.png").symlink_to("../secret/d.png")
    (folder / "out.png").symlink_to("/etc/passwd")
    wider = ListedFolder(folder, within=folder.parent)
    assert wider.find("l.png", "here") == folder / "l.png"
    with pytest.raises(DataError, match=f"leads out of {folder.parent};"):
        wider.find("out.png", "here")
    with pytest.raises(DataError, match="must name a file inside"):
        wider.find("../secret/d.png", "here")


def test_a_folder_that_can_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"here: '.*sub' can't be read \(Permission denied\)"):
        ListedFolder(folder).find("sub/b.png", "here")
    with pytest.raises(DataError, match=r"here: '.*' can't be read \(File name too long\)"):
        ListedFolder(folder).find("x" * 300 + "/b.png", "here")


def test_each_folder_is_listed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, calls = os.scandir, []

    def counted(path: Any) -> Any:
        calls.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    found = ListedFolder(folder)
    for name in ["a.png", "sub/b.png", "x.png", "sub/x.png"] * 3:
        found.find(name, "here")
    assert calls == ["f", "sub"]


# --- what names mean, and what is no photo ---

NFC, NFD = (unicodedata.normalize(form, "Müller.jpg") for form in ("NFC", "NFD"))


def test_names_find_the_files_they_mean(folder: Path) -> None:
    (folder / NFD).touch()
    (folder / "back\\slash.png").touch()
    names = ["a.png", NFC, "sub\\b.png", "/data/f/sub/b.png", "back\\slash.png", "gone.png"]
    found = ListedFolder(folder).find_all(dict.fromkeys(names, "here"))
    assert found.files == {
        "a.png": ("a.png", folder / "a.png"),
        NFC: (NFD, folder / NFD),
        "sub\\b.png": ("sub/b.png", folder / "sub/b.png"),
        "back\\slash.png": ("back\\slash.png", folder / "back\\slash.png"),
    }
    assert found.reason("gone.png") == "no such file"
    assert "'sub/b.png' is meant by another name" in found.reason("/data/f/sub/b.png")


@pytest.mark.parametrize("name", ["../secret/d.png", "https://x.org/d.png", "..\\secret\\d.png", "a.png\0"])
def test_a_name_that_leads_out_means_no_file_and_the_others_are_found(folder: Path, name: str) -> None:
    """One image of a table with whole paths is missing: the others are there."""
    found = ListedFolder(folder).find_all({name: "here", "C:\\photos\\a.png": "here"})
    assert found.files == {"C:\\photos\\a.png": ("a.png", folder / "a.png")}
    assert found.reason(name) == (
        f"no such file, file_name {name!r} must name a file inside {folder}, as 'a.png' or 'b/a.png'"
    )


def test_a_file_is_found_in_another_normal_form(folder: Path) -> None:
    """A collection that was copied to a Mac and back: its metadata.jsonl has the other form."""
    here, there = (unicodedata.normalize(form, "Jäger/Müller.png") for form in ("NFC", "NFD"))
    (folder / there).parent.mkdir()
    (folder / there).touch()
    assert ListedFolder(folder).find(here, "here") == folder / there
    assert ListedFolder(folder).find("Jager/Muller.png", "here") is None
    (folder / here).parent.mkdir()
    assert ListedFolder(folder).find(here, "here") is None  # a folder of exactly that name, and not in it
    for form in ("NFKC", "NFKD"):
        (folder / unicodedata.normalize(form, "ẛ̣.png")).touch()
    assert ListedFolder(folder).find("ẛ̣.png", "here") is None


def test_exact_names_need_no_walk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "walk", None)
    names = {"a.png": "here", "sub/b.png": "here"}
    assert list(ListedFolder(folder).find_all(names).files) == ["a.png", "sub/b.png"]


LEFT_BY_SYSTEMS = {
    "__MACOSX/1/._a.png": "__MACOSX",
    "1/__macosx/a.png": "__MACOSX",
    "1/._a.png": "._*",
    "1/deep/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg": "@eaDir",
    "#recycle/a.png": "#recycle",
    "$RECYCLE.BIN/a.png": "$RECYCLE.BIN",
    "1/.thumbnails/a.png": ".thumbnails",
    "1/THUMBS.DB": "Thumbs.db",
    "Desktop.ini": "desktop.ini",
    "1/.DS_Store": ".DS_Store",
    "1/.git/a.png": ".*",
}


@pytest.mark.parametrize("name", LEFT_BY_SYSTEMS)
def test_what_systems_leave_is_no_photo(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    kind = LEFT_BY_SYSTEMS[name]
    assert no_photo(name) == kind
    walked = walk_files(folder)
    assert walked.files == ["a.png", "sub/b.png", "sub/deep/c"]
    assert walked.notes() == {"left out as no photos": {kind: 1}}
    if kind != ".*":  # what is hidden and nothing else may be named
        found = ListedFolder(folder).find_all({name: "here"})
        assert (found.files, found.reason(name)) == ({}, f"no photo ({kind})")


@pytest.mark.parametrize(
    "name", ["thumbs/a.png", "macosx.jpg", "a@eaDir.png", "my desktop.ini.jpg", "1/a.png"]
)
def test_other_names_are_photos(name: str) -> None:
    assert no_photo(name) is None


def test_what_is_no_photo_need_not_be_readable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lost+found", "other"):
        (folder / name).mkdir()
    scandir, forbidden = os.scandir, "lost+found"

    def guarded(path: Any) -> Any:
        if Path(path).name == forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert walk_files(folder).files == ["a.png", "sub/b.png", "sub/deep/c"]
    forbidden = "other"
    with pytest.raises(DataError, match=r"other: can't be read \(Permission denied\)"):
        walk_files(folder)
