"""The shapes that a processor refuses, asked before a run from the headers of the files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import rarl.models.limits
from rarl.data.collection import Row
from rarl.data.groups import Group
from rarl.data.images import check_shape
from rarl.errors import DataError
from rarl.models.limits import check_images, longest_first, prompt_lengths, refused_images, shape_problem

SIZES = [(1, 1), (1, 200), (1, 201), (400, 2), (401, 2), (4000, 12), (20001, 100), (20000, 100)]


def saved(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    paths = [folder / f"{width}x{height}.png" for width, height in sizes]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("L", size).save(path)
    return paths


def test_the_images_that_the_processor_refuses(tiny_processor, tmp_path: Path) -> None:
    paths = saved(tmp_path, (30, 30), (4000, 12), (12, 4000), (200, 1))
    refused = refused_images(tiny_processor, [*paths, *paths])
    assert list(refused) == paths[1:3]
    assert refused[paths[1]].startswith("an image of 4000 x 12 pixels is not for this model (")


@pytest.mark.parametrize("size", SIZES)
def test_without_a_model_the_limit_is_that_of_the_processors(tiny_processor, size: tuple[int, int]) -> None:
    problem = None
    try:
        check_shape(*size)
    except DataError as error:
        problem = str(error)
    assert (problem is None) == (shape_problem(tiny_processor, *size) is None)


def test_a_minimal_size_is_the_processors_own(tmp_path: Path) -> None:
    def patches(height: int, width: int, _: object) -> int:
        if min(height, width) < 28:
            raise ValueError(f"height:{height} and width:{width} must be larger than factor:28")
        return 4

    shapes = SimpleNamespace(get_number_of_image_patches=patches, merge_size=2)
    paths = saved(tmp_path, (30, 30), (27, 30), (30, 20))
    with pytest.raises(
        DataError, match=r"27x30\.png: .*larger than factor:28.*; the same with .*30x20\.png$"
    ):
        check_images(SimpleNamespace(image_processor=shapes), paths)
    assert refused_images(SimpleNamespace(image_processor=None), paths) == {}  # it can't say


def test_the_step_with_the_longest_prompt_comes_first(tiny_processor, tmp_path: Path) -> None:
    # One token, two and four.
    small, middle, large = saved(tmp_path, (28, 28), (56, 28), (56, 56))
    groups = [
        Group(tuple(Row(path.stem, path, 1.0) for path in paths))
        for paths in ([small], [middle], [small], [large], [small, small, middle], [middle], [large, middle])
    ]
    assert prompt_lengths(tiny_processor, groups) == [1, 2, 1, 4, 4, 2, 6]
    moved = longest_first(tiny_processor, groups, 2)  # of the first two steps of equal length, the first
    assert moved == [groups[place] for place in (2, 3, 0, 1, 4, 5, 6)]
    assert longest_first(tiny_processor, groups, 1) == [groups[place] for place in (6, 1, 2, 3, 4, 5, 0)]
    assert longest_first(tiny_processor, groups[:1], 2) == groups[:1]
    unknown = SimpleNamespace()
    assert prompt_lengths(unknown, groups)[:4] == [784, 1568, 784, 3136]


def test_many_are_counted(tiny_processor, tmp_path: Path) -> None:
    paths = saved(tmp_path, *((300 + i, 1) for i in range(8)))
    message = r"^\S+300x1\.png: .* the same with (\S+png, ){3}\S+304x1\.png and 3 more$"
    with pytest.raises(DataError, match=message):
        check_images(tiny_processor, paths)
    check_images(tiny_processor, [])


def test_a_file_is_read_once_and_again_where_it_has_changed(
    tiny_processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = saved(tmp_path, (30, 30))
    original, reads = rarl.models.limits.image_size, []
    monkeypatch.setattr(rarl.models.limits, "image_size", lambda p: (reads.append(p), original(p))[1])
    assert refused_images(tiny_processor, [path]) == refused_images(tiny_processor, [path]) == {}
    assert len(reads) == 1
    Image.new("L", (900, 1)).save(path)
    assert list(refused_images(tiny_processor, [path])) == [path]


def test_what_has_no_size_is_named(tiny_processor, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    for name, problem in (("a.jpg", "not a readable"), ("none.jpg", "no such image file")):
        with pytest.raises(DataError, match=f"{name}: {problem}"):
            refused_images(tiny_processor, [tmp_path / name])
