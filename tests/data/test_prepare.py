"""Preparing a collection: broken images are left out, identical ones are known, files are never altered, and
a collection is whole or not there."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rarl.data.collection import load_collection
from rarl.data.prepare import PREPARATION, Identical, preparation_lines, prepare_collection
from rarl.data.sources import Labelled, LeftOut, Source
from rarl.errors import DataError
from rarl.method.tasks import Task

TASK = Task("size", "size of the fruit", low=0, high=10, step=1, delta=1)
HALVES = {"train": 0.5, "test": 0.5}


def picture(path: Path, colour: int, size: tuple[int, int] = (2, 2)) -> Path:
    """Files are byte-identical where colours are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour % 256, colour // 256, 9)).save(path, "PNG")
    return path


def labelled(root: Path, name: str, colour: int, value: float = 0, **fields: Any) -> Labelled:
    return Labelled(picture(root / "raw" / name, colour), name, value, fields.pop("id", name), **fields)


def many(root: Path, number: int = 20, **fields: Any) -> list[Labelled]:
    return [labelled(root, f"{i}.png", i, i % 5, **fields) for i in range(number)]


def left(root: Path) -> list[str]:
    """What stands beside the raw files."""
    return sorted(name for name in os.listdir(root) if name != "raw")


def report(root: Path) -> dict[str, Any]:
    return json.loads((root / "out" / PREPARATION).read_text())


def lines(root: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "out" / split / "metadata.jsonl").read_text().splitlines()]


def test_a_collection_of_links(tmp_path: Path) -> None:
    images = many(tmp_path, columns={"camera": "x"})
    prepared = prepare_collection(Source(TASK, images, notes={"list": "mine"}), tmp_path / "out", seed=3)
    assert left(tmp_path) == ["out"]
    assert prepared.collection == load_collection(tmp_path / "out")
    assert prepared.collection.task == TASK
    assert {name: len(rows) for name, rows in prepared.collection.splits.items()} == {
        "train": 16,
        "validation": 2,
        "test": 2,
    }
    by_id = {image.id: image for image in images}
    for rows in prepared.collection.splits.values():
        for row in rows:
            assert row.path.samefile(by_id[row.id].path)
            assert row.value == by_id[row.id].value
    assert lines(tmp_path, "train")[0] == {"file_name": "0.png", "id": "0.png", "value": 0.0, "camera": "x"}
    assert report(tmp_path) == {
        "notes": {"list": "mine", "seed": 3, "parts": {"train": 0.8, "validation": 0.1, "test": 0.1}},
        "rows": {"train": 16, "validation": 2, "test": 2},
        "identical": {"groups": 0, "files": 0, "conflicting": 0, "across": 0},
        "placed": {"linked": 20, "copied": 0, "shrunk": 0},
        "left_out": [],
    }


def test_copies_share_nothing_with_the_source(tmp_path: Path) -> None:
    images = many(tmp_path)
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out", copy=True)
    assert prepared.placed == {"linked": 0, "copied": 20, "shrunk": 0}
    by_id = {image.id: image for image in images}
    for row in prepared.collection.split("train"):
        assert not row.path.samefile(by_id[row.id].path)
        assert row.path.read_bytes() == by_id[row.id].path.read_bytes()


def test_larger_images_are_made_smaller_on_request_and_it_is_said(tmp_path: Path) -> None:
    images = many(tmp_path)
    picture(images[4].path, 4, (40, 10))
    before = images[4].path.read_bytes()
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out", max_pixels=100)
    assert prepared.placed == {"linked": 19, "copied": 0, "shrunk": 1}
    assert report(tmp_path)["notes"]["max_pixels"] == 100
    row = next(r for rows in prepared.collection.splits.values() for r in rows if r.id == "4.png")
    with Image.open(row.path) as image:
        assert image.size == (20, 5)
    assert images[4].path.read_bytes() == before


