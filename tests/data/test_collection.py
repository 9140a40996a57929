"""Reading and writing a collection: the rows of a folder, a message for each mistake; and writing is all or
nothing."""

import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rarl.data.collection import Row, inspect_collection, load_collection
from rarl.data.writing import write_collection
from rarl.errors import DataError
from rarl.method.tasks import AESTHETICS, AGE

TASK = """
name: age
rule: facial age
low: 0
high: 116
step: 1
delta: 10
"""


def make(root: Path, **splits: list[Any]) -> Path:
    """A collection of empty files; a row is a dict, or the text of a line as it is."""
    root.mkdir(exist_ok=True)
    (root / "task.yaml").write_text(TASK)
    for name, rows in splits.items():
        (root / name).mkdir()
        for row in rows:
            if isinstance(row, dict) and re.fullmatch(r"\w[\w/]*(\.\w+)?", row.get("file_name") or ""):
                path = root / name / row["file_name"].strip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
        (root / name / "metadata.jsonl").write_text("".join(line + "\n" for line in lines))
    return root


def row(name: str = "a.jpg", value: Any = 20, **fields: Any) -> dict[str, Any]:
    return {"file_name": name, "value": value, **fields}


def png(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (4, 3), colour)


def test_rows_keep_their_order_and_fill_in_what_is_left_out(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        test=[row("z.jpg", 116)],
        train=[
            row("b.jpg", 3),
            row("sub/a.png", 0, id="anna", rule="apparent age", camera="x"),
            row("c", 2.5),
        ],
    )
    collection = load_collection(root)
    assert collection.task == AGE
    assert list(collection.splits) == ["train", "test"]
    assert collection.split("train") == (
        Row("train/b.jpg", root / "train" / "b.jpg", 3.0),
        Row("anna", root / "train" / "sub" / "a.png", 0.0, "apparent age"),
        Row("train/c", root / "train" / "c", 2.5),
    )
    assert type(collection.split("train")[0].value) is float


def test_other_folders_are_splits_where_they_have_metadata(tmp_path: Path) -> None:
    root = make(tmp_path, pretrain=[row()], validation=[row("b.jpg")])
    (root / "notes").mkdir()
    collection = load_collection(root)
    assert list(collection.splits) == ["validation", "pretrain"]
    with pytest.raises(DataError, match="no split 'test'; there are validation, pretrain"):
        collection.split("test")


def test_what_systems_and_notebooks_leave_is_no_split(tmp_path: Path) -> None:
    root = make(tmp_path, train=[row()])
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (root / name).mkdir()
        (root / name / "metadata.jsonl").write_text("{}")
    assert list(load_collection(root).splits) == ["train"]


