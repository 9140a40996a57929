"""Names that are not written as those they mean: exact first, then the one that a looser reading fits."""

import unicodedata

import pytest

from rarl.data.names import is_readable, match_names, same_word, spelling, words_like

NFC, NFD = (unicodedata.normalize(form, "Müller パン 한국.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (NFC, NFD),
        (NFD, NFC),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("sub/a.jpg", "sub\\a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("at 3.15 PM.png", "at 3.15\u202fPM.png"),
        ("v 13.05.png", "v\u00a013.05.png"),
        ("写真 1.png", "写真\u30001.png"),
        ("\u200eWhatsApp.jpg", "WhatsApp.jpg"),
        ("می\u200cروم.png", "میروم.png"),
        ("a.jpg", "a.JPG"),
        ("a.JPEG", "a.jpeg"),
        ("IMG_1.jpg", "img_1.JPG"),
        ("000f0", "000f0.png"),
        ("a.HEIC", "a.jpg"),
        ("a.png", "a.jpg"),
        ("Photos/a.jpg", "a.jpg"),
        ("C:\\Users\\me\\photos\\a.jpg", "a.jpg"),
        ("/data/upload/3/a.jpg", "upload/3/a.jpg"),
        ("/data/local-files/?d=upload/3/a.jpg", "upload/3/a.jpg"),
        ("http://localhost:8080/data/upload/3/a%20b.jpg?token=1", "upload/3/a b.jpg"),
        ("100%.jpg", "sub/100%.JPG"),
        ("a.jpg", "part1/a.jpg"),
        ("a", "part1/a.JPG"),
        (f"/data/{NFC}", NFD),
        ("a//b/./c.jpg", "a/b/c.jpg"),
        ("heart\u2764.jpg", "heart\u2764\ufe0f.jpg"),
        ("7", "0007.jpg"),
        ("7.0", "part/07.png"),
        ("/data/upload/3/1a2b3c4d-IMG_1.jpg", "IMG_1.jpg"),
        ("/data/upload/3/1a2b3c4d-IMG_1_2.jpg", "photos/IMG 1 (2).jpg"),
        ("/data/upload/3/IMG%201.jpg", "photos/IMG 1.jpg"),
    ],
)
def test_the_unique_looser_match(wanted: str, there: str) -> None:
    matches = match_names([wanted], [there, "other.jpg", "sub/other/one.png"])
    assert matches.found == {wanted: there}
    [how] = matches.loosely.values()
    assert matches.notes()["names matched loosely"].startswith(f"1 {how}; such as {wanted!r} for {there!r}")


def test_exact_comes_first_and_is_not_told() -> None:
    there = ["a.jpg", "A.jpg", "a.JPG", "a.png", NFC, NFD]
    matches = match_names(there, there)
    assert matches.found == {name: name for name in there}
    assert (matches.loosely, matches.several, matches.notes()) == ({}, {}, {})


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("a", ["a.jpg", "a.png"]),
        ("A.JPG", ["A.jpg", "A.Jpg"]),
        ("a.jpg", ["x/a.jpg", "y/a.jpg"]),
        ("Img.JPG", ["img.jpg", "IMG.jpg"]),
        ("7", ["007.jpg", "07.jpg"]),
        ("/data/upload/3/1a2b3c4d-a_b.jpg", ["x/a b.jpg", "y/a b.jpg"]),
    ],
)
def test_what_may_mean_several_means_none(wanted: str, there: list[str]) -> None:
    matches = match_names([wanted], there)
    assert matches.found == {}
    several = " or ".join(map(repr, sorted(there)))
    assert matches.reason(wanted) == f"may be {several}; write the whole name"


def test_a_stricter_reading_decides_between_several() -> None:
    assert match_names(["a"], ["a.png", "A.png"]).found == {"a": "a.png"}
    assert match_names(["a.JPG"], ["a.jpg", "A.jpg"]).found == {"a.JPG": "a.jpg"}
    assert match_names(["1.jpg"], ["1.JPG", "x/1.jpg"]).found == {"1.jpg": "1.JPG"}
    assert match_names(["7", "007"], ["7.jpg", "007.jpg"]).found == {"7": "7.jpg", "007": "007.jpg"}


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        (["a.jpg", "a.png"], ["a.jpg"], {"a.jpg": "a.jpg"}),
        (["x/1.jpg", "y/1.jpg"], ["1.jpg"], {}),
        (["a/1.jpg", "1.jpg"], ["a/1.jpg", "b/1.jpg"], {"a/1.jpg": "a/1.jpg"}),
        (["a.jpg", "A.JPG"], ["a.jpg"], {"a.jpg": "a.jpg"}),
    ],
)
def test_two_names_do_not_mean_one_file(wanted: list[str], there: list[str], found: dict[str, str]) -> None:
    """Another image's value would be given to it."""
    matches = match_names(wanted, there)
    assert matches.found == found
    for name in set(wanted) - set(found):
        assert "meant by another name" in matches.reason(name) or "may be" in matches.reason(name)


def test_two_spellings_of_one_name_mean_one_file() -> None:
    assert match_names([NFC, NFD, f"./{NFC}"], [NFC]).found == dict.fromkeys((NFC, NFD, f"./{NFC}"), NFC)


def test_names_may_be_shared_where_that_does_no_harm() -> None:
    assert match_names(["a", "a.jpg"], ["a.jpg"], shared=True).found == {"a": "a.jpg", "a.jpg": "a.jpg"}


@pytest.mark.parametrize(
    "name",
    ["..", "", ".jpg", "../x\0.jpg", "gone.jpg", "/", "sub/", "b", "1.5", "c d.jpg", "05.jpg", "x/05.jpg"],
)
def test_what_means_nothing(name: str) -> None:
    matches = match_names([name], ["a.jpg", "sub/b.tar.gz", "1.jpg", "5.jpg", "c_d.jpg"])
    assert (matches.found, matches.reason(name)) == ({}, "no such file")


@pytest.mark.parametrize(
    "name", ["a\u202fb", "a\u00a0b", "写真\u3000", "می\u200cروم", "👨\u200d👩", "\u200ea", "\uf8ff", "Ünï"]
)
def test_spaces_and_joiners_of_any_script_are_readable(name: str) -> None:
    assert is_readable(name)


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x7fb", "\x1b[2J", "a\udcff", "a\x9b"])
def test_control_characters_and_bytes_that_are_no_text_are_not(name: str) -> None:
    assert not is_readable(name)


def test_words_are_the_same_in_any_spelling() -> None:
    assert same_word(f" {NFD} ") == same_word(NFC.upper())
    assert same_word("low\u00a0ripe") == same_word("Low  ripe")
    assert spelling("Low") != spelling("low")


def test_a_word_means_the_one_written_exactly_so_or_all_that_are_the_same() -> None:
    assert words_like("cell", ["Cell", "cell"]) == ["cell"]
    assert words_like("red cell", ["Red\u00a0cell", "dog"]) == ["Red\u00a0cell"]
    assert words_like("CELL", ["Cell", "cell", "dog"]) == ["Cell", "cell"]
    assert words_like("cat", ["Cell"]) == []
