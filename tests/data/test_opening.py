"""Images opened ahead: every kind of picture, in order, resized to the very pixels that the processor makes,
and what happens when a process dies."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import psutil
import pytest
from PIL import Image

import rarl.data.opening
from rarl.data.images import open_image
from rarl.data.opening import Resizing, open_all, opened, picture_name
from rarl.errors import DataError

QWEN = Resizing(factor=28, least=56 * 56, most=28 * 28 * 16, resample=int(Image.Resampling.BICUBIC))


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((56, 56), (56, 56)),
        ((200, 200), (112, 112)),  # at most 12,544 pixels
        ((30, 30), (56, 56)),  # at least 3,136
        ((100, 50), (112, 56)),
        ((4000, 3000), (112, 84)),
        ((2010, 10), None),  # refused
        ((3000, 20), None),  # 140 patches long, and then shrunk a second time
    ],
)
def test_sizes(size, wanted):
    assert QWEN.size_of(size) == wanted
    assert QWEN.size_of((size[1], size[0])) == (wanted if wanted is None else (wanted[1], wanted[0]))


def test_sizes_are_those_of_the_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    random = np.random.default_rng(0)
    for width, height in random.integers(1, 3000, (2000, 2)).tolist():
        mine = QWEN.size_of((width, height))
        if max(width, height) / min(width, height) > 200:
            assert mine is None
            continue
        high, wide = smart_resize(height, width, 28, QWEN.least, QWEN.most)
        again = (
            smart_resize(high, wide, 28, QWEN.least, QWEN.most)
            if max(wide, high) <= 200 * min(wide, high)
            else 0
        )
        assert mine == ((wide, high) if again == (high, wide) else None)


@pytest.mark.parametrize("size", [(200, 150), (20, 31), (640, 9), (57, 900)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_processor_makes_the_same_pixels_of_a_resized_image(tmp_path, tiny_processor, size, orientation):
    from rarl.models.processor import resizing_of

    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(*size).save(tmp_path / "a.jpg", exif=exif)
    resizing = resizing_of(tiny_processor)
    assert resizing is not None
    resized = opened(tmp_path / "a.jpg", "a", resizing)
    assert resized.info == {}
    whole, mine = (
        tiny_processor.image_processor([image], return_tensors="np")["pixel_values"]
        for image in (open_image(tmp_path / "a.jpg"), resized)
    )
    np.testing.assert_array_equal(mine, whole)


def test_a_processor_that_resizes_in_another_way_gets_whole_images():
    from rarl.models.processor import resizing_of

    class Processor:
        image_processor = object()

    assert resizing_of(Processor()) is None


def test_every_kind_of_picture(tmp_path):
    image = noise(5, 4)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    pictures = [tmp_path / "a.png", str(tmp_path / "a.png"), data, image, np.asarray(image)]
    for found in open_all(pictures):
        assert isinstance(found, Image.Image)
        assert found.mode == "RGB"
        assert found.tobytes() == image.tobytes()
    grey = np.full((4, 5), 7, np.uint8)
    assert opened(grey, "grey").getpixel((0, 0)) == (7, 7, 7)
    clear = opened(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "clear")
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 5, 3)), "image 0: an array must be .* not 4 x 5 x 3 of float64"),
        (np.zeros((3, 4, 5), np.uint8), "not 3 x 4 x 5 of uint8"),
        (b"no image", "image 0: not a readable JPEG"),
    ],
)
def test_what_is_no_picture_is_named_by_its_place(picture, message):
    [found] = open_all([picture])
    assert isinstance(found, DataError)
    with pytest.raises(DataError, match=message):
        raise found
    assert picture_name("a.png", 3) == "a.png"


def test_a_pil_image_of_a_damaged_file():
    data = BytesIO()
    noise(40, 40).save(data, format="PNG")
    with Image.open(BytesIO(data.getvalue()[:-200])) as cut:
        [found] = open_all([cut])
    assert isinstance(found, DataError)
    assert "image 0: the image is damaged" in str(found)


def test_processes_and_threads_open_files_in_order_and_end(tmp_path):
    paths = []
    for number in range(23):
        paths.append(tmp_path / f"{number}.png")
        if number == 9:
            paths[-1].write_text("no image")
        elif number != 5:
            noise(30, 30, number).save(paths[-1])
    alone = list(open_all(paths, QWEN, workers=0))
    beside = list(open_all(paths, QWEN, workers=2))
    blocks = Image.core.get_blocks_max()
    with ThreadPoolExecutor(2) as threads:
        on_threads = list(open_all(paths, QWEN, threads=threads))
    assert Image.core.get_blocks_max() == blocks
    for one, other in (*zip(alone, beside, strict=True), *zip(alone, on_threads, strict=True)):
        assert type(one) is type(other)
        if isinstance(one, DataError):
            assert str(one) == str(other)
        else:
            assert one.tobytes() == other.tobytes()
    assert [n for n, found in enumerate(beside) if isinstance(found, DataError)] == [5, 9]
    iterator = open_all(paths, QWEN, workers=1)  # left early
    next(iterator)
    iterator.close()


def test_a_process_that_dies_is_an_error_with_the_file_s_name(tmp_path, monkeypatch):
    killer = tmp_path / "killer"
    killer.mkdir()
    # A module that the process finds first, and that kills it at the sixth file.
    code = "from rarl.data import images\nimport os\nwhole = images.open_image\n"
    code += "def open_image(path, resize=None):\n    '5.png' in path and os.kill(os.getpid(), 9)\n"
    code += "    return whole(path, resize)\nimages.open_image = open_image\n"
    (killer / "deadly.py").write_text(code)
    monkeypatch.syspath_prepend(killer)
    whole = subprocess.Popen

    def start(command, **options):
        return whole(
            [*command[:2], command[2].replace("from rarl", "import deadly; from rarl", 1)], **options
        )

    monkeypatch.setattr(rarl.data.opening.subprocess, "Popen", start)
    for number in range(8):
        noise(8, 8, number).save(tmp_path / f"{number}.png")
    found = []
    with pytest.raises(DataError, match=r"5\.png: the process that opened it died \(exit code -9\)"):
        found.extend(open_all([tmp_path / f"{number}.png" for number in range(8)], QWEN, workers=1))


def test_a_process_ends_with_its_parent(tmp_path):
    noise(8, 8).save(tmp_path / "a.png")
    code = "import sys, time; from rarl.data.opening import open_all\n"
    code += (
        "opening = open_all([sys.argv[1]] * 40, None, 1); next(opening); print(flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        [child] = psutil.Process(parent.pid).children()
        parent.kill()
    assert psutil.wait_procs([child], timeout=60)[1] == []
