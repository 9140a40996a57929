"""Opening images: whatever the file, an upright RGB image or a `DataError` that names it; never a warning."""

import io
import json
import math
import os
import stat
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import SHARED_DATA
from rarl.data import images
from rarl.data.images import MAX_SCANS, encoded, image_suffix, open_image, shrunk
from rarl.errors import DataError

BAD_IMAGES = SHARED_DATA / "bad_images"
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


def test_sixteen_bits_of_colour_are_scaled(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">HHHHHH", 0, 257, 32896, 65535, 65279, 0)
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, row))
    assert pixels(open_image(tmp_path / "a.png")) == [[(0, 1, 128), (255, 254, 0)]]


def test_a_jpeg_of_several_pictures_is_its_first(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (16, 8), colour) for colour in (WHITE, RED)]
    pictures[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    image = open_image(tmp_path / "a.jpg")
    assert image.size == (16, 8)
    assert pixels(image)[0][0] == WHITE


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


def progressive(scans: int) -> bytes:
    """A JPEG file whose last scan comes again and again, up to so many."""
    data = encoded_as("JPEG", Image.new("RGB", (64, 64), RED), progressive=True)
    starts = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    last = data[starts[-1] : -2]
    return data[:-2] + last * (scans - len(starts)) + data[-2:]


def encoded_as(kind: str, image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format=kind, **options)
    return data.getvalue()


def test_too_many_scans_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(progressive(MAX_SCANS))
    assert open_image(path).size == (64, 64)
    path.write_bytes(progressive(MAX_SCANS + 1))
    with pytest.raises(DataError, match=r"a\.jpg: a JPEG file of more than 100 scans; save it anew"):
        open_image(path)


def test_what_looks_like_scans_and_is_none_does_not_count(tmp_path: Path) -> None:
    many = b"\xff\xda\0\x02" * 1000
    plain = encoded_as("JPEG", Image.new("RGB", (8, 8), RED))
    # A thumbnail in the header, and a film after the picture, as telephones add it.
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(many)) + many
    (tmp_path / "a.jpg").write_bytes(plain[:2] + comment + plain[2:] + 40 * many)
    assert open_image(tmp_path / "a.jpg").size == (8, 8)


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_pixels().save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr(images, "MAX_BYTES", size)
    assert open_image(tmp_path / "a.png").size == (2, 1)
    monkeypatch.setattr(images, "MAX_BYTES", size - 1)
    with pytest.raises(DataError, match=r"a\.png: 0 MB, and 0 are allowed; make the image smaller"):
        open_image(tmp_path / "a.png")
    monkeypatch.undo()
    with open(tmp_path / "hollow.png", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match=r"hollow\.png: 1,000,000 MB, and 512 are allowed"):
        open_image(tmp_path / "hollow.png")


def test_no_warning_gets_out_of_any_thread(tmp_path: Path) -> None:
    # Damaged EXIF data, of which Pillow warns.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x02\0\xff\0\0\0\xff\0\0\0"
    image = Image.new("RGB", (40, 40), RED)
    image.save(tmp_path / "a.jpg", exif=exif)
    with pytest.warns(UserWarning, match="Tag data|Corrupt"):
        Image.open(tmp_path / "a.jpg").close()
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        assert {image.size for image in pool.map(open_image, [tmp_path / "a.jpg"] * 400)} == {(40, 40)}
        assert warnings.filters == before
    assert caught == []


@pytest.mark.parametrize(
    ("size", "most", "wanted"),
    [
        ((10, 10), 100, (10, 10)),
        ((10, 10), 99, (9, 9)),
        ((100, 50), 1250, (50, 25)),
        ((50, 100), 1250, (25, 50)),
        ((4000, 3000), 1_000_000, (1154, 866)),  # of 1154.7 x 866.03
        ((1000, 1), 100, (100, 1)),
        ((1, 1000), 100, (1, 100)),
        ((7, 5), 1, (1, 1)),
        ((3, 3), 8, (2, 2)),
    ],
)
def test_shrunk(size: tuple[int, int], most: int, wanted: tuple[int, int]) -> None:
    assert shrunk(Image.new("RGB", size), most).size == wanted


def test_shrunk_keeps_shape_and_limit() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        width, height, most = (
            generator.integers(1, 300),
            generator.integers(1, 300),
            generator.integers(1, 9000),
        )
        w, h = shrunk(Image.new("L", (width, height)), int(most)).size
        assert w * h <= most
        assert min(w, h) >= 1
        if width * height > most:
            scale = math.sqrt(most / (width * height))
            short, long = sorted((width, height))
            # The shorter side is a pixel off at most, and the longer one keeps their ratio where it can.
            assert abs(min(w, h) - max(1, short * scale)) <= 1
            assert max(w, h) <= long
            assert max(w, h) >= 0.9 * long * scale - 1 or short * scale < 1 or min(w, h) < 9


