"""What `rarl data export` writes for other engines: Table 1's prompts in their notation, the images in order,
and a truth that the rewards read; or nothing at all."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from rarl.cli import main
from rarl.data.collection import load_collection
from rarl.data.exporting import Engine, export
from rarl.errors import DataError
from rarl.method.labels import columns_of
from rarl.method.prompts import SYSTEM, messages
from rarl.yaml_files import yaml_text

ENGINES: tuple[Engine, ...] = ("verl", "swift", "easyr1", "openrlhf")
TASK = {"name": "fruit", "rule": "ripeness", "low": 0, "high": 9, "step": 1, "delta": 2}


def collection(root: Path, rule: str = "ripeness") -> Path:
    """A training split of ten images and a validation split of four, their values 0, 1, 2, …"""
    (root / "task.yaml").parent.mkdir(parents=True)
    (root / "task.yaml").write_text(yaml_text({**TASK, "rule": rule}))
    for split, count in (("train", 10), ("validation", 4)):
        (root / split).mkdir()
        for value in range(count):
            Image.new("RGB", (4, 3), (value, 0, 0)).save(root / split / f"{value}.png")
        lines = [json.dumps({"file_name": f"{value}.png", "value": value}) for value in range(count)]
        (root / split / "metadata.jsonl").write_text("\n".join(lines))
    return root


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


def parts(text: str) -> list[dict[str, str]]:
    """A user's text as the engines read it: a part for each piece of text and each picture."""
    pieces = [piece for piece in re.split("(<image>)", text) if piece]
    return [{"type": "image"} if p == "<image>" else {"type": "text", "text": p} for p in pieces]


@pytest.mark.parametrize("engine", ENGINES)
def test_prompt_images_and_truth_of_each_row(tmp_path: Path, engine: Engine) -> None:
    data = load_collection(collection(tmp_path / "fruit"))
    written = export(data, engine, tmp_path / "out", images=(1, 4), prompts=3, validation_prompts=9)
    assert [(file.path.stem, file.prompts) for file in written] == [
        ("train", {1: 3, 4: 3}),
        ("validation", {1: 4, 4: 1}),
    ]
    for file in written:
        for row in rows(file.path):
            count = len(row["images"])
            wanted = messages(count, "ripeness", "0-9")
            values = [float(Path(image).stem) for image in row["images"]]
            truth = {"values": values, "delta": 2.0, "range": [0.0, 9.0], "step": 1.0}
            assert {Path(image).parent for image in row["images"]} == {(tmp_path / "fruit" / file.path.stem)}
            if engine == "easyr1":
                system, _, user = row["problem"].partition("\n\n")
                assert columns_of(row["answer"]) == truth
            else:
                (system, user) = (
                    turn["content"] for turn in row["messages" if engine == "swift" else "prompt"]
                )
            assert system == SYSTEM
            assert parts(user) == wanted[1]["content"]
            if engine == "verl":
                assert columns_of(row["reward_model"]["ground_truth"]) == truth
                assert row["data_source"] == f"fruit/{count}"
            if engine == "openrlhf":
                assert columns_of(row["label"]) == truth
                assert row["datasource"] == f"fruit/{count}"
            if engine == "swift":
                assert {key: row[key] for key in truth} == truth


def test_where_only_orders_are_known(tmp_path: Path) -> None:
    root = collection(tmp_path / "fruit")
    for split, count in (("train", 10), ("validation", 4)):
        names = [f"{value}.png" for value in range(count)]
        (root / split / "metadata.jsonl").write_text(
            "".join(json.dumps({"file_name": n}) + "\n" for n in names)
        )
        ids = [f"{split}/{name}" for name in reversed(names)]
        (root / split / "orders.jsonl").write_text(json.dumps({"ids": ids}) + "\n")
    data = load_collection(root)
    with pytest.raises(DataError, match="--images 2,4"):
        export(data, "verl", tmp_path / "out", images=(1, 2))
    export(data, "verl", tmp_path / "out", images=(3,), prompts=4)
    for row in rows(tmp_path / "out" / "train.parquet"):
        truth = columns_of(row["reward_model"]["ground_truth"])
        values = [int(Path(image).stem) for image in row["images"]]
        assert truth["order"] == [sorted(values, reverse=True).index(value) for value in values]
        assert "values" not in truth


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    data = load_collection(collection(tmp_path / "fruit"))
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export(data, "swift", tmp_path / name, images=(2,), prompts=5, seed=seed)
        texts.append((tmp_path / name / "train.jsonl").read_bytes())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_picture_that_exif_turns_is_written_upright(tmp_path: Path) -> None:
    root = collection(tmp_path / "fruit")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 2)).save(root / "validation" / "0.png", exif=turned)
    Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(root / "validation" / "1.png")
    export(load_collection(root), "swift", tmp_path / "out", images=(1,), prompts=1)
    images = {row["values"][0]: row["images"][0] for row in rows(tmp_path / "out" / "validation.jsonl")}
    assert Path(images[2.0]).parent == root / "validation"
    with Image.open(images[0.0]) as upright, Image.open(images[1.0]) as opaque:
        assert Path(images[0.0]).parent == tmp_path / "out" / "images"
        assert upright.size == (2, 8)
        assert (opaque.mode, opaque.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="change the rule"):
        export(
            load_collection(collection(tmp_path / "a", "an <image>")),
            "verl",
            tmp_path / "out",
            prompts=1,
            images=(1,),
        )
    broken = collection(tmp_path / "b")
    (broken / "train" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3\.png"):
        export(load_collection(broken), "verl", tmp_path / "out", prompts=10, images=(1,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "export", "easyr1", str(collection(tmp_path / "fruit")), str(tmp_path / "out")]
    command += ["--images", "1,2", "--prompts", "5"]
    for code in (0, 1):
        with pytest.raises(SystemExit) as leaving:
            main(command)
        assert int(leaving.value.code or 0) == code
    printed, said = capsys.readouterr()
    reward = printed.splitlines()[-1].removeprefix("the reward: ")
    assert 'REWARD_TYPE = "batch"' in Path(reward).read_text()
    assert said == f"error: {tmp_path / 'out'}: exists already; remove it or choose another folder\n"
