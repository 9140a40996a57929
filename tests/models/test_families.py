"""Each family that is known trains, is evaluated and ranks, from random weights, without torchvision; and
what is said of the length of its images and of their limit is what its processor does."""

import io
import json

import pytest
import torch
from PIL import Image
from rich.console import Console

from helpers.families import write_family
from helpers.training import run_config
from rarl.errors import ConfigError
from rarl.method.prompts import messages
from rarl.models.families import FAMILIES
from rarl.models.loading import load_model, load_processor
from rarl.models.processor import image_tokens, limit_pixels, prompt_tokens
from rarl.ranking.ranker import Ranker
from rarl.training.run import train_and_evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_:FutureWarning")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """`family("gemma3")`: the folder of its tiny model."""
    folders = {}

    def folder(kind):
        if kind not in folders:
            folders[kind] = write_family(kind, tmp_path_factory.mktemp(kind))
        return folders[kind]

    return folder


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_trains_is_evaluated_and_ranks(kind, family, few_digits, tmp_path, imported_is_no_garbage):
    digits = few_digits(train=24, validation=10, test=10)
    stage = {"name": "rarl", "images": [1, 2], "max_steps": 2, "mutation": {"k": 1, "probability": 1.0}}
    config = run_config(
        digits.root,
        tmp_path / "run",
        [stage],
        trainer={"prompts_per_step": 1, "num_generations": 2, "max_completion_length": 64},
        model=str(family(kind)),
        pixels=784,
        sft={"max_steps": 1},
        evaluation={"images": [1, 2], "lists": 2, "position_lists": 0, "max_new_tokens": 2},
    )
    metrics = train_and_evaluate(config, resume=False, console=Console(file=io.StringIO()))
    assert set(metrics["arms"]) == {"base", "sft", "rarl"}
    assert all(arm["tau2"]["n"] == 2 for arm in metrics["arms"].values())
    lines = [json.loads(line) for line in (tmp_path / "run/rarl/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in lines if "loss" in line)
    saved = load_processor(tmp_path / "run" / "rarl")
    limited = load_processor(family(kind), 784)
    assert image_tokens(saved, 640, 480) == image_tokens(limited, 640, 480)
    ranker = Ranker(tmp_path / "run" / "rarl", digits.task, max_new_tokens=2)
    images = [row.path for row in digits.split("test")[:2]]
    assert sorted(str(entry.image) for entry in ranker.rank(images)) == sorted(map(str, images))


def read(processor, *images):
    """What the model is given for a prompt of these images."""
    text = processor.apply_chat_template(
        [messages(len(images), "age", "0-9")], tokenize=False, add_generation_prompt=True
    )
    return processor(text=text, images=[list(images)], return_tensors="pt")


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_model_sees_the_image(kind, family):
    processor, model = load_processor(family(kind)), load_model(family(kind))
    black, white = (read(processor, Image.new("RGB", (40, 30), colour)) for colour in ("black", "white"))
    # Without them transformers 5.23 silently drops Qwen's 3-D positions, and Gemma's view of whole images.
    wanted = {"gemma3": "token_type_ids"}
    wanted |= dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "mm_token_type_ids")
    assert kind not in wanted or black[wanted[kind]].any()
    with torch.inference_mode():
        assert (model(**black).logits[0, -1] - model(**white).logits[0, -1]).abs().max() > 1e-5


SIZES = [(28, 28), (56, 56), (200, 50), (30, 300), (1, 90), (640, 480)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_tokens_told_without_an_image_are_those_of_the_processor(kind, family):
    processor = load_processor(family(kind))
    for limit in (None, 2 * 784, 784):
        if limit:
            limit_pixels(processor, limit)
        for size in SIZES:
            tokens = image_tokens(processor, *size)
            made = len(read(processor, Image.new("RGB", size))["input_ids"][0])
            assert made == prompt_tokens(processor, "age", "0-9", 1) + tokens, (size, limit)


# Of a photo of 640 x 480: without a limit, of two units of 784 pixels, of one.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # A token is 28 x 28 pixels, and 4 at most: in this shape 65 x 48, 46 x 34 and 32 x 24, rounded down.
        ("qwen2_5_vl", (2 * 1, 1, 1)),
        ("qwen3_vl", (2 * 1, 1, 1)),
        # Squares of 28: the longer side is 56, so 2 x 2 of 3 tokens, two lines, two more, and the whole of 4.
        ("smolvlm", (2 * (2 * 3 + 1) + 1 + 4, 4, 4)),
        (
            "internvl",
            (4 + 1 + 2, 1 + 2, 1 + 2),
        ),  # 2 x 2 tiles and the whole; its shape is nearer to 1 x 1 than to 2 x 1
        ("gemma3", (1 + 2 + 4, 1 + 2 + 4, 1 + 2 + 4)),  # the line ends are single tokens here
    ],
)
def test_tokens_of_a_photo_by_hand(kind, expected, family):
    processor = load_processor(family(kind))
    found = [image_tokens(processor, 640, 480)]
    for limit in (2 * 784, 784):
        limit_pixels(processor, limit)
        found.append(image_tokens(processor, 640, 480))
    assert tuple(found) == expected


def test_a_limit_is_saved_with_the_processor(family, tmp_path):
    for kind in ("qwen2_5_vl", "smolvlm", "internvl"):
        processor = load_processor(family(kind))
        limit_pixels(processor, 784)
        processor.save_pretrained(tmp_path / kind)
        (tmp_path / kind / "config.json").write_text((family(kind) / "config.json").read_text())
        again = load_processor(tmp_path / kind)
        assert image_tokens(again, 640, 480) == image_tokens(processor, 640, 480)
        assert image_tokens(again, 640, 480) < image_tokens(load_processor(family(kind)), 640, 480)


def test_a_limit_raises_no_length_and_below_the_least_of_the_model_is_refused(family):
    processor = load_processor(family("qwen2_5_vl"))
    before = image_tokens(processor, 640, 480)
    limit_pixels(processor, 10**9)
    assert image_tokens(processor, 640, 480) == before
    with pytest.raises(ConfigError, match="pixels: must be at least 784"):
        limit_pixels(processor, 783)
