"""Placing image files: the same file by a link, the same bytes by a copy, made smaller only on request; and
names that a collection can have."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from rarl.data.images import examine
from rarl.data.sources import Labelled
from rarl.data.writing import Placing


def picture(path: Path, size: tuple[int, int] = (4, 3), kind: str = "PNG", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path, kind, **options)
    return path


@pytest.fixture
def place(tmp_path: Path):
    """`place(PATH, NAME, ...)`: the names that files get in the folder `out`, in one collection."""
    (tmp_path / "out").mkdir()

    def run(*files: tuple[Path, str], copy: bool = False, max_pixels: int | None = None):
        placing = Placing(copy, max_pixels, {path: examine(path) for path, _ in files})
        taken: set[str] = set()
        names = [
            placing.place(Labelled(path, name, 0, name), tmp_path / "out", taken) for path, name in files
        ]
        return names, placing.counts

    return run


def test_a_link_is_the_file_itself(tmp_path: Path, place) -> None:
    source = picture(tmp_path / "raw/a.png")
    assert place((source, "sub/a.png")) == (["sub/a.png"], {"linked": 1, "copied": 0, "shrunk": 0})
    assert (tmp_path / "out/sub/a.png").samefile(source)


def test_a_copy_is_another_file_with_the_same_bytes(tmp_path: Path, place) -> None:
    source = picture(tmp_path / "raw/a.png")
    assert place((source, "a.png"), copy=True)[1] == {"linked": 0, "copied": 1, "shrunk": 0}
    assert not (tmp_path / "out/a.png").samefile(source)
    assert (tmp_path / "out/a.png").read_bytes() == source.read_bytes()


def test_what_can_not_be_linked_is_copied(tmp_path: Path, place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = picture(tmp_path / "raw/a.png")
    assert place((source, "a.png"))[1] == {"linked": 0, "copied": 1, "shrunk": 0}
    assert (tmp_path / "out/a.png").read_bytes() == source.read_bytes()


def test_a_name_that_is_there_already_is_never_written_into(tmp_path: Path, place) -> None:
    source, other = picture(tmp_path / "raw/a.png"), picture(tmp_path / "raw/b.png", (9, 9))
    os.link(other, tmp_path / "out/a.png")  # as on a file system that takes two names for one
    before = other.read_bytes()
    with pytest.raises(FileExistsError):
        place((source, "a.png"))
    assert other.read_bytes() == before


def test_a_link_becomes_the_file_that_it_leads_to(tmp_path: Path, place) -> None:
    source = picture(tmp_path / "raw/a.png")
    (tmp_path / "raw/link.png").symlink_to(source)
    for copy in (False, True):
        names, _ = place((tmp_path / "raw/link.png", f"{copy}.png"), copy=copy)
        assert not (tmp_path / "out" / names[0]).is_symlink()
        assert (tmp_path / "out" / names[0]).read_bytes() == source.read_bytes()


def test_only_larger_images_are_made_smaller(tmp_path: Path, place) -> None:
    small = picture(tmp_path / "raw/small.png", (20, 5))  # 100 pixels are allowed
    large = picture(tmp_path / "raw/large.png", (21, 5))
    wide = picture(tmp_path / "raw/wide.JPG", (80, 20), "JPEG", comment=b"x")
    bytes_before = [path.read_bytes() for path in (small, large, wide)]
    names, counts = place((small, "s.png"), (large, "l.png"), (wide, "w.JPG"), max_pixels=100)
    assert counts == {"linked": 1, "copied": 0, "shrunk": 2}
    assert (tmp_path / "out/s.png").samefile(small)
    with Image.open(tmp_path / "out/l.png") as image:
        assert image.size == (20, 5)
        assert image.format == "PNG"
    with Image.open(tmp_path / "out/w.JPG") as image:
        assert image.size == (20, 5)
        assert image.format == "JPEG"
    assert names == ["s.png", "l.png", "w.JPG"]
    assert [path.read_bytes() for path in (small, large, wide)] == bytes_before
    assert not (tmp_path / "out/l.png").samefile(large)


@pytest.mark.parametrize(("kind", "name"), [("GIF", "a.gif"), ("BMP", "a.bmp"), ("WEBP", "a.webp")])
def test_other_formats_become_png_when_made_smaller_and_else_stay(tmp_path, place, kind, name) -> None:
    source = picture(tmp_path / "raw" / name, (30, 30), kind)
    assert place((source, name))[0] == [name]
    assert place((source, name), max_pixels=100)[0] == [f"{name}.png"]
    with Image.open(tmp_path / "out" / f"{name}.png") as image:
        assert (image.size, image.format) == ((10, 10), "PNG")


def test_an_image_that_stands_upright_only_by_its_exif_data_is_made_smaller_upright(tmp_path, place) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    source = picture(tmp_path / "raw/a.jpg", (80, 20), "JPEG", exif=turned)
    place((source, "a.jpg"), max_pixels=100)
    with Image.open(tmp_path / "out/a.jpg") as image:
        assert image.size == (5, 20)
        assert 0x0112 not in image.getexif()


NAMES = {
    "a.png": "a.png",
    "b/c d/ä.JPEG": "b/c d/ä.JPEG",
    ".hidden.png": "_hidden.png",
    "..png": "_png.png",
    "__dir__/a.png": "_dir__/a.png",
    ".b/..c/a.png": "_b/_c/a.png",
    "a:b\\c.png": "a_b_c.png",
    "nul\0.png": "nul_.png",
    "x.pg": "x.pg.png",
    "no suffix": "no suffix.png",
    "metadata.jsonl": "metadata.jsonl.png",
    "a.txt": "a.txt.png",
    "a.PNG": "a.PNG",
    "a.webp": "a.webp",
}


@pytest.mark.parametrize(("name", "placed"), NAMES.items())
def test_odd_names(tmp_path: Path, place, name: str, placed: str) -> None:
    assert place((picture(tmp_path / "raw/source"), name))[0] == [placed]
    assert (tmp_path / "out" / placed).is_file()


def test_a_suffix_is_that_of_what_the_file_is(tmp_path: Path, place) -> None:
    assert place((picture(tmp_path / "raw/a", kind="JPEG"), "44_1_4_2016.pg"))[0] == ["44_1_4_2016.pg.jpg"]
    assert place((picture(tmp_path / "raw/b", kind="BMP"), "b"))[0] == ["b.bmp"]


def test_a_file_is_not_called_like_a_folder(tmp_path: Path, place) -> None:
    paths = [picture(tmp_path / f"raw/{i}", (i + 1, 1)) for i in range(2)]
    assert place((paths[0], ".x.png/a.png"), (paths[1], "_x.png"))[0] == ["_x.png/a.png", "_x-2.png"]


def test_names_that_become_one_are_numbered(tmp_path: Path, place) -> None:
    paths = [picture(tmp_path / f"raw/{i}.png", (i + 1, 1)) for i in range(6)]
    given = ["a:b.png", "a_b.png", "a\\b.png", "A_B.png", "x/a_b.png", "a_b-2.png"]
    names, counts = place(*zip(paths, given, strict=True))
    assert names == ["a_b.png", "a_b-2.png", "a_b-3.png", "A_B-4.png", "x/a_b.png", "a_b-2-2.png"]
    assert counts["linked"] == 6
    for name, path in zip(names, paths, strict=True):
        assert (tmp_path / "out" / name).samefile(path)


def test_names_stay_short_enough_for_a_file_system(tmp_path: Path, place) -> None:
    """What is appended, a number or a suffix, does not make them too long."""
    longest = "x" * 251 + ".png"
    other = "é" * 125 + ".png"
    files = [
        picture(tmp_path / "raw/1.png"),
        picture(tmp_path / "raw/2.png"),
        picture(tmp_path / "raw/3", (80, 60), "WEBP"),
    ]
    names, _ = place(
        *((files[0], longest), (files[1], longest.upper()), (files[2], other.replace("png", "webp"))),
        max_pixels=100,
    )
    assert names[:2] == [longest, "X" * 249 + "-2.PNG"]
    assert names[2].startswith("é" * 120)
    assert names[2].endswith(".png")
    assert all((tmp_path / "out" / name).is_file() for name in names)


def test_two_spellings_of_a_name_are_one_name_to_some_file_systems(tmp_path: Path, place) -> None:
    files = [picture(tmp_path / "raw" / name) for name in ("1.png", "2.png")]
    forms = [unicodedata.normalize(form, "Jäger.png") for form in ("NFC", "NFD")]
    names, _ = place(*zip(files, forms, strict=True))
    assert names == [forms[0], forms[1].replace(".png", "-2.png")]
