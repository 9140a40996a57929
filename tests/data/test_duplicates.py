"""Duplicates: copies are found whatever was done to their files, and images that only resemble each other are
not taken for copies. The search overlooks no pair."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rarl.data.check import duplicates
from rarl.data.check.duplicates import identical_views
from rarl.data.images import THUMBNAIL, identical_bytes, thumbnail


def photo(seed: int, width: int = 120, height: int = 90) -> Image.Image:
    """Soft shapes with some texture, different for each seed."""
    generator = np.random.default_rng(seed)
    shapes = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    texture = generator.normal(0, 8, (height, width, 3))
    pixels = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC)) + texture
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, format=kind, **options)
    return Image.open(data).convert("RGB")


def smaller(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def covered(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """With something new in it, an eighth of each side large."""
    copy = image.copy()
    copy.paste(colour, (50, 40, 50 + image.width // 8, 40 + image.height // 8))
    return copy


def grey(*values: int) -> bytes:
    """A thumbnail in stripes of these greys."""
    return bytes(values[row * len(values) // THUMBNAIL] for row in range(THUMBNAIL) for _ in range(THUMBNAIL))


def test_byte_identical_groups() -> None:
    assert identical_bytes([b"a", b"b", b"a", b"", b"c", b"b", b"a", b""]) == [[0, 2, 6], [1, 5]]
    assert identical_bytes([]) == []


COPIES = {
    "JPEG 95": lambda image: saved(image, "JPEG", quality=95),
    "JPEG 60": lambda image: saved(image, "JPEG", quality=60),
    "WebP 80": lambda image: saved(image, "WEBP", quality=80),
    "PNG": lambda image: saved(image, "PNG"),
    "half": lambda image: smaller(image, 0.5),
    "double": lambda image: smaller(image, 2),
    "other shape": lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
    "half, JPEG 60": lambda image: saved(smaller(image, 0.5), "JPEG", quality=60),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_among_others(copy: str) -> None:
    images = [photo(seed) for seed in range(12)]
    thumbnails = [thumbnail(image) for image in [*images, *map(COPIES[copy], images)]]
    assert identical_views(thumbnails) == [[place, place + 12] for place in range(12)]


@pytest.mark.parametrize(
    "other",
    [
        lambda image: image.point(lambda level: min(255, level + 10)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.crop((6, 4, image.width, image.height)),
        lambda image: covered(image, (10, 10, 10)),  # one more object in the same scene
    ],
    ids=["brighter", "mirrored", "cropped", "one more object"],
)
def test_what_only_resembles_is_no_copy(other) -> None:
    images = [photo(seed) for seed in range(6)]
    assert identical_views([thumbnail(image) for image in [*images, *map(other, images)]]) == []


def test_the_limits_by_hand() -> None:
    base = grey(0, 200)  # standard deviation 100, so the limit is the mean of 2
    mean_2, mean_more = grey(2, 202), grey(2, 203)
    assert identical_views([base, mean_2]) == [[0, 1]]
    assert identical_views([base, mean_more]) == []
    one = bytearray(base)
    one[0] = 10
    assert identical_views([base, bytes(one)]) == [[0, 1]]
    one[0] = 11  # a mean of 11 / 256, and one pixel too many
    assert identical_views([base, bytes(one)]) == []


def test_the_limit_falls_with_the_contrast() -> None:
    # Standard deviations of 20 and 10: limits of 1 and 0.5.
    assert identical_views([grey(100, 140), grey(101, 141)]) == [[0, 1]]
    assert identical_views([grey(100, 120), grey(101, 121)]) == []
    # The flatter of two decides: 19 x 0.05 < 1.
    assert identical_views([grey(100, 140), grey(101, 139)]) == []


def test_thumbnails_without_contrast_say_nothing() -> None:
    assert identical_views([grey(128), grey(128), grey(128, 129), grey(128, 129)]) == []
    assert identical_views([grey(128, 130), grey(128, 130)]) == [[0, 1]]


def test_broken_images_are_equal_to_none() -> None:
    assert identical_views([None, grey(0, 200), None, grey(0, 200)]) == [[1, 3]]
    assert identical_views([None, None]) == []
    assert identical_views([]) == []
    assert identical_views([grey(0, 200)]) == []


def test_what_hangs_together_is_one_group() -> None:
    # 0 and 4 differ by 4 on average, but both resemble 2.
    chain = [grey(4, 204), grey(255, 0), grey(2, 202), grey(255, 0), grey(0, 200), grey(90, 10)]
    assert identical_views(chain) == [[0, 2, 4], [1, 3]]


def test_the_search_finds_what_comparing_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_PIECE", 7)  # pieces and their ends are passed too
    generator = np.random.default_rng(3)
    base = generator.integers(0, 200, (30, 1, THUMBNAIL**2))
    shift = generator.integers(-2, 3, (30, 5, 1)) + generator.integers(-1, 2, (30, 5, THUMBNAIL**2))
    pixels = (base + shift).clip(0, 255).astype(np.uint8).reshape(150, -1)
    apart = np.abs(pixels[:, None].astype(int) - pixels[None])
    same = (apart.mean(axis=2) <= 2) & (apart.max(axis=2) <= 10)
    reached = np.eye(150, dtype=bool)
    for _ in range(8):
        reached = reached @ (same | np.eye(150, dtype=bool))
    groups = {tuple(np.flatnonzero(row).tolist()) for row in reached if row.sum() > 1}
    found = identical_views([row.tobytes() for row in pixels])
    assert {tuple(group) for group in found} == groups
    assert 20 < len(groups) < 120


def test_many_thumbnails_take_little_time_and_memory() -> None:
    # In a process of its own, because the most memory a process ever had can't be taken back.
    code = """
import resource, time, numpy as np
from rarl.data.check.duplicates import identical_views
generator = np.random.default_rng(0)
base = np.kron(generator.normal(128, 40, (20_000, 4, 4)), np.ones((4, 4)))
pixels = (base + generator.normal(0, 15, base.shape)).clip(0, 255).astype(np.uint8).reshape(20_000, -1)
pixels[10_000:10_100] = pixels[:100] ^ 1
thumbnails = [row.tobytes() for row in pixels]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
assert identical_views(thumbnails) == [[place, place + 10_000] for place in range(100)]
seconds = time.perf_counter() - start
used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
assert seconds < 10, seconds
assert used < 300, used
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