def test_paths_are_absolute_and_blank_lines_and_a_byte_order_mark_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "c", train=["\ufeff" + json.dumps(row("ä.jpg")), "", "  "])
    (tmp_path / "c" / "train" / "ä.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert load_collection("c").split("train")[0].path == tmp_path / "c" / "train" / "ä.jpg"


ESCAPES = ["/etc/passwd", "../a.jpg", "b/../../a.jpg", "./a.jpg", "a//b.jpg", "b/", "a\0.jpg"]
ESCAPES += ["https://example.org/a.jpg", "C:/a.jpg", "..\\a.jpg"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_file_name_can_not_leave_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").touch()
    root = make(tmp_path / "c", train=[row("fine.jpg"), row(name)])
    with pytest.raises(DataError, match=r"metadata\.jsonl line 2: file_name .* must name a file inside"):
        load_collection(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "a.jpg", "value": 3', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"file_name": "a.jpg", "value": ' + "9" * 5000 + "}", "not JSON"),
        ('["a.jpg", 3]', "must be"),
        ("null", "must be"),
        ('{"value": 3}', "no 'file_name'; the keys there are value"),
        ('{"file_name": "a.jpg", "valu": 3}', "no 'value'; the keys there are file_name, valu"),
        (json.dumps(row(value="adult")), "value 'adult' is not a number; age expects 0-116"),
        (json.dumps(row(value=True)), "value True is not a number"),
        (json.dumps(row(value=None)), "value None is not a number"),
        (json.dumps(row(value=117)), "value 117 is outside the range; age expects 0-116"),
        (json.dumps(row(value=float("nan"))), "value nan is outside the range"),
        ('{"file_name": "a.jpg", "value": 1e999}', "value inf is outside the range"),
        ('{"file_name": "a.jpg", "value": 1' + "0" * 400 + "}", "is outside the range"),
        (json.dumps(row(name="")), "file_name must be a text"),
        (json.dumps(row(name=None)), "file_name must be a text"),  # type: ignore[arg-type]
        (json.dumps(row(name="\ud800.jpg")), "file_name must be a text"),
        (json.dumps(row(id=7)), "id must be a text that is not empty, not 7"),
        (json.dumps(row(rule=" ")), "rule must be a text"),
        (json.dumps(row(name="b.jpg")), r"image 'b.jpg' is not in .*train; add the file or remove the line"),
        (json.dumps(row(name="none/a.jpg")), "image 'none/a.jpg' is not in"),
        (json.dumps(row(name="folder")), "image 'folder' is not in"),
        (json.dumps(row(name="first.jpg")), r"'train/first.jpg' is that of train/metadata.jsonl line 1 too"),
        (json.dumps(row(id="old")), r"id 'old' is that of train/metadata.jsonl line 2 too"),
    ],
)
def test_every_mistake_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    root = make(tmp_path, train=[row("first.jpg"), row("second.jpg", id="old"), "", line])
    (root / "train" / "a.jpg").touch()
    (root / "train" / "folder").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        load_collection(root)
    assert str(caught.value).startswith(f"{root / 'train' / 'metadata.jsonl'} line 4: ")


def test_links_may_lead_within_the_collection_and_not_out(tmp_path: Path) -> None:
    root = make(tmp_path / "c", train=[row("a.jpg"), row("sub/b.jpg")], test=[row("c.jpg")])
    (tmp_path / "secret.jpg").touch()
    train = root / "train"
    (train / "a.jpg").unlink()
    (train / "a.jpg").symlink_to("../test/c.jpg")
    assert load_collection(root).split("train")[0].path == train / "a.jpg"
    (train / "a.jpg").unlink()
    (train / "a.jpg").symlink_to("gone.jpg")
    with pytest.raises(DataError, match=r"line 1: image 'a\.jpg' is not in"):
        load_collection(root)
    (train / "a.jpg").unlink()
    (train / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match=r"line 1: .*a\.jpg is a link that leads out of"):
        load_collection(root)
    (train / "a.jpg").unlink()
    (train / "a.jpg").touch()
    (train / "sub").rename(tmp_path / "sub")
    (train / "sub").symlink_to(tmp_path / "sub")
    with pytest.raises(DataError, match=r"line 2: .*sub is a link that leads out of"):
        load_collection(root)


def test_a_split_that_is_a_link_may_lead_within_the_collection_and_not_out(tmp_path: Path) -> None:
    root = make(tmp_path / "c", train=[row("a.jpg", id="a")])
    elsewhere = make(tmp_path / "other", test=[row("b.jpg", id="b")]) / "test"
    (root / "test").symlink_to(elsewhere)
    with pytest.raises(DataError, match=r"test/metadata\.jsonl line 1: .*test is a link that leads out of"):
        load_collection(root)
    (root / "test").unlink()
    (root / "more").mkdir()
    elsewhere.rename(root / "more/test")
    (root / "test").symlink_to("more/test")
    assert [row.id for row in load_collection(root).split("test")] == ["b"]


def test_an_inspection_notes_every_bad_row_and_goes_on(tmp_path: Path) -> None:
    bad = [row("a.jpg", 200), '{"file_name": ', row("../a.jpg"), row("b.jpg", id="x"), row("none!.jpg")]
    good = [row("x.jpg", 1, id="x"), row("y.jpg", 2)]
    root = make(tmp_path / "c", train=[good[0], *bad, good[1]], test=[row("z.jpg", id="x"), row("z.jpg")])
    found, problems = inspect_collection(root)
    assert [row.id for row in found.split("train")] == ["x", "train/y.jpg"]
    assert [row.id for row in found.split("test")] == ["test/z.jpg"]
    places = [f"{root / 'train/metadata.jsonl'} line {number}: " for number in range(2, 7)]
    places.append(f"{root / 'test/metadata.jsonl'} line 1: ")
    assert len(problems) == len(places)
    assert all(problem.startswith(place) for problem, place in zip(problems, places, strict=True))
    whole = make(tmp_path / "whole", train=good)
    assert inspect_collection(whole) == (load_collection(whole), [])