def test_broken_images_are_left_out_with_the_reason(tmp_path: Path) -> None:
    images = many(tmp_path)
    images[3].path.write_bytes(b"no image")
    images[5].path.write_bytes(images[5].path.read_bytes()[:-30])
    images[7].path.unlink()
    images.append(Labelled(images[3].path, images[3].name, 1, "again", rule="another"))
    gone = LeftOut("x.png", "no such file (labels.csv line 3)")
    prepared = prepare_collection(Source(TASK, images, [gone]), tmp_path / "out")
    assert prepared.left_out[0] == gone
    reasons = {each.name: each.reason for each in prepared.left_out[1:]}
    assert len(prepared.left_out) == 4  # an image of two rows is told once
    assert reasons["3.png"].startswith("not a readable")
    assert reasons["5.png"].startswith("the image is damaged")
    assert reasons["7.png"].startswith("no such image file")
    assert not any(str(tmp_path) in reason for reason in reasons.values())
    assert [each["name"] for each in report(tmp_path)["left_out"]] == ["x.png", "3.png", "5.png", "7.png"]
    assert sum(report(tmp_path)["rows"].values()) == 17


def test_images_of_a_shape_that_models_refuse_are_named(tmp_path: Path) -> None:
    """They are kept: another model may take them, and whoever crops them needs them."""
    images = many(tmp_path)
    picture(images[3].path, 3, (402, 2))
    picture(images[5].path, 5, (400, 2))
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out")
    key = "of a shape that models such as Qwen2.5-VL refuse"
    assert prepared.notes[key] == report(tmp_path)["notes"][key] == ["3.png"]
    assert f"  {key}: 3.png" in preparation_lines(prepared, tmp_path / "out")
    assert sum(report(tmp_path)["rows"].values()) == 20


def test_nothing_to_make_a_collection_of(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the source has no images"):
        prepare_collection(Source(TASK, []), tmp_path / "out")
    image = labelled(tmp_path, "a.png", 0)
    image.path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"none of .* 1 were left out, the first being a\.png: not a readable"
    ):
        prepare_collection(Source(TASK, [image]), tmp_path / "out")
    with pytest.raises(DataError, match="comes into validation"):
        prepare_collection(Source(TASK, many(tmp_path, 3)), tmp_path / "out")
    assert left(tmp_path) == []


def test_a_truth_outside_the_range_is_refused_before_an_image_is_opened(tmp_path: Path) -> None:
    image = Labelled(tmp_path / "none.png", "none.png", 10.5, "a")
    with pytest.raises(DataError, match=r"none\.png: value 10\.5 is outside the range; size expects 0-10"):
        prepare_collection(Source(TASK, [image]), tmp_path / "out")


def test_what_is_there_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(DataError, match=f"{name}: exists already"):
            prepare_collection(
                Source(TASK, many(tmp_path)), tmp_path / name, progress=lambda *_: pytest.fail("late")
            )
    assert left(tmp_path) == ["folder", "link"]
    with pytest.raises(DataError, match="can't be written"):
        prepare_collection(Source(TASK, many(tmp_path)), tmp_path / "raw/0.png/out")


def test_progress_counts_files_and_not_rows(tmp_path: Path) -> None:
    images = [*many(tmp_path), *(labelled(tmp_path, "0.png", 0, rule="r", id=f"again {i}") for i in range(3))]
    told: list[tuple[int, int]] = []
    prepare_collection(Source(TASK, images), tmp_path / "out", progress=lambda *numbers: told.append(numbers))
    assert told == [(i, 20) for i in range(1, 21)]


# --- the same file more than once ---


