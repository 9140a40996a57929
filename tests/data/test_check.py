"""The check of a collection: every trap that one can hold is reported, with its files and how to mend it, and
a sound collection has no faults."""

import json
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rarl.data.check import Check, check_collection
from rarl.data.check.statistics import (
    Baseline,
    baselines,
    bins_of,
    random_tie_rate,
    ties_of,
    tokens_of,
    values_of,
)
from rarl.data.collection import Row, inspect_collection
from rarl.errors import DataError
from rarl.method.tasks import AGE


def photo(name: str, width: int = 48, height: int = 32) -> Image.Image:
    """A picture like no other."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    shapes = Image.fromarray(generator.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return shapes.resize((width, height), Image.Resampling.BICUBIC)


class Made:
    """A collection in the making: `add` a row, then `check` it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "task.yaml").write_text(yaml.safe_dump(AGE.to_dict()))

    def add(
        self, name: str, value: object, image: Image.Image | bytes | None = None, **fields: object
    ) -> bytes:
        """A row with its file, such as "train/a.png"; gives the bytes of the file."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        elif not path.exists():
            (image or photo(name)).save(path)
        with open(path.parent / "metadata.jsonl", "a") as lines:
            lines.write(json.dumps({"file_name": path.name, "value": value, "id": name, **fields}) + "\n")
        return path.read_bytes()

    def check(self, **options: object) -> Check:
        collection, problems = inspect_collection(self.root)
        return check_collection(collection, problems, **options)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A sound collection: 8 images in train, with values 10, 20 to 80, and 4 each in validation and test."""
    made = Made(tmp_path)
    for place in range(8):
        made.add(f"train/{place}.png", 10 * place + 10)
    for place in range(4):
        made.add(f"validation/{place}.png", 20 * place)
        made.add(f"test/{place}.png", 30)
    return made


def test_a_sound_collection_has_no_faults(made: Made) -> None:
    check = made.check()
    assert check.faults == []
    assert check.notes == []
    assert (check.problems, check.broken) == ([], {})
    assert check.root == str(made.root)
    assert check.task["rule"] == "facial age"


