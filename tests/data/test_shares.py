"""Seeded splits: their shares, every value in every split, what belongs together in one, given splits as they
are."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarl.data import SHARES, parse_shares
from rarl.data.prepare import divide_by_seed
from rarl.data.sources import Labelled
from rarl.errors import ConfigError, DataError


def images_of(values: Sequence[float], splits: Sequence[str | None] | None = None) -> list[Labelled]:
    splits = splits or [None] * len(values)
    return [
        Labelled(Path(f"/images/{i}.png"), f"{i}.png", float(value), str(i), split=split)
        for i, (value, split) in enumerate(zip(values, splits, strict=True))
    ]


@settings(deadline=None, max_examples=120)
@given(
    st.lists(st.integers(0, 5), min_size=60, max_size=150),
    st.sampled_from(
        [
            {"train": 0.8, "validation": 0.1, "test": 0.1},
            {"train": 0.5, "test": 0.5},
            {"train": 0.6, "validation": 0.15, "test": 0.2, "pretrain": 0.05},
            {"train": 0.34, "validation": 0.33, "test": 0.33},
            {"test": 0.7, "train": 0.3},
            {"train": 1.0},
        ]
    ),
    st.integers(0, 9),
)
def test_shares_are_met_within_one_image(values: list[int], parts: dict[str, float], seed: int) -> None:
    sizes = Counter(divide_by_seed(images_of(values), [], parts, seed))
    assert set(sizes) == set(parts)
    for name, share in parts.items():
        assert abs(sizes[name] - share * len(values)) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_every_part_has_every_value_where_there_are_enough(seed: int) -> None:
    values = [value for value in range(12) for _ in range(20)]
    split_of = divide_by_seed(images_of(values), [], SHARES, seed)
    held = Counter(zip(split_of, values, strict=True))
    assert {held["validation", value] for value in range(12)} == {2}
    assert {held["test", value] for value in range(12)} == {2}
    # Values that are all different: each stretch of ten has one image for validation and one for test.
    split_of = divide_by_seed(images_of(range(200)), [], SHARES, seed)
    for start in range(0, 200, 10):
        assert Counter(split_of[start : start + 10]) == {"train": 8, "validation": 1, "test": 1}


def test_a_seed_gives_the_same_parts_and_another_others() -> None:
    images = images_of([i % 3 for i in range(90)])
    assert divide_by_seed(images, [], SHARES, 1) == divide_by_seed(images, [], SHARES, 1)
    assert len({tuple(divide_by_seed(images, [], SHARES, seed)) for seed in range(5)}) == 5


def test_what_belongs_together_comes_into_one_part() -> None:
    images = images_of([i % 4 for i in range(120)])
    together = [[0, 7, 50], [50, 51], [3, 4], [60, 61, 62, 63], [9]]
    for seed in range(20):
        split_of = divide_by_seed(images, together, SHARES, seed)
        for group in ([0, 7, 50, 51], [3, 4], [60, 61, 62, 63]):
            assert len({split_of[index] for index in group}) == 1
        sizes = Counter(split_of)
        assert abs(sizes["test"] - 12) <= 4
        assert abs(sizes["validation"] - 12) <= 4


def test_chance_has_a_hand_in_every_image_and_every_part() -> None:
    equal, ascending = images_of([0] * 20), images_of(range(10))
    test = set()
    before = Counter()
    for seed in range(200):
        split_of = divide_by_seed(equal, [], SHARES, seed)
        test |= {index for index, name in enumerate(split_of) if name == "test"}
        split_of = divide_by_seed(ascending, [], SHARES, seed)
        before[split_of.index("validation") < split_of.index("test")] += 1
    assert test == set(range(20))
    assert min(before[True], before[False]) > 50


def test_pairs_share_like_single_images() -> None:
    images = images_of([i // 2 % 5 for i in range(200)])
    sizes = Counter(divide_by_seed(images, [[i, i + 1] for i in range(0, 200, 2)], SHARES, 0))
    assert sizes == {"train": 160, "validation": 20, "test": 20}


def test_a_large_set_does_not_spoil_the_shares() -> None:
    together = [list(range(40, 90))]
    for seed in range(20):
        sizes = Counter(divide_by_seed(images_of([0] * 100), together, SHARES, seed))
        assert sizes == {"train": 80, "validation": 10, "test": 10}


def test_given_parts_are_kept_and_a_missing_one_is_a_share_of_train() -> None:
    splits = ["test" if i % 5 == 0 else "train" for i in range(100)]
    images = images_of([i % 5 for i in range(100)], splits)
    split_of = divide_by_seed(images, [], SHARES, 0)
    assert [new for new, old in zip(split_of, splits, strict=True) if old == "test"] == ["test"] * 20
    # 0.1 of 0.9 of the 80, which were all for training.
    assert Counter(split_of) == {"test": 20, "train": 71, "validation": 9}
    extra = {"train": 0.5, "validation": 0.1, "test": 0.2, "pretrain": 0.2}
    assert Counter(divide_by_seed(images, [], extra, 0)) == {
        "test": 20,
        "train": 50,
        "validation": 10,
        "pretrain": 20,
    }


def test_where_every_part_is_given_all_stays_and_the_others_are_for_training() -> None:
    splits = ["train", "validation", "test", None] * 10
    split_of = divide_by_seed(images_of(range(40), splits), [], SHARES, 0)
    assert split_of == ["train", "validation", "test", "train"] * 10
    # No part of SHARES that lists give is drawn too.
    split_of = divide_by_seed(images_of(range(40), [None, "test"] * 20), [], SHARES, 0)
    assert split_of[1::2] == ["test"] * 20
    assert set(split_of[::2]) == {"train", "validation"}


def test_a_part_that_is_not_asked_for_is_not_made() -> None:
    split_of = divide_by_seed(
        images_of(range(40), ["train", "test"] * 20), [], {"train": 0.9, "test": 0.1}, 0
    )
    assert Counter(split_of) == {"train": 20, "test": 20}


def test_copies_of_a_given_image_are_not_drawn_for_another_part() -> None:
    splits = ["test", None, "train", "test", None, None] + ["train"] * 60
    images = images_of([0] * 66, splits)
    for seed in range(20):
        split_of = divide_by_seed(images, [[0, 1], [2, 3], [4, 5]], SHARES, seed)
        assert split_of[0] == split_of[3] == "test"  # as given, although a copy is for training
        assert split_of[1] == split_of[2] == "train"  # not validation: the copy is known elsewhere
        assert split_of[4] == split_of[5]


@pytest.mark.parametrize(
    ("images", "together", "parts", "missing"),
    [
        (images_of(range(3)), [], SHARES, "validation"),
        (images_of(range(40)), [list(range(40))], SHARES, "validation"),
        (images_of(range(40), ["test"] * 40), [], SHARES, "train"),
        (images_of(range(4), ["train", "test"] * 2), [], SHARES, "validation"),
    ],
)
def test_a_part_without_images_is_refused(images, together, parts, missing) -> None:
    with pytest.raises(DataError, match=rf"none of the \d+ images comes into {missing}: .*--parts"):
        divide_by_seed(images, together, parts, 0)


def test_ten_images_are_enough() -> None:
    split_of = divide_by_seed(images_of(range(10)), [], SHARES, 0)
    assert Counter(split_of) == {"train": 8, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train=0.8,validation=0.1,test=0.1", SHARES),
        (" test = 0.25 , train=.75 ", {"test": 0.25, "train": 0.75}),
        ("train=1", {"train": 1.0}),
        (
            "train=0.333333333,validation=0.333333333,test=0.333333334",
            {"train": 0.333333333, "validation": 0.333333333, "test": 0.333333334},
        ),
        ("Training=0.8,val=0.1,TEST=0.1", SHARES),
        ("train=0.7,pretrain=0.3", {"train": 0.7, "pretrain": 0.3}),
    ],
)
def test_shares_as_text(text: str, parts: dict[str, float]) -> None:
    assert parse_shares(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train",
        "train=",
        "train=a",
        "train=0.8",
        "train=0.8,test=0.3",
        "train=1.2,test=-0.2",
        "train=1,test=0",
        "train=nan,test=1",
        "train=inf",
        "test=1",
        "train=0.5,train=0.5",
        "train=0.5,training=0.5",
        "train=0.5,val=0.3,validation=0.2",
        "train=0.5,Extra=0.3,extra=0.2",
        "train=0.5,../x=0.5",
        "train=0.5,=0.5",
        "train=0.5,a b=0.5",
        "train=0.9,test=0.1,",
    ],
)
def test_no_shares(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--parts .*must be shares that add up to 1"):
        parse_shares(text)
