"""Numbers that are looked up are those that the image processor computes, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from rarl.models.loading import load_processor
from rarl.models.pixels import looking_up, pixels_of

SMALL, FLAT, LARGE, ODD = (28, 28), (84, 28), (392, 364), (45, 61)  # width and height; ODD is resized


def noise(sizes):
    drawn = np.random.default_rng(0)
    return [Image.fromarray(drawn.integers(0, 256, (high, wide, 3), np.uint8)) for wide, high in sizes]


@pytest.mark.parametrize("sizes", [[SMALL] * 3, [LARGE] * 3, [ODD, SMALL, SMALL, FLAT, LARGE, ODD]])
@pytest.mark.parametrize("given", [{}, {"do_normalize": False}, {"do_rescale": False}])
def test_numbers_are_those_of_the_processor(sizes, given, monkeypatch):
    own = load_processor("tiny").image_processor
    for name, value in given.items():
        setattr(own, name, value)
    images = noise(sizes)
    expected = own(images, return_tensors="pt")
    monkeypatch.setattr(type(own), "patchify", None)  # what the processor does with each image
    found = pixels_of(own, images)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_images_that_are_not_of_three_values_are_left_to_the_processor(mode):
    own = load_processor("tiny").image_processor
    images = [noise([SMALL])[0], noise([SMALL])[0].convert(mode)]
    found, expected = pixels_of(own, images), own(images, return_tensors="pt")
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_prompts_are_the_same_and_the_processor_is_left_as_it_was():
    processor = load_processor("tiny")
    first, second = noise([ODD, SMALL])
    texts = [{"type": "text", "text": "handwritten digit"}]
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": image} for image in images] + texts}]
        for images in ([first, second], [second])
    ]
    asked = {"tokenize": True, "return_dict": True}
    own, expected = processor.image_processor, processor.apply_chat_template(prompts, **asked)
    with looking_up(processor):
        found = processor.apply_chat_template(prompts, **asked)
    assert processor.image_processor is own
    assert found["input_ids"] == expected["input_ids"]
    for name in ("pixel_values", "image_grid_thw"):
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]))
