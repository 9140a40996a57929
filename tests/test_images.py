"""data/images.py: whatever the file, an upright RGB image or a `DataError` that names it; no warning."""

import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rarl.data import images
from rarl.data.images import image_suffix, open_image
from rarl.errors import DataError

BAD_IMAGES = Path(__file__).parents[2] / "shared" / "data" / "bad_images"
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def two_pixels() -> Image.Image:
    """Red beside blue."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    return image


def pixels(image: Image.Image) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in line] for line in np.asarray(image).tolist()]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.gif"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, name: str) -> None:
    two_pixels().save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    image = open_image(tmp_path / name)
    assert image.mode == "RGB"
    assert pixels(image) == [[RED, BLUE]]


def test_a_jpeg_is_read_and_its_name_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8), (10, 200, 30)).save(tmp_path / "photo.jpg.chip", format="JPEG", quality=95)
    image = open_image(str(tmp_path / "photo.jpg.chip"))
    assert image.size == (16, 8)
    assert np.abs(np.asarray(image).astype(int) - (10, 200, 30)).max() <= 3


# A red pixel left of a blue one, as stored; what is seen for each EXIF orientation.
UPRIGHT = {
    1: [[RED, BLUE]],
    2: [[BLUE, RED]],
    3: [[BLUE, RED]],
    4: [[RED, BLUE]],
    5: [[RED], [BLUE]],
    6: [[RED], [BLUE]],
    7: [[BLUE], [RED]],
    8: [[BLUE], [RED]],
    9: [[RED, BLUE]],  # no such orientation
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    two_pixels().save(tmp_path / "a.png", exif=exif)
    image = open_image(tmp_path / "a.png")
    assert pixels(image) == UPRIGHT[orientation]
    assert image.info == {}
    assert not image.getexif()


def test_damaged_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    two_pixels().save(tmp_path / "a.webp", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")
    assert pixels(open_image(tmp_path / "a.webp")) == [[RED, BLUE]]


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), RED).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (3, 2), BLUE)]
    )
    assert pixels(open_image(tmp_path / "a.gif"))[0][0] == RED


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (2, 1), (*RED, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    grey = Image.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 51))  # one fifth black
    palette = two_pixels().quantize(2)
    clear = palette.getpixel((1, 0))
    rgba.save(tmp_path / "rgba.png")
    grey.save(tmp_path / "la.png")
    palette.save(tmp_path / "p.png", transparency=clear)
    palette.save(tmp_path / "p.gif", transparency=clear)
    assert pixels(open_image(tmp_path / "rgba.png")) == [[RED, WHITE]]
    assert pixels(open_image(tmp_path / "la.png")) == [[(0, 0, 0), (204, 204, 204)]]
    assert pixels(open_image(tmp_path / "p.png")) == [[RED, WHITE]]
    assert pixels(open_image(tmp_path / "p.gif")) == [[RED, WHITE]]


def test_a_colour_named_transparent_in_an_rgb_file_lies_on_white(tmp_path: Path) -> None:
    data = png(2, 1, 8, 2, bytes([0, *RED, *BLUE]), chunk(b"tRNS", struct.pack(">HHH", *BLUE)))
    (tmp_path / "a.png").write_bytes(data)
    assert pixels(open_image(tmp_path / "a.png")) == [[RED, WHITE]]


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert [pixel[0] for pixel in pixels(open_image(tmp_path / "a.png"))[0]] == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.new("RGB", (8, 8), WHITE).convert(mode).save(tmp_path / name)
    assert pixels(open_image(tmp_path / name))[0][0] == WHITE


def test_the_image_is_detached_from_its_file(tmp_path: Path) -> None:
    two_pixels().save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert type(image) is Image.Image
    assert pixels(image) == [[RED, BLUE]]


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".gif"])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(noise).save(whole)
    part = tmp_path / f"part{suffix}"
    part.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * keep)])
    with pytest.raises(DataError, match=f"part{suffix}: .*leave it out"):
        open_image(part)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable JPEG, PNG, WebP, BMP or GIF image; convert it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable JPEG"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not a readable JPEG",
        ),  # would start Ghostscript
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "a.png: "),
        (png(2, 1, 8, 3, b"\0\0\1"), "damaged .*palette"),
        (png(2, 1, 8, 2, b"\0" * 7, chunk(b"pHYs", b"\1")), "damaged"),
        (png(2, 1, 8, 2, b"\0" * 7)[:-12] + chunk(b"iCCP", b"x\0") + chunk(b"IEND", b""), "damaged"),
    ],
    ids=["empty", "svg", "eps", "no header", "no palette", "half a chunk", "half a late chunk"],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        open_image(tmp_path / "a.png")
    assert str(caught.value).startswith(str(tmp_path / "a.png"))


def test_tiff_is_not_on_the_list(tmp_path: Path) -> None:
    two_pixels().save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(DataError, match="not a readable"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("side", [8001, 10_000, 40_000])  # Pillow itself says nothing, warns, refuses
def test_size_is_looked_at_before_decoding(tmp_path: Path, side: int) -> None:
    # The pixels are missing: decoding would fail with another message.
    (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, b""))
    with pytest.raises(DataError, match=r"a\.png: .*pixels.*make the image smaller"):
        open_image(tmp_path / "a.png")


def test_the_limit_itself_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 200)
    assert open_image(tmp_path / "a.png").size == (20, 10)
    monkeypatch.setattr(images, "MAX_PIXELS", 199)
    with pytest.raises(DataError, match="20 x 10 pixels"):
        open_image(tmp_path / "a.png")


def test_missing_files_folders_pipes_and_impossible_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: no such image file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="not a file"):
        open_image(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(DataError, match="not a file"):
        open_image(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a path"):
        open_image("a\0.png")
    with pytest.raises(DataError, match="can't be read"):
        open_image(tmp_path / ("x" * 300))


def test_suffixes_follow_the_bytes(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".gif"):
        two_pixels().save(tmp_path / f"a{suffix}")
        assert image_suffix((tmp_path / f"a{suffix}").read_bytes(), "here") == suffix
    with pytest.raises(DataError, match="here: not a readable"):
        image_suffix(b"nothing", "here")


def complaint(path: Path) -> str | None:
    """None where the file opens, else the message of its `DataError`; anything else raised fails the test."""
    try:
        mode = open_image(path).mode
    except DataError as error:
        return str(error)
    assert mode == "RGB"
    return None


def test_random_damage_raises_nothing_else(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    noise = generator.integers(0, 256, (12, 10, 4), dtype=np.uint8)
    path = tmp_path / "a"
    complaints = []
    for kind in ("PNG", "WEBP", "BMP", "GIF", "JPEG"):
        Image.fromarray(noise).convert("RGBA" if kind in ("PNG", "WEBP") else "RGB").save(path, format=kind)
        whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        for _ in range(100):
            data = whole.copy()
            places = generator.integers(0, min(len(data), 120), 3)
            data[places] = generator.integers(0, 256, 3)
            path.write_bytes(data.tobytes())
            complaints.append(complaint(path))
    refused = [message for message in complaints if message is not None]
    assert 0 < len(refused) < len(complaints)
    assert all(message.startswith(str(path)) for message in refused)


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="a folder of malformed images is not at hand")
def test_malformed_files_of_the_wild() -> None:
    complaints = {path.name: complaint(path) for path in sorted(BAD_IMAGES.iterdir())}
    refused = {name: message for name, message in complaints.items() if message is not None}
    assert all(message.startswith(str(BAD_IMAGES / name)) for name, message in refused.items())
    allowed = (".jpg", ".png", ".bmp", ".gif")
    assert {name for name in complaints if not name.endswith(allowed)} <= refused.keys()
    assert refused.keys() >= {"truncated_jpeg.jpg", "broken.png", "badwidth.bmp", "decompression_bomb.gif"}
    # Their EXIF data are damaged, and their pixels are not.
    assert not refused.keys() & {"exif_typeerror.jpg", "invalid-exif.jpg", "hopper_bad_exif.jpg", "exif.png"}