def test_rows_and_values(made: Made) -> None:
    check = made.check()
    train, test = check.splits["train"], check.splits["test"]
    assert (train.rows, train.images, train.rules, train.orders) == (8, 8, {}, None)
    assert train.values is not None
    assert (train.values.low, train.values.median, train.values.high, train.values.distinct) == (
        10,
        45,
        80,
        8,
    )
    assert test.values is not None
    assert (test.values.low, test.values.median, test.values.high, test.values.distinct) == (30, 30, 30, 1)
    # One bar for each of 0, 10, 20, ... 80, in every split.
    assert check.bins == [(10.0 * place, 10.0 * place) for place in range(9)]
    assert train.values.histogram == [0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert check.splits["validation"].values.histogram == [1, 0, 1, 0, 1, 0, 1, 0, 0]
    assert test.values.histogram == [0, 0, 0, 4, 0, 0, 0, 0, 0]


def test_ties(made: Made) -> None:
    check = made.check(counts=(1, 2, 4, 8))
    assert {n: (t.drawn, t.random) for n, t in check.splits["train"].ties.items()} == {
        2: (0, 0),
        4: (0, 0),
        8: (0, 0),
    }
    test = check.splits["test"].ties
    assert (test[2].drawn, test[2].random) == (1, 1)
    assert (test[8].drawn, test[8].random) == (None, None)  # there are four images


def test_the_median_of_train(made: Made) -> None:
    # 45; validation has 0, 20, 40, 60: 45, 25, 5, 15 off.
    assert made.check().baselines == {
        "validation": Baseline(mae=22.5, median=45, images=4),
        "test": Baseline(mae=15, median=45, images=4),
    }


def test_sizes_and_tokens(made: Made) -> None:
    made.add("train/wide.png", 5, photo("wide", 100, 20))
    made.add("train/high.png", 5, photo("high", 30, 300))
    check = made.check(
        image_tokens=lambda width, height: width + height,
        prompt_tokens=lambda rule, ends, count: len(rule) + len(ends) + 100 * count,
        counts=(2, 4),
    )
    assert check.sizes is not None
    assert (check.sizes.smallest, check.sizes.median, check.sizes.largest) == ((48, 32), (48, 32), (30, 300))
    tokens = check.tokens
    assert tokens is not None
    assert (tokens.smallest, tokens.median, tokens.largest) == (80, 80, 330)
    text = len("facial age") + len("0-116")
    assert (tokens.prompts[2].median, tokens.prompts[2].largest) == (text + 200 + 160, text + 200 + 330 + 120)
    assert tokens.prompts[4].largest == text + 400 + 330 + 120 + 80 + 80
    assert made.check().tokens is None


def test_tokens_by_rule() -> None:
    tokens = tokens_of(
        [1, 2, 9], lambda rule, ends, count: len(rule) * count, ["a", "bbb", "ccccc"], "0-1", [2, 4]
    )
    assert tokens is not None
    # The middle rule and median images; the longest rule and largest images; not 4 of 3 images.
    assert {n: (cost.median, cost.largest) for n, cost in tokens.prompts.items()} == {2: (6 + 4, 10 + 11)}


def only(check: Check) -> str:
    """The one fault there is."""
    assert len(check.faults) == 1, check.faults
    assert check.notes == []
    assert "\n" not in check.faults[0]
    return check.faults[0]


def test_lines_that_are_wrong(made: Made) -> None:
    made.add("train/old.png", 117)
    with open(made.root / "test" / "metadata.jsonl", "a") as lines:
        lines.write('{"file_name": "none.png", "value": 3}\n')
    check = made.check()
    assert len(check.problems) == 2
    assert check.faults == check.problems
    assert "train/metadata.jsonl line 9: value 117 is outside the range" in check.faults[0]
    assert "image 'none.png' is not in" in check.faults[1]


def test_images_that_can_not_be_opened(made: Made) -> None:
    whole = made.add("train/whole.png", 5)
    for place in range(7):
        made.add(f"train/cut{place}.png", 5, whole[: 60 + place])
    check = made.check()
    assert list(check.broken) == [f"train/cut{place}.png" for place in range(7)]
    assert len(check.faults) == 6
    assert check.faults[0].startswith(f"{made.root}/train/cut0.png: the image is damaged")
    assert check.faults[0].endswith("replace it or leave it out")
    assert check.faults[5] == "... 7 images can't be opened in all"


def test_a_fault_is_one_line_whatever_the_file_is_called(made: Made) -> None:
    made.add("train/a\nb.png", 5, b"nothing")
    assert "train/a b.png: not a readable" in only(made.check())


def test_files_that_vanish_are_not_identical(made: Made) -> None:
    collection, problems = inspect_collection(made.root)
    for split in ("train", "test"):
        (made.root / split / "0.png").unlink()
    check = check_collection(collection, problems)
    assert check.notes == []
    assert [fault.split(": ")[1] for fault in check.faults] == ["no such image file; check the path"] * 2


def test_images_that_the_model_refuses(made: Made) -> None:
    def tokens(width: int, height: int) -> int:
        if width > 5 * height:
            raise DataError(f"{width} x {height} is too long; crop it")
        return 1

    made.add("train/long.png", 5, photo("long", 60, 4))
    fault = only(made.check(image_tokens=tokens))
    assert fault == "images that the model can't read: train/long.png; 60 x 4 is too long; crop it"


def test_images_that_no_model_of_the_paper_takes_are_named_without_a_model(made: Made) -> None:
    made.add("train/receipt.png", 5, photo("receipt", 2, 401))
    made.add("train/strip.png", 5, photo("strip", 400, 2))
    assert only(made.check()) == (
        "images that the model can't read: train/receipt.png; an image of 2 x 401 pixels is not for models "
        "such as Qwen2.5-VL (one side is more than 200 times the other); crop it or leave it out"
    )


def test_byte_identical_images_in_two_splits(made: Made) -> None:
    data = (made.root / "train" / "2.png").read_bytes()
    made.add("test/same.png", 30, data)
    check = made.check()
    fault = only(check)
    assert fault.startswith(
        "byte-identical images are in more than one split: train/2.png = test/same.png; rarl data prepare"
    )
    assert "--drop-duplicates" in fault
    assert check.identical.leaks == [["train/2.png", "test/same.png"]]


def test_byte_identical_images_with_two_values(made: Made) -> None:
    data = (made.root / "train" / "2.png").read_bytes()
    made.add("train/same.png", 31, data)
    fault = only(made.check())
    assert fault.startswith(
        "byte-identical images have different values: train/2.png (30) = train/same.png (31);"
    )
    assert "--drop-duplicates" in fault


def test_one_file_in_two_rows_with_two_values(made: Made) -> None:
    made.add("train/2.png", 31, id="again")
    assert only(made.check()).startswith(
        "byte-identical images have different values: train/2.png (30) = train/2.png (31);"
    )


def test_byte_identical_images_with_one_value_are_a_note(made: Made) -> None:
    made.add("train/same.png", 30, (made.root / "train" / "2.png").read_bytes())
    check = made.check()
    assert check.faults == []
    assert check.notes == [
        "byte-identical images within a split, with one value: train/2.png = train/same.png"
    ]


def test_a_leak_with_two_values_is_two_faults(made: Made) -> None:
    made.add("test/same.png", 99, (made.root / "train" / "2.png").read_bytes())
    check = made.check()
    assert [fault.split(":")[0] for fault in check.faults] == [
        "byte-identical images are in more than one split",
        "byte-identical images have different values",
    ]


def test_images_that_look_the_same(made: Made) -> None:
    Image.open(made.root / "train" / "2.png").resize((96, 64)).save(made.root / "test" / "large.png")
    Image.open(made.root / "train" / "3.png").save(made.root / "train" / "coded.jpg", quality=60)
    Image.open(made.root / "train" / "4.png").save(made.root / "train" / "equal.bmp")
    made.add("test/large.png", 30)
    made.add("train/coded.jpg", 41)
    made.add("train/equal.bmp", 50)
    check = made.check()
    assert check.faults == [
        "images that look the same are in more than one split: train/2.png = test/large.png; look at them, "
        "and remove the lines of all but one from metadata.jsonl",
        "images that look the same have different values: train/3.png (40) = train/coded.jpg (41); look at "
        "them, and remove the lines of all but one from metadata.jsonl",
    ]
    assert check.notes == [
        "images that look the same within a split, with one value: train/4.png = train/equal.bmp"
    ]


def test_many_groups_are_five_and_their_number(made: Made) -> None:
    for place in range(7):
        made.add(f"test/same{place}.png", 30, (made.root / "train" / f"{place}.png").read_bytes())
    fault = made.check().faults[0]
    assert "train/4.png = test/same4.png, ... (7 in all);" in fault
    assert "same5" not in fault


def test_a_large_group_is_five_files_and_the_number_of_others(made: Made) -> None:
    data = (made.root / "train" / "2.png").read_bytes()
    for place in range(6):
        made.add(f"test/same{place}.png", 30, data)
    assert "= test/same3.png = 2 more; rarl" in only(made.check())


def test_rules_of_rows_are_apart(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for split in ("train", "test"):
        for place in range(4):
            made.add(f"{split}/{place}.png", place, rule="number of cats")
            # The same file again, with another rule and value.
            made.add(f"{split}/{place}.png", 50 + 10 * place, rule="number of dogs", id=f"{split}{place}")
    made.add("test/new.png", 7, rule="number of owls")
    check = made.check()
    assert (check.faults, check.notes) == ([], [])
    assert (check.splits["train"].rows, check.splits["train"].images) == (8, 4)
    assert check.splits["test"].rules == {"number of cats": 4, "number of dogs": 4, "number of owls": 1}
    # Medians 1.5 and 65: 1.5, 0.5, 0.5, 1.5 and 15, 5, 5, 15 off. There is none for owls.
    assert check.baselines == {"test": Baseline(mae=5.5, median=None, images=8)}


def test_where_only_orders_are_known(tmp_path: Path) -> None:
    made = Made(tmp_path)
    for name in "abcd":
        made.add(f"train/{name}.png", None)
    made.add("train/e.png", None, (tmp_path / "train" / "d.png").read_bytes())
    orders = [["a", "b", "c"], ["c", "d", "a"]]
    with open(tmp_path / "train" / "orders.jsonl", "w") as lines:
        for order in orders:
            lines.write(json.dumps({"ids": [f"train/{name}.png" for name in order]}) + "\n")
    check = made.check()
    assert check.faults == []
    train = check.splits["train"]
    assert (train.rows, train.images, train.orders, train.values, train.ties) == (6, 4, 2, None, {})
    assert (check.bins, check.baselines) == ([], {})
    assert check.notes == [
        "train: orders that contradict each other, among the images "
        "train/a.png = train/b.png = train/c.png = train/d.png"
    ]


def test_progress_is_of_files(made: Made) -> None:
    made.add("train/2.png", 31, id="again")
    told: list[tuple[int, int]] = []
    made.check(progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 16) for done in range(1, 17)]


def test_everything_is_json(made: Made) -> None:
    made.add("test/same.png", 99, (made.root / "train" / "2.png").read_bytes())
    fields = made.check(image_tokens=lambda w, h: 4, prompt_tokens=lambda rule, ends, count: 9).to_dict()
    read = json.loads(json.dumps(fields))
    assert read["splits"]["train"]["values"]["median"] == 45
    assert read["splits"]["train"]["ties"]["8"] == {"drawn": 0, "random": 0}
    assert read["tokens"]["prompts"]["2"] == {"median": 17, "largest": 17}
    assert read["sizes"]["median"] == [48, 32]
    assert read["identical"]["leaks"] == [["train/2.png", "test/same.png"]]
    assert read["baselines"]["test"]["median"] == 45
    assert len(read["faults"]) == 2


# values.py: the parts by hand.


def rows(*values: float, rule: str | None = None) -> list[Row]:
    return [Row(f"{rule}{place}", Path(f"{place}"), value, rule) for place, value in enumerate(values)]


@pytest.mark.parametrize(
    ("sizes", "count", "wanted"),
    [
        ([1, 1], 2, 0),
        ([2], 2, 1),
        ([2, 2], 2, 1 / 3),
        ([3, 1], 2, 1 / 2),
        ([1, 1, 2], 3, 1 / 2),
        ([2, 2], 3, 1),
        ([5], 1, 0),
    ],
)
def test_random_tie_rate_by_hand(sizes: list[int], count: int, wanted: float) -> None:
    assert random_tie_rate(sizes, count) == pytest.approx(wanted)


def test_random_tie_rate_by_counting_all_lists() -> None:
    sizes = [3, 1, 4, 2, 2]
    images = [value for value, size in enumerate(sizes) for _ in range(size)]
    for count in range(1, 7):
        lists = list(combinations(images, count))
        tied = sum(len(set(drawn)) < count for drawn in lists) / len(lists)
        assert random_tie_rate(sizes, count) == pytest.approx(tied)


def test_random_tie_rate_of_many_images() -> None:
    assert random_tie_rate([1] * 250_000, 8) == 0
    assert random_tie_rate([125_000] * 2, 2) == pytest.approx(0.5, abs=1e-5)


def test_ties_of_rules_count_by_their_images() -> None:
    # Always of the one with 6 images, never of the one with 2; the third has too few for a list.
    some = rows(5, 5, 5, 5, 5, 5, rule="a") + rows(1, 2, rule="b") + rows(1, rule="c")
    ties = ties_of(some, 2)
    assert ties.random == pytest.approx(6 / 8)
    assert ties.drawn == 0  # a rule of one value is left out where there are others


def test_baselines_need_a_train_part() -> None:
    assert baselines({"test": rows(1, 2)}) == {}
    assert baselines({"train": rows(1, 2, 9), "test": rows(2, 5)}) == {"test": Baseline(1.5, 2, 2)}
    assert baselines({"train": rows(1, rule="a"), "test": rows(1, rule="b")}) == {}


def test_bins_of_many_values_are_intervals_of_a_round_width() -> None:
    some = rows(*range(21, 61))
    bins = bins_of(some)
    assert bins[:2] == [(20, 22), (22, 24)]
    assert bins[-1] == (60, 62)
    values = values_of(some, bins)
    assert values.histogram == [1, *[2] * 19, 1]
    assert sum(values.histogram) == values.distinct == 40


def test_bins_of_fine_values() -> None:
    some = rows(*(place / 100 for place in range(100, 1001)))
    bins = bins_of(some)
    assert (bins[0], bins[-1], len(bins)) == ((1, 1.5), (10, 10.5), 19)
    assert values_of(some, bins).histogram == [50] * 18 + [1]


def test_bins_of_negative_and_of_few_values() -> None:
    assert bins_of(rows(-1, 2, 2, -1)) == [(-1, -1), (2, 2)]
    assert bins_of([]) == []
    some = rows(*range(-30, 1))
    bins = bins_of(some)
    assert (bins[0], bins[-1]) == ((-30, -28), (0, 2))
    assert values_of(some, bins).histogram == [2] * 15 + [1]
    assert len(bins_of(rows(*range(24)))) == 24
    assert bins_of(rows(*range(25)))[0] == (0, 2)
