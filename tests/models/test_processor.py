"""The lengths of images and prompts that are told without an image are those that the processor makes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from helpers import SHARED_DATA
from rarl.errors import DataError, ModelError
from rarl.method.prompts import messages
from rarl.models.loading import load_processor
from rarl.models.processor import image_tokens, limit_pixels, prompt_tokens

QWEN = SHARED_DATA / "qwen2.5-vl-7b"
# Width and height: smaller than a patch, square, long, high, and too large.
SIZES = [(1, 1), (28, 28), (29, 55), (56, 56), (200, 200), (640, 480), (30, 900), (1000, 5), (333, 1777)]


def made(processor, rule: str, value_range: str, sizes: list[tuple[int, int]]) -> int:
    """The tokens of a prompt with real images."""
    text = processor.apply_chat_template(
        [messages(len(sizes), rule, value_range)], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=text, images=[Image.new("RGB", size) for size in sizes])
    return len(inputs["input_ids"][0])


@pytest.mark.parametrize("size", SIZES[:-2], ids=str)
def test_tokens_of_the_embedded_model(tiny_processor, size: tuple[int, int]) -> None:
    text = prompt_tokens(tiny_processor, "handwritten digit", "0-9", 1)
    whole = made(tiny_processor, "handwritten digit", "0-9", [size])
    assert whole == text + image_tokens(tiny_processor, *size)


def test_tokens_by_hand(tiny_processor) -> None:
    # A token is 28 x 28 pixels, and the embedded model takes images of one to four.
    assert image_tokens(tiny_processor, 28, 28) == 1
    assert image_tokens(tiny_processor, 56, 28) == 2
    assert image_tokens(tiny_processor, 28, 112) == 4
    assert image_tokens(tiny_processor, 640, 640) == 4


def test_a_prompt_of_several_images_and_a_rule_of_ones_own(tiny_processor) -> None:
    sizes = [(28, 28), (56, 56), (28, 60), (10, 40)]
    whole = made(tiny_processor, "redness of ‘paprika’", "-5 to 5", sizes)
    text = prompt_tokens(tiny_processor, "redness of ‘paprika’", "-5 to 5", 4)
    assert whole == text + sum(image_tokens(tiny_processor, *size) for size in sizes)


def test_a_shape_that_the_model_refuses(tiny_processor) -> None:
    with pytest.raises(DataError, match=r"900 x 3 pixels is not for this model .*200.*; crop it"):
        image_tokens(tiny_processor, 900, 3)


def test_width_and_height_are_not_mixed_up() -> None:
    patches = SimpleNamespace(
        get_number_of_image_patches=lambda high, wide, options: 400 * high + 4 * wide, merge_size=2
    )
    assert image_tokens(SimpleNamespace(image_processor=patches), width=3, height=5) == 503


def test_a_processor_that_can_not_say() -> None:
    with pytest.raises(ModelError, match="SimpleNamespace can't say how many tokens an image is"):
        image_tokens(SimpleNamespace(), 10, 10)
    with pytest.raises(ModelError, match="can't say how many tokens an image is"):
        image_tokens(SimpleNamespace(image_processor=1), 10, 10)
    with pytest.raises(ModelError, match="SimpleNamespace does not know `pixels`: leave it out"):
        limit_pixels(SimpleNamespace(), 10_000)
    with pytest.raises(ModelError, match="can't say how many tokens a prompt is"):
        prompt_tokens(SimpleNamespace(), "age", "0-9", 1)


@pytest.mark.skipif(not QWEN.is_dir(), reason="the files of Qwen2.5-VL are not beside the repository")
def test_tokens_of_qwen(tmp_path: Path) -> None:
    for path in QWEN.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "model.safetensors").write_bytes(b"")
    processor = load_processor(tmp_path)
    assert json.loads((QWEN / "preprocessor_config.json").read_text())["max_pixels"] == 12845056
    text = prompt_tokens(processor, "facial age", "0-116", len(SIZES))
    assert made(processor, "facial age", "0-116", SIZES) == text + sum(
        image_tokens(processor, *s) for s in SIZES
    )
    assert image_tokens(processor, 640, 480) == 23 * 17  # 640 / 28 is nearest to 23, 480 / 28 to 17