def test_an_inspection_needs_a_collection(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        inspect_collection(tmp_path / "none")
    root = make(tmp_path, train=[row("a.jpg", 999)])
    with pytest.raises(DataError, match=r"none of its 1 rows can be taken: .* line 1: value 999 is outside"):
        inspect_collection(root)
    (root / "task.yaml").unlink()
    with pytest.raises(DataError, match=r"task\.yaml: no such file"):
        inspect_collection(root)


def test_where_every_row_is_wrong_the_causes_are_named(tmp_path: Path) -> None:
    """A task.yaml of another scale, or images that were not copied: the same mistake in every line."""
    rows = [row(f"{i}.jpg", 1000 + i) for i in range(300)]
    root = make(tmp_path, train=[row()], test=[*rows, "{broken"])
    with pytest.raises(DataError, match="none of its 301 rows can be taken") as caught:
        inspect_collection(root)
    assert str(caught.value).count(f"{root / 'test/metadata.jsonl'} line ") == 2
    assert "line 1: value 1000 is outside the range; age expects 0-116" in str(caught.value)
    assert "line 301: not JSON" in str(caught.value)
    (root / "test/metadata.jsonl").write_text('{"file_name": "0.jpg", "id": "a"}\n')
    (root / "test/orders.jsonl").write_text('{"ids": ["a", "b"]}\n{"ids": ["b", "c"]}\n')
    with pytest.raises(
        DataError, match=r"none of its 2 orders can be taken: .*line 1: id 2, 'b', is that of no"
    ):
        inspect_collection(root)


def test_no_image_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path, train=[row("a.jpg"), row("b/c.jpg")])
    opened: list[str] = []
    real = open

    def noting(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(Path(file).name)
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", noting)
    assert len(load_collection(root).split("train")) == 2
    assert "metadata.jsonl" in opened
    assert not {"a.jpg", "c.jpg"} & set(opened)


def test_lines_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    root = make(tmp_path, train=[row()])
    with open(root / "train" / "metadata.jsonl", "ab") as file:
        file.write('{"file_name": "ä.jpg", "value": 1}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="line 2: not JSON"):
        load_collection(root)


def test_ids_are_unique_over_all_splits(tmp_path: Path) -> None:
    root = make(tmp_path, train=[row(id="x")], test=[row(id="x")])
    with pytest.raises(
        DataError, match=r"test/metadata.jsonl line 1: id 'x' is that of train/metadata.jsonl line 1"
    ):
        load_collection(root)


def test_one_image_may_have_two_rows_with_two_ids(tmp_path: Path) -> None:
    root = make(tmp_path, train=[row(id="x", rule="dogs"), row(id="y", rule="cats", value=0)])
    assert [r.rule for r in load_collection(root).split("train")] == ["dogs", "cats"]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("task.yaml", None, r"task\.yaml: no such file; a collection needs one, with the keys name, rule"),
        ("task.yaml", "name: [", "not YAML"),
        ("task.yaml", "[" * 20_000, "not YAML"),
        ("task.yaml", "\xff\x00", "not YAML"),
        ("task.yaml", "", "must be lines of `key: value`"),
        ("task.yaml", "- a", "must be lines of `key: value`"),
        ("task.yaml", TASK + "hihg: 3", r"task\.yaml: unknown key 'hihg'; did you mean 'high'"),
        ("task.yaml", TASK.replace("delta: 10", ""), "missing delta"),
        ("task.yaml", TASK.replace("116", "old"), r"task\.yaml: .*high must be a finite number"),
        ("train/metadata.jsonl", None, r"train/metadata\.jsonl: no such file; write a line"),
        ("train/metadata.jsonl", "\n\n", "no rows"),
    ],
)
def test_missing_and_malformed_files_are_named(
    tmp_path: Path, path: str, text: str | None, message: str
) -> None:
    root = make(tmp_path, train=[row()])
    (root / path).unlink()
    if text is not None:
        (root / path).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        load_collection(root)
    assert str(caught.value).startswith(str(root / path))