def test_shrunk_gives_back_what_is_small_enough_and_mixes_pixels_otherwise() -> None:
    image = Image.new("L", (4, 4))
    assert shrunk(image, 16) is image
    image.paste(255, (0, 0, 2, 4))
    assert np.asarray(shrunk(image, 4)).tolist() == [[237, 18], [237, 18]]  # Lanczos
    with pytest.raises(ValueError, match="max_pixels must be at least 1, not 0"):
        shrunk(image, 0)


def test_encoded(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for suffix in (".png", ".webp", ".PNG", ""):
        assert image_suffix(encoded(noise, suffix), "here") == ".png"
        (tmp_path / "a").write_bytes(encoded(noise, suffix))
        assert pixels(open_image(tmp_path / "a")) == pixels(noise)
    for suffix in (".jpg", ".JPEG"):
        assert encoded(noise, suffix) == encoded_as("JPEG", noise, quality=95)
    assert image_suffix(encoded(Image.new("RGBA", (2, 2)), ".jpg"), "here") == ".jpg"


# What opening files costs, each in a process of its own, forked from one that has imported all it needs:
# the path, the seconds, the MB of memory and the verdict. What is printed elsewhere is noise.
MEASURE = """
import json, os, resource, sys, time, warnings
from rarl.data.images import open_image
from rarl.errors import DataError
from PIL import Image
Image.init()
warnings.simplefilter("always")
for path in sys.argv[1:]:
    if (child := os.fork()) == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        try:
            verdict = open_image(path).mode
        except DataError as error:
            verdict = str(error)
        seconds = time.perf_counter() - start
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps([path, seconds, used, verdict]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, path
"""


def costs(paths: list[Path]) -> dict[str, tuple[float, float, str]]:
    """By name: seconds, MB, and "RGB" or the complaint."""
    ran = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rows) == len(paths)
    return {Path(path).name: (seconds, used, verdict) for path, seconds, used, verdict in rows}


def test_bombs_cost_little(tmp_path: Path) -> None:
    side, pixel = 5000, 75  # MB that this many pixels take in RGB
    nothing = zlib.compress(bytes(200_000_000))
    tiny = zlib.compress(bytes(14))

    def bomb(*extra: bytes) -> bytes:
        return png(2, 2, 8, 2, bytes(14), *extra)

    frame = b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;"
    palette = b"\x80\0\0" + bytes(6)
    webp = bytearray(
        encoded_as(
            "WEBP", Image.new("RGB", (9, 9)), save_all=True, append_images=[two_pixels().resize((9, 9))]
        )
    )
    canvas = webp.index(b"VP8X") + 12
    webp[canvas : canvas + 6] = b"\xfe\x3f\0" * 2
    files = {
        "profile.png": bomb(chunk(b"iCCP", b"x\0\0" + nothing)),
        "text.png": bomb(chunk(b"zTXt", b"x\0\0" + nothing)),
        "more.png": bomb()[:-12] + chunk(b"IDAT", nothing) + chunk(b"IEND", tiny),
        "texts.png": bomb(*[chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(900_000)))] * 99),
        "screen.gif": b"GIF89a\xff\xff\xff\xff" + palette + frame,
        "frame.gif": b"GIF89a\x02\0\x02\0" + palette + frame,
        "canvas.webp": bytes(webp),
        "scans.jpg": progressive(20_000),
        "clear.png": png(side, side, 8, 6, bytes(side * (4 * side + 1))),
        "grey16.png": png(side, side, 16, 0, bytes(side * (2 * side + 1))),
        "plain.jpg": encoded_as("JPEG", Image.new("RGB", (side, side))),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = costs([tmp_path / name for name in files])
    for name in (
        "profile.png",
        "text.png",
        "texts.png",
        "screen.gif",
        "frame.gif",
        "canvas.webp",
        "scans.jpg",
    ):
        seconds, used, verdict = found[name]
        assert verdict.startswith(str(tmp_path / name)), name
        assert seconds < 2, name
        assert used < 100, (name, used)
    # Pillow keeps 4 bytes for a pixel of RGB: the image, its copy, and a third one for what lies on white.
    for name in ("clear.png", "grey16.png", "plain.jpg"):
        assert found[name][2] == "RGB"
        assert found[name][1] < 3.5 * 4 / 3 * pixel, (name, found[name])


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


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="a folder of malformed images is not at hand")
def test_malformed_files_cost_little() -> None:
    found = costs(sorted(BAD_IMAGES.iterdir()))
    for name, (seconds, used, verdict) in found.items():
        assert verdict == "RGB" or verdict.startswith(str(BAD_IMAGES / name)), name
        assert seconds < 0.5, name
        assert used < 200, name
