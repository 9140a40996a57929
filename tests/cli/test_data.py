"""The commands under `rarl data`: from images as people have them to a collection; and every mistake is one
line."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from rarl.cli import main
from rarl.data.collection import load_collection
from rarl.data.groups import draw_groups
from rarl.method.tasks import Task


def rarl(*arguments: object) -> int:
    """The exit code of a command under `rarl data`."""
    with pytest.raises(SystemExit) as leaving:
        main(["data", *(str(argument) for argument in arguments)])
    return int(leaving.value.code or 0)


def picture(path: Path, colour: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (colour % 256, colour // 256, 5)).save(
        path, "PNG" if path.suffix == ".png" else "JPEG"
    )
    return path


@pytest.fixture
def fruit(tmp_path: Path) -> Path:
    """Twenty images of each of the values 0, 1 and 2, each in the folder of its value."""
    for i in range(60):
        picture(tmp_path / f"fruit/{i % 3}/{i}.png", i)
    return tmp_path / "fruit"


def first_line(capsys, *arguments: object) -> str:
    """The first line of stdout of a command that ends well."""
    assert rarl(*arguments) == 0
    printed, said = capsys.readouterr()
    assert "Traceback" not in said
    return printed.splitlines()[0]


def error_of(capsys, *arguments: object) -> tuple[int, str]:
    """Exit code and message: one line on stderr, and nothing on stdout."""
    code = rarl(*arguments)
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    return code, said


# --- what the commands do ---


def test_sub_folders(capsys, tmp_path: Path, fruit: Path) -> None:
    out = tmp_path / "out"
    assert rarl("prepare", "folder", fruit, out, "--rule", "ripeness") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote {out}: train 48, validation 6, test 6"
    assert lines[1] == "  ripeness: 0-2, step 1, delta 1, metric mae"
    assert "  range, from the values: 0-2" in lines
    assert "  image files: 60 linked" in lines
    assert lines[-1] == f"look at it with: rarl data check {out}"
    collection = load_collection(out)
    assert collection.task == Task("fruit", "ripeness", 0, 2, 1, 1)
    assert collection.split("test")[0].path.stat().st_nlink == 2


def test_what_is_said_of_the_scale_and_the_parts(capsys, tmp_path: Path, fruit: Path) -> None:
    out = tmp_path / "out"
    options = ["--rule", "ripeness", "--range", "0-10", "--step", "0.5", "--delta", "3", "--metric", "srcc"]
    options += ["--name", "fruits", "--parts", "train=0.5,test=0.25,pretrain=0.25", "--seed", "7", "--copy"]
    line = first_line(capsys, "prepare", "folder", fruit, out, *options, "--max-pixels", "6")
    assert line == f"wrote {out}: train 30, test 15, pretrain 15"
    assert load_collection(out).task == Task("fruits", "ripeness", 0, 10, 0.5, 3, "srcc")
    notes = json.loads((out / "preparation.json").read_text())
    assert notes["placed"] == {"linked": 0, "copied": 0, "shrunk": 60}
    assert notes["notes"] == {
        "source": "folder",
        "seed": 7,
        "parts": {"train": 0.5, "test": 0.25, "pretrain": 0.25},
        "max_pixels": 6,
    }


def test_the_seed_of_the_parts(tmp_path: Path, fruit: Path) -> None:
    parts = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"out{number}"
        assert rarl("prepare", "folder", fruit, out, "--rule", "x", "--seed", seed) == 0
        parts.append([row.id for row in load_collection(out).split("test")])
    assert parts[0] == parts[1] != parts[2]


def test_names_of_values(capsys, tmp_path: Path, fruit: Path) -> None:
    for number, name in enumerate(("green", "Ripe", "rotten")):
        (fruit / str(number)).rename(fruit / name)
    out = tmp_path / "out"
    options = ("--rule", "ripeness", "--order", "green, ripe,rotten")
    assert first_line(capsys, "prepare", "folder", fruit, out, *options).startswith("wrote")
    assert load_collection(out).task.rule == "ripeness (0 green, 1 ripe, 2 rotten)"


def test_a_table(capsys, tmp_path: Path, fruit: Path) -> None:
    rows = "".join(f"{i % 3}/{i}.png,{i},{'test' if i < 10 else 'train'}\n" for i in range(60))
    (tmp_path / "labels.csv").write_text("Picture,Weight,Set\n" + rows + "gone.png,3,train\n")
    out = tmp_path / "out"
    options = ["--labels", tmp_path / "labels.csv", "--file-column", "picture", "--value-column", "weight"]
    assert rarl("prepare", "folder", fruit, out, "--rule", "weight", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"wrote {out}: train 44, validation 6, test 10"
    assert "  left out: 1" in lines
    assert f"    gone.png: no such file ({tmp_path / 'labels.csv'} line 62)" in lines


def test_a_list_of_the_test_images(capsys, tmp_path: Path, fruit: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{i}\n" for i in range(30)))
    out = tmp_path / "out"
    options = ("--rule", "ripeness", "--split", f"test={tmp_path / 'list.txt'}")
    line = first_line(capsys, "prepare", "folder", fruit, out, *options)
    assert line == f"wrote {out}: train 27, validation 3, test 30"


def test_orders_alone(capsys, tmp_path: Path, fruit: Path) -> None:
    ids = [[f"0/{i}.png", f"1/{i + 1}.png", f"2/{i + 2}.png"] for i in range(0, 60, 3)]
    (tmp_path / "orders.jsonl").write_text("".join(json.dumps({"ids": order}) + "\n" for order in ids))
    out = tmp_path / "out"
    options = ("--rule", "ripeness", "--orders", tmp_path / "orders.jsonl")
    assert first_line(capsys, "prepare", "folder", fruit, out, *options).startswith(f"wrote {out}: train 48")
    rows = load_collection(out).split("train")
    for group in draw_groups(rows, 3, 20, 0):
        assert [row.id for row in sorted(group.rows, key=lambda row: row.value)] in ids


def test_counted_objects(capsys, tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / f"voc/JPEGImages/{i}.jpg", 40 * i)
        boxes = "<object><name>egg</name></object>" * (i % 4)
        (tmp_path / "voc/Annotations").mkdir(exist_ok=True)
        (tmp_path / f"voc/Annotations/{i}.xml").write_text(f"<annotation>{boxes}</annotation>")
    out = tmp_path / "out"
    line = first_line(capsys, "prepare", "folder", tmp_path / "voc", out, "--count", "egg", "--range", "0-5")
    assert line == f"wrote {out}: train 16, validation 2, test 2"
    task = load_collection(out).task
    assert (task.rule, task.high, task.metric) == ("number of egg", 5, "accuracy")


def test_faces(capsys, tmp_path: Path) -> None:
    for i in range(30):
        picture(tmp_path / f"faces/{20 + i}_0_1_20170116174525{100 + i}.jpg.chip.jpg", 30 * i)
    out = tmp_path / "out"
    line = first_line(capsys, "prepare", "utkface", tmp_path / "faces", out, "--ages", "20-39")
    assert line == f"wrote {out}: train 16, validation 2, test 2"
    assert load_collection(out).task.rule == "facial age"


def test_counts_of_coco(capsys, tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    for part, number in (("train2017", 20), ("val2017", 5)):
        names = [f"{part}_{i:05d}.jpg" for i in range(number)]
        images = [{"id": i, "file_name": name, "width": 4, "height": 3} for i, name in enumerate(names)]
        for i, name in enumerate(names):
            picture(coco / part / name, 40 * i + 7000 * (part == "val2017"))
        boxes = [
            {"id": 10 * i + k, "image_id": i, "category_id": 7, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
            for i in range(number)
            for k in range(1 + i % 3)
        ]
        fields = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "horse"}]}
        (coco / f"annotations/instances_{part}.json").write_text(json.dumps(fields))
    out = tmp_path / "out"
    line = first_line(capsys, "prepare", "coco-rem", coco, out, "--categories", "horse")
    assert line == f"wrote {out}: train 18, validation 2, test 5"
    assert {row.rule for row in load_collection(out).split("train")} == {"number of horse"}


def test_aesthetics(capsys, tmp_path: Path) -> None:
    rows = []
    for i in range(20):
        picture(tmp_path / f"AVA/images/{1000 + i}.jpg", 40 * i)
        rows.append(" ".join(map(str, [i + 1, 1000 + i, *([1] * 9), 1 + i, 0, 0, 1])))
    (tmp_path / "AVA/AVA.txt").write_text("\n".join(rows))
    out = tmp_path / "out"
    line = first_line(capsys, "prepare", "ava", tmp_path / "AVA", out)
    assert line == f"wrote {out}: train 16, validation 2, test 2"
    assert load_collection(out).task.name == "aesthetics"


def test_duplicates_are_told_and_dropped(capsys, tmp_path: Path, fruit: Path) -> None:
    (fruit / "1/copy.png").write_bytes((fruit / "0/0.png").read_bytes())
    (fruit / "2/copy.png").write_bytes((fruit / "2/2.png").read_bytes())
    assert rarl("prepare", "folder", fruit, tmp_path / "one", "--rule", "x") == 0
    told = capsys.readouterr().out
    assert "byte-identical: 4 files in 2 groups, 1 of them with several values; 0 of test are" in told
    assert rarl("prepare", "folder", fruit, tmp_path / "two", "--rule", "x", "--drop-duplicates") == 0
    told = capsys.readouterr().out
    assert "left out: 3" in told
    assert "2/copy.png: byte-identical to 2/2.png" in told
    assert "byte-identical: " not in told.replace("copy.png: byte-identical", "")


def test_a_long_list_of_what_is_left_out_is_cut(capsys, tmp_path: Path, fruit: Path) -> None:
    for i in range(7):
        (fruit / f"1/{i}.txt").touch()
    assert rarl("prepare", "folder", fruit, tmp_path / "out", "--rule", "x") == 0
    told = capsys.readouterr().out
    assert "  left out: 7\n    1/0.txt: not a readable" in told
    assert f"    and 2 more, all of them in {tmp_path / 'out/preparation.json'}" in told
    left_out = json.loads((tmp_path / "out/preparation.json").read_text())["left_out"]
    assert [each["name"] for each in left_out] == [f"1/{i}.txt" for i in range(7)]


def test_a_stranger_s_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path, fruit: Path) -> None:
    names = ["\x1b[2J.png", "\ud800.png", "\u202egnp.png"]
    rows = [{"file": f"{i % 3}/{i}.png", "value": i % 3} for i in range(60)]
    rows += [{"file": name, "value": 1} for name in names]
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "rarl", "data", "prepare", "folder", str(fruit), str(tmp_path / "out")]
    command += ["--rule", "x", "--labels", str(tmp_path / "labels.json")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for shown in ("\\x1b[2J.png: no such", "\\ud800.png: no such", "\\u202egnp.png: no such"):
        assert shown in done.stdout


def test_what_is_prepared_can_be_looked_at(capsys, tmp_path: Path, fruit: Path) -> None:
    assert rarl("prepare", "folder", fruit, tmp_path / "out", "--rule", "ripeness") == 0
    capsys.readouterr()
    assert rarl("check", tmp_path / "out", "--json", "--plot", tmp_path / "values.png") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["rows"] == 48
    assert found["faults"] == []
    assert sorted(os.listdir(tmp_path / "out")) == [
        "preparation.json",
        "task.yaml",
        "test",
        "train",
        "validation",
    ]


# --- mistakes ---


def test_mistakes_of_a_folder(capsys, tmp_path: Path, fruit: Path) -> None:
    (tmp_path / "there").mkdir()
    labels = tmp_path / "labels.csv"
    labels.write_text("file,value\n0/0.png,3\n0/0.png,4\n")
    (tmp_path / "far.csv").write_text("file,value\n../there,3\n")
    rule = ("--rule", "ripeness")
    cases: list[tuple[Sequence[object], int, str]] = [
        ((fruit, tmp_path / "there", *rule), 1, "there: exists already"),
        ((tmp_path / "none", "OUT", *rule), 1, "none: no such folder"),
        ((tmp_path / "there", "OUT", *rule), 1, "no sub-folders; either"),
        ((fruit, fruit / "0/0.png/out", *rule), 1, "can't be written"),
        ((fruit, "OUT"), 2, "--rule is missing"),
        ((fruit, "OUT", "--rule", " "), 2, "rule must be a text"),
        ((fruit, "OUT", *rule, "--labels", labels, "--count", "egg"), 2, "--labels and --count each say"),
        ((fruit, "OUT", *rule, "--labels", labels, "--orders", labels), 2, "--labels and --orders each say"),
        ((fruit, "OUT", *rule, "--count", "a", "--orders", labels), 2, "--count and --orders each say"),
        ((fruit, "OUT", *rule, "--value-column", "age"), 2, "belong to --labels"),
        ((fruit, "OUT", *rule, "--orders", labels, "--order", "a,b"), 2, "--orders knows none"),
        ((fruit, "OUT", *rule, "--order", "a,b"), 1, "fruit/0: value '0' is none of the order a, b"),
        ((fruit, "OUT", *rule, "--order", "0,1,1"), 2, "each another"),
        ((fruit, "OUT", *rule, "--order", "0,1,2", "--range", "0-9"), 2, "--range and --order both"),
        ((fruit, "OUT", *rule, "--range", "much"), 2, "--range much: must be two numbers"),
        ((fruit, "OUT", *rule, "--range", "2-0"), 2, "--range 2-0"),
        ((fruit, "OUT", *rule, "--range", "0-1"), 1, "fruit/2: value 2 is outside the range 0-1"),
        ((fruit, "OUT", *rule, "--step", "0"), 2, "--step 0"),
        ((fruit, "OUT", *rule, "--step", "nan"), 2, "--step nan"),
        ((fruit, "OUT", *rule, "--delta", "-1"), 2, "--delta -1"),
        ((fruit, "OUT", *rule, "--metric", "tau"), 2, "--metric tau: must be one of mae, accuracy, srcc"),
        ((fruit, "OUT", *rule, "--parts", "train=0.5"), 2, "--parts train=0.5: must be shares"),
        ((fruit, "OUT", *rule, "--parts", "train=0.999,test=0.001"), 1, "comes into test"),
        ((fruit, "OUT", *rule, "--labels", tmp_path / "none.csv"), 1, "none.csv: no such file"),
        ((fruit, "OUT", *rule, "--labels", labels), 1, "labels.csv line 3: 0/0.png has another value"),
        ((fruit, "OUT", *rule, "--labels", tmp_path / "far.csv"), 1, "no such file, file_name '../there'"),
        ((fruit, "OUT", *rule, "--split", "dev=x.txt"), 2, "there is no split 'dev'"),
        ((fruit, "OUT", *rule, "--split", "test=x.txt"), 1, "'x.txt' is no file"),
        ((fruit, "OUT", "--count", "egg"), 1, "Annotations: no such folder"),
    ]
    for arguments, code, message in cases:
        out = [tmp_path / "out" if argument == "OUT" else argument for argument in arguments]
        found, text = error_of(capsys, "prepare", "folder", *out)
        assert (found, message in text) == (code, True), (arguments, text)
        assert not any(name.startswith((".", "out")) for name in os.listdir(tmp_path)), arguments


def test_mistakes_of_the_data_sets(capsys, tmp_path: Path, fruit: Path) -> None:
    for source in ("utkface", "coco-rem", "ava"):
        code, text = error_of(capsys, "prepare", source, tmp_path / "none", tmp_path / "out")
        assert code == 1
        assert "none" in text
        code, text = error_of(capsys, "prepare", source, tmp_path / "none", fruit)
        assert (code, "exists already" in text) == (1, True)
        code, text = error_of(capsys, "prepare", source, fruit, tmp_path / "out", "--parts", "x")
        assert (code, "--parts x" in text) == (2, True)
    code, text = error_of(capsys, "prepare", "utkface", fruit, tmp_path / "out", "--ages", "old")
    assert (code, "--ages old" in text) == (2, True)
    code, text = error_of(capsys, "prepare", "digits", fruit)  # a collection of them would be kept
    assert (code, "fruit/task.yaml: no such file" in text) == (1, True)


@pytest.mark.parametrize("option", [("--max-pixels", "0"), ("--seed", "-1"), ("--step", "x"), ("--colour",)])
def test_options_that_are_none_are_wrong_usage(capsys, tmp_path: Path, fruit: Path, option) -> None:
    assert rarl("prepare", "folder", fruit, tmp_path / "out", "--rule", "x", *option) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert option[0] in said
    assert not (tmp_path / "out").exists()