def test_a_missing_folder_and_one_without_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: no such folder"):
        load_collection(tmp_path / "none")
    with pytest.raises(DataError, match="no splits; make train, validation, test"):
        load_collection(make(tmp_path / "empty"))


def test_fifty_thousand_rows_load_without_a_look_at_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{i:06d}.jpg" for i in range(50_000)]
    root = make(tmp_path, train=[json.dumps(row(name, i % 117)) for i, name in enumerate(names)])
    listed = root / "train"

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def is_dir(self) -> bool:
            return False

        def is_symlink(self) -> bool:
            return False

    scandir = os.scandir
    calls: list[Path] = []

    def fake(path: Any) -> Any:
        calls.append(Path(path))
        return [Entry(name) for name in names] if Path(path) == listed else scandir(path)

    monkeypatch.setattr(os, "scandir", fake)
    start = time.process_time()
    assert len(load_collection(root).split("train")) == 50_000
    assert time.process_time() - start < 5
    assert calls.count(listed) == 1


def test_what_is_written_loads_again(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    png().save(jpeg, "JPEG")
    out = tmp_path / "new" / "faces"
    written = write_collection(
        out,
        AESTHETICS,
        {
            "train": [("one", 5.25, png()), ("two", 1, jpeg.getvalue(), "sharpness")],
            "extra": [("3", 10, png())],
        },
    )
    assert written == load_collection(out)
    assert written.task == AESTHETICS
    assert written.split("train") == (
        Row("one", out / "train" / "one.png", 5.25),
        Row("two", out / "train" / "two.jpg", 1.0, "sharpness"),
    )
    assert (out / "train" / "two.jpg").read_bytes() == jpeg.getvalue()
    assert [path.name for path in out.parent.iterdir()] == ["faces"]


def test_the_written_folder_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    out = write_collection(tmp_path / "out", AGE, {"train": [("a", 1, png())]}).root
    assert out.stat().st_mode == (tmp_path / "plain").stat().st_mode


BAD_ENTRIES = [
    ([], "no images"),
    ([("a", 200, png())], "value 200 is outside the range"),
    ([("a", 1, png()), ("a", 2, png())], "the id is taken"),
    ([("a/b", 1, png())], "becomes a file's name"),
    ([("..", 1, png())], "becomes a file's name"),
    ([("", 1, png())], "id must be a text"),
    ([("a", 1, b"no image")], "not a readable"),
    ([("a", 1, png(), "")], "rule must be a text"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_ENTRIES)
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, entries: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_collection(tmp_path / "out", AGE, {"train": [("first", 1, png())], "test": entries})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def entries() -> Any:
        yield "a", 1, png()
        assert not (tmp_path / "out").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_collection(tmp_path / "out", AGE, {"train": entries()})
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link"):
        with pytest.raises(DataError, match="exists already"):
            write_collection(tmp_path / name, AGE, {"train": [("a", 1, png())]})
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="can't be written"):
        write_collection(tmp_path / "file" / "out", AGE, {"train": [("a", 1, png())]})
    with pytest.raises(DataError, match="no splits"):
        write_collection(tmp_path / "none", AGE, {})


def test_imagefolder_reads_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    out = write_collection(
        tmp_path / "out",
        AGE,
        {
            "train": [("a", 1, png()), ("b", 2, png("blue"))],
            "validation": [("c", 3, png())],
            "test": [("d", 4, png())],
            "pretrain": [("e", 5, png())],
        },
    ).root
    loaded = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: list(split["value"]) for name, split in loaded.items()} == {
        "train": [1.0, 2.0],
        "validation": [3.0],
        "test": [4.0],
    }
    assert loaded["train"][1]["image"].getpixel((0, 0)) == (0, 0, 255)


def test_a_digest_tells_one_split_from_another(tmp_path: Path) -> None:
    def digest(folder: str, value: float) -> str:
        return load_collection(make(tmp_path / folder, train=[row("a.jpg", value)])).digest("train")

    assert digest("one", 3) == digest("two", 3)
    assert digest("one2", 3) != digest("three", 4)
