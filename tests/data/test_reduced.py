"""JPEG files that are decoded at a part of their size, since a model needs only a small image of them: nearly
the pixels of the whole file made smaller, and never those of an image that is hardly larger."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from rarl.data import images
from rarl.data.images import decoded
from rarl.data.opening import GAP, Resizing
from rarl.errors import DataError

BICUBIC = int(Image.Resampling.BICUBIC)
SQUARE = Resizing(factor=28, least=28 * 28, most=28 * 28, resample=BICUBIC)  # 28 x 28 for nearly square ones
LARGE = (1277, 1211)  # no multiples of 8: at an eighth, 28 x 28 are left 5.4 times over


def photo(width, height, seed=0):
    """Soft shapes, and texture that is finer and fainter from one layer to the next, as in nature."""
    random, layers = np.random.default_rng(seed), np.zeros((height, width, 3))
    for size in (2, 4, 8, 16, 32, 64, 128):
        grain = random.integers(0, 256, (-(-height * size // 1000), -(-width * size // 1000), 3), np.uint8)
        layers += np.asarray(Image.fromarray(grain).resize((width, height), BICUBIC)) / size
    layers += random.normal(0, 6, (height, width, 1))
    return Image.fromarray((layers / 2).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def large():
    return photo(*LARGE)


def encoded(image, form="JPEG", **options):
    data = BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def difference(data, resizing=SQUARE):
    """The mean and the greatest difference, in levels, of a file that is opened for a model from the whole
    file made smaller."""
    mine, whole = decoded(data, "a", resizing), resizing(decoded(data, "a"))
    assert type(mine) is Image.Image
    assert (mine.size, mine.mode, mine.info) == (whole.size, whole.mode, {})
    levels = np.abs(np.asarray(mine, dtype=int) - np.asarray(whole, dtype=int))
    return levels.mean(), levels.max()


def is_close(data, resizing=SQUARE):
    mean, most = difference(data, resizing)
    assert most > 0, "it was decoded whole"
    return mean < 0.4 and most <= 4


@pytest.mark.parametrize("part", [2, 4, 8])
def test_at_each_part_the_pixels_are_nearly_those_of_the_whole_file(part, monkeypatch):
    size = (28 * GAP * part, 28 * GAP * part + 5)
    seen = []
    draft = JpegImageFile.draft

    def watched(self, mode, wanted):
        found = draft(self, mode, wanted)
        seen.append(self.size)
        return found

    monkeypatch.setattr(JpegImageFile, "draft", watched)
    assert is_close(encoded(photo(*size), quality=90))
    assert seen == [(-(-size[0] // part), -(-size[1] // part))]


@pytest.mark.parametrize("smaller", [(0, 1), (1, 0), (100, 100)])
def test_an_image_of_which_less_would_be_left_keeps_every_pixel(smaller):
    side = 28 * GAP * 2
    assert difference(encoded(photo(side - smaller[0], side - smaller[1])))[1] == 0
    assert difference(encoded(photo(side, side)))[1] > 0


def test_an_image_that_gets_larger_or_is_refused_keeps_every_pixel():
    assert difference(encoded(photo(20, 20)))[1] == 0
    assert difference(encoded(photo(2100, 10)))[1] == 0


def test_nothing_is_moved_where_sides_are_no_multiples_of_the_part():
    ramp = np.add.outer(np.linspace(0, 127, 1209), np.linspace(0, 127, 1273)).astype(np.uint8)
    mean, most = difference(encoded(Image.fromarray(ramp), quality=95))  # 160 x 152 at an eighth
    assert mean < 0.2
    assert most == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright(orientation):
    wide = Resizing(factor=28, least=28 * 56, most=28 * 56, resample=BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(1277, 633), exif=exif, quality=90)
    assert is_close(data, wide)
    assert decoded(data, "a", wide).size == ((56, 28) if orientation < 5 else (28, 56))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"quality": 90}),
        ("RGB", {"quality": 90, "progressive": True}),
        ("RGB", {"quality": 90, "subsampling": "4:4:4"}),
        ("L", {"quality": 90}),
        ("RGB", {"form": "MPO", "save_all": True}),
    ],
)
def test_every_kind_of_jpeg(large, mode, options):
    assert is_close(encoded(large.convert(mode), **options))


def test_cmyk_and_other_formats_keep_every_pixel(large):
    assert difference(encoded(large.convert("CMYK")))[1] == 0
    assert difference(encoded(large, "PNG", compress_level=1))[1] == 0
    assert difference(encoded(large, "WEBP", method=0))[1] == 0


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.99])
def test_a_file_cut_short_is_refused(large, keep, progressive):
    data = encoded(large, quality=90, progressive=progressive)
    assert decoded(data, "a.jpg", SQUARE).size == (28, 28)
    with pytest.raises(DataError, match=r"a\.jpg: the image is damaged"):
        decoded(data[: int(len(data) * keep)], "a.jpg", SQUARE)


def test_limits_are_those_of_whole_images(large, monkeypatch):
    data = encoded(large, progressive=True)
    monkeypatch.setattr(images, "MAX_SCANS", 2)
    with pytest.raises(DataError, match="more than 2 scans"):
        decoded(data, "a", SQUARE)
    monkeypatch.setattr(images, "MAX_PIXELS", LARGE[0] * LARGE[1] - 1)
    with pytest.raises(DataError, match="1277 x 1211 pixels are more"):
        decoded(data, "a", SQUARE)