def test_byte_identical_files_come_into_one_part(tmp_path: Path) -> None:
    images = [labelled(tmp_path, f"{i}.png", i // 2, i % 5) for i in range(60)]
    for seed in range(3):
        prepared = prepare_collection(Source(TASK, images), tmp_path / f"out{seed}", seed=seed)
        part = {row.id: name for name, rows in prepared.collection.splits.items() for row in rows}
        assert all(part[f"{i}.png"] == part[f"{i + 1}.png"] for i in range(0, 60, 2))
        assert prepared.identical == Identical(groups=30, files=60, conflicting=30, across=0)


def test_byte_identical_files_are_counted(tmp_path: Path) -> None:
    def image(name: str, colour: int, value: float, split: str, rule: str | None = None) -> Labelled:
        return labelled(tmp_path, name, colour, value, split=split, rule=rule)

    images = [
        *(image("a.png", 1, 3, "train"), image("b.png", 1, 3, "test"), image("c.png", 1, 3, "test")),
        *(image("d.png", 2, 3, "train"), image("e.png", 2, 4, "train")),
        *(image("f.png", 3, 1, "test"), image("g.png", 3, 9, "test", "another rule")),
        image("h.png", 4, 1, "train"),
    ]
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out", shares=HALVES)
    # a b c and d e; two of test are in train too; d and e have two values; f and g say different things.
    assert prepared.identical == Identical(groups=2, files=5, conflicting=1, across=2)
    assert report(tmp_path)["identical"] == {"groups": 2, "files": 5, "conflicting": 1, "across": 2}


def test_dropping_duplicates_keeps_one_of_test_before_validation_before_train(tmp_path: Path) -> None:
    def image(name: str, colour: int, value: float, split: str | None, rule: str | None = None) -> Labelled:
        return labelled(tmp_path, name, colour, value, split=split, rule=rule)

    images = [
        *(image("a1.png", 1, 3, "train"), image("a2.png", 1, 3, "validation"), image("a3.png", 1, 3, "test")),
        *(image("b1.png", 2, 3, "train"), image("b2.png", 2, 3, "validation")),
        *(image("c1.png", 3, 3, "train"), image("c2.png", 3, 3, "train")),
        *(image("d1.png", 4, 3, "test"), image("d2.png", 4, 5, "train"), image("d3.png", 4, 5, "train")),
        *(image("e1.png", 5, 3, "train"), image("e2.png", 5, 5, "train", "another rule")),
        image("f.png", 6, 0, "validation"),
    ]
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out", drop_duplicates=True)
    kept = {row.id: name for name, rows in prepared.collection.splits.items() for row in rows}
    assert kept == {
        "a3.png": "test",
        "b2.png": "validation",
        "c1.png": "train",
        "e1.png": "train",
        "e2.png": "train",
        "f.png": "validation",
    }
    reasons = {each.name: each.reason for each in prepared.left_out}
    assert reasons["a1.png"] == reasons["a2.png"] == "byte-identical to a3.png"
    assert reasons["b1.png"] == "byte-identical to b2.png"
    assert reasons["c2.png"] == "byte-identical to c1.png"
    several = "byte-identical files with several values: d1.png 3, d2.png 5, d3.png 5"
    assert {reasons[name] for name in ("d1.png", "d2.png", "d3.png")} == {several}
    assert len(reasons) == 7
    assert prepared.identical == Identical(0, 0, 0, 0)


def test_without_asking_nothing_is_dropped(tmp_path: Path) -> None:
    images = [labelled(tmp_path, f"{i}.png", 0, i % 2, split=("train", "test")[i % 2]) for i in range(6)]
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out", shares=HALVES)
    assert {name: len(rows) for name, rows in prepared.collection.splits.items()} == {"train": 3, "test": 3}


# --- whole or not there ---


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_collection(Source(TASK, many(tmp_path)), tmp_path / "out", progress=interrupt)
    monkeypatch.setattr("rarl.data.writing.Placing.place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_collection(Source(TASK, many(tmp_path)), tmp_path / "out")
    assert left(tmp_path) == []


def test_what_would_not_load_again_leaves_nothing(tmp_path: Path) -> None:
    images = many(tmp_path)
    images[2] = labelled(tmp_path, "x.png", 99, id="half of a pair: \ud800")
    with pytest.raises(DataError, match="id must be a text"):
        prepare_collection(Source(TASK, images), tmp_path / "out")
    images[2] = labelled(tmp_path, "x.png", 99, id="0.png")
    with pytest.raises(DataError, match=r"id '0\.png' is that of"):
        prepare_collection(Source(TASK, images), tmp_path / "out")
    assert left(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from rarl.data import writing as placing
from rarl.data.prepare import prepare_collection
from rarl.data.sources import Labelled, Source
from rarl.method.tasks import Task

root, when = Path(sys.argv[1]), sys.argv[2]

def stop(*_):
    print("now", flush=True)
    time.sleep(60)

if when == "placing":
    place, done = placing.Placing.place, []
    def slow(*arguments):
        done.append(1)
        if len(done) == 9:
            stop()
        return place(*arguments)
    placing.Placing.place = slow
images = [Labelled(root / f"raw/{i}.png", f"{i}.png", i % 5, f"{i}.png") for i in range(20)]
task = Task("size", "size of the fruit", low=0, high=10, step=1, delta=1)
prepare_collection(Source(task, images), root / "out", progress=stop if when == "opening" else None)
"""


@pytest.mark.parametrize("when", ["opening", "placing"])
def test_a_run_that_is_killed_leaves_no_collection_and_the_next_one_makes_it(
    tmp_path: Path, when: str
) -> None:
    images = many(tmp_path)
    code = textwrap.dedent(KILLED)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), when], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert not (tmp_path / "out").exists()
    assert left(tmp_path) == ([".out.unfinished", ".out.writing"] if when == "placing" else [])
    prepared = prepare_collection(Source(TASK, images), tmp_path / "out")
    assert left(tmp_path) == ["out"]
    assert sum(map(len, prepared.collection.splits.values())) == 20


# --- orders ---


def ordered(root: Path, orders: Sequence[str], splits: dict[str, str] | None = None) -> Source:
    """Each letter of each text is an image; the texts ascend."""
    names = sorted(set("".join(orders)))
    images = [labelled(root, name, ord(name), split=(splits or {}).get(name)) for name in names]
    return Source(TASK, images, orders=[list(order) for order in orders])


def orders_of(root: Path, split: str) -> list[str]:
    text = (root / "out" / split / "orders.jsonl").read_text()
    return ["".join(json.loads(line)["ids"]) for line in text.splitlines()]


def test_orders_that_hang_together_come_into_one_part(tmp_path: Path) -> None:
    orders = [f"{a}{b}{c}" for a, b, c in zip("abcdefghij", "klmnopqrst", "ABCDEFGHIJ", strict=True)]
    orders += ["zb", "xz", "yx"]  # through images that no order has together with b
    prepared = prepare_collection(ordered(tmp_path, orders), tmp_path / "out", shares=HALVES)
    within = {name: orders_of(tmp_path, name) for name in ("train", "test")}
    assert sorted(within["train"] + within["test"]) == sorted(orders)
    assert next(name for name in within if "zb" in within[name]) == next(
        name for name in within if "blB" in within[name]
    )
    assert min(map(len, within.values())) > 3
    assert not prepared.collection.knows_values("test")
    assert "value" not in lines(tmp_path, "train")[0]


def test_orders_are_cut_down_to_the_images_of_their_part(tmp_path: Path) -> None:
    splits = dict.fromkeys("ace", "train") | dict.fromkeys("bdf", "test")
    prepare_collection(
        ordered(tmp_path, ["abcdef", "ea", "ab", "fdb"], splits), tmp_path / "out", shares=HALVES
    )
    assert orders_of(tmp_path, "train") == ["ace", "ea"]
    assert orders_of(tmp_path, "test") == ["bdf", "fdb"]


def test_images_that_no_order_has_beside_another_are_left_out(tmp_path: Path) -> None:
    source = ordered(tmp_path, ["ab", "cd", "ef", "gh", "xy"])
    next(image for image in source.images if image.id == "y").path.write_bytes(b"broken")
    prepared = prepare_collection(source, tmp_path / "out", shares=HALVES)
    assert [(each.name, each.reason[:11]) for each in prepared.left_out] == [
        ("y", "not a reada"),
        ("x", "in no order"),
    ]
    assert sorted(orders_of(tmp_path, "train") + orders_of(tmp_path, "test")) == ["ab", "cd", "ef", "gh"]


def test_orders_that_all_hang_together_are_cut_where_parts_meet(tmp_path: Path) -> None:
    orders = ["aefghijk", "alm", "anopqrst"]  # all through a
    prepared = prepare_collection(ordered(tmp_path, orders), tmp_path / "out", shares=HALVES)
    rows = {name: {row.id for row in prepared.collection.split(name)} for name in ("train", "test")}
    pairs = 0
    for name, ids in rows.items():
        for cut in orders_of(tmp_path, name):
            whole = next(order for order in orders if cut[1] in order)
            assert cut == "".join(mark for mark in whole if mark in ids)
            pairs += len(cut) * (len(cut) - 1) // 2
    # 28 + 3 + 28 pairs at first.
    assert report(tmp_path)["notes"]["orders cut"] == (
        f"they all hang together; {pairs} of 59 pairs of images are in one part"
    )


def test_what_is_said_of_a_dropped_file_holds_for_the_one_that_is_kept(tmp_path: Path) -> None:
    source = ordered(tmp_path, ["ab", "cd", "ef", "gab"])
    picture(tmp_path / "raw/g", ord("b"))  # g is b
    picture(tmp_path / "raw/e", ord("c"))  # e is c
    prepared = prepare_collection(source, tmp_path / "out", shares=HALVES, drop_duplicates=True)
    assert {each.name: each.reason for each in prepared.left_out} == {
        "g": "byte-identical to b",
        "e": "byte-identical to c",
    }
    within = orders_of(tmp_path, "train") + orders_of(tmp_path, "test")
    assert sorted(within) == ["ab", "ba", "cd", "cf"]


def test_the_task_is_settled_by_what_is_not_left_out(tmp_path: Path) -> None:
    images = many(tmp_path)
    images.append(labelled(tmp_path, "broken.png", 99, 10))
    images[-1].path.write_bytes(b"broken")
    asked: list[Sequence[float]] = []

    def settle(values: Sequence[float]) -> tuple[Task, dict[str, Any]]:
        asked.append(values)
        return Task("own", "own rule", 0, max(values), 1, 1), {"taken from": len(values)}

    prepared = prepare_collection(Source(TASK, images, notes={"a": 1}, settle=settle), tmp_path / "out")
    assert [sorted(values) for values in asked] == [sorted(image.value for image in images[:-1])]
    assert prepared.collection.task == Task("own", "own rule", 0, 4, 1, 1)
    assert (prepared.notes["a"], prepared.notes["taken from"]) == (1, 20)


def test_where_all_parts_are_given_no_seed_is_told(tmp_path: Path) -> None:
    images = [labelled(tmp_path, f"{i}.png", i, i, split=("train", "test")[i % 2]) for i in range(8)]
    prepare_collection(Source(TASK, images), tmp_path / "out", shares=HALVES)
    assert report(tmp_path)["notes"] == {}


def test_a_part_without_orders_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    splits = dict.fromkeys("abc", "train") | dict.fromkeys("de", "test")
    with pytest.raises(DataError, match="no order has two images of test"):
        prepare_collection(ordered(tmp_path, ["abd", "bce"], splits), tmp_path / "out", shares=HALVES)
    assert left(tmp_path) == []


# --- load_dataset("imagefolder") ---


def imagefolder(root: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("imagefolder", data_dir=str(root / "out"), cache_dir=str(root / "cache"))


def test_imagefolder_reads_the_same_rows(tmp_path: Path) -> None:
    names = [
        "3/a.PNG",
        "test/b.png",
        "__x__/.c.png",
        "[d]*?.png",
        "e #1%20é.JPEG",
        "f.pg",
        "train.eval/g.png",
    ]
    names += [f"deep/er/{i}.png" for i in range(40)]
    images = [labelled(tmp_path, name, i, i % 10, columns={"n": i}) for i, name in enumerate(names)]
    images += [
        Labelled(image.path, image.name, 3, f"{image.id}#weight", "weight", columns={"n": 0})
        for image in images[10:20]
    ]
    collection = prepare_collection(Source(TASK, images), tmp_path / "out").collection
    loaded = imagefolder(tmp_path)
    assert list(loaded) == ["train", "validation", "test"]
    for name, rows in collection.splits.items():
        assert loaded[name]["id"] == [row.id for row in rows]
        assert loaded[name]["value"] == [row.value for row in rows]
        assert loaded[name]["rule"] == [row.rule for row in rows]
        for row, read in zip(rows, loaded[name], strict=True):
            with Image.open(row.path) as image:
                assert image.getpixel((0, 0)) == read["image"].getpixel((0, 0))
    assert set(loaded["train"]["rule"]) == {"size of the fruit", "weight"}


COLUMNS: list[tuple[Any, list[Any]]] = [
    (lambda i: {"c": "x" if i % 2 else 1}, ["1", "x"]),
    (lambda i: {"c": "x"} if i == 0 else {}, ["", "x"]),
    (lambda i: {"c": 2 if i == 0 else None}, ["", "2"]),
    (lambda i: {"c": 1 if i % 2 else 1.5}, [1.0, 1.5]),
    (lambda i: {"c": i % 3}, [0, 1, 2]),
    (lambda i: {"c": True}, [True]),
    (
        lambda i: {"c": "x", "image": "y", "mask_file_name": "y", "file_names": "y", "value": 99, "id": 0},
        ["x"],
    ),
    (lambda i: {"c": 4, "d": None, "e": float("nan")}, [4]),
]


@pytest.mark.parametrize(("columns", "values"), COLUMNS, ids=range(len(COLUMNS)))
def test_imagefolder_reads_other_columns(tmp_path: Path, columns: Any, values: list[Any]) -> None:
    images = [labelled(tmp_path, f"{i}.png", i, i % 5, columns=columns(i)) for i in range(30)]
    collection = prepare_collection(Source(TASK, images), tmp_path / "out").collection
    loaded = imagefolder(tmp_path)
    assert sorted(loaded["train"].column_names) == ["c", "id", "image", "value"]
    assert sorted({value for split in loaded.values() for value in split["c"]}) == values
    assert loaded["test"]["id"] == [row.id for row in collection.split("test")]


def test_a_column_that_some_images_have_nothing_of_keeps_its_type(tmp_path: Path) -> None:
    def camera(number: int) -> dict[str, Any]:
        return {"n": (None, float("nan"), number, number)[number % 4]}

    images = [labelled(tmp_path, f"{i}.png", i, i % 5, columns=camera(i)) for i in range(80)]
    prepare_collection(Source(TASK, images), tmp_path / "out", shares=HALVES)
    rows = {row["id"]: row for split in HALVES for row in lines(tmp_path, split)}
    assert [rows[f"{i}.png"].get("n", "none") for i in range(8)] == [
        "none",
        "none",
        2,
        3,
        "none",
        "none",
        6,
        7,
    ]
    assert set(imagefolder(tmp_path)["train"]["n"]) <= {None, *range(80)}


def test_imagefolder_reads_a_collection_of_orders(tmp_path: Path) -> None:
    prepare_collection(ordered(tmp_path, ["abc", "def", "ghi", "jkl"]), tmp_path / "out", shares=HALVES)
    loaded = imagefolder(tmp_path)
    assert sorted([*loaded["train"]["id"], *loaded["test"]["id"]]) == list("abcdefghijkl")
    assert sorted(loaded["train"].column_names) == ["id", "image"]
