"""The embedded model is a real, small Qwen2.5-VL that plain transformers loads, its tokenizer spells any
text, and a seed makes the same base again, from the images it is given and no others."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from rarl.data.images import open_image
from rarl.method.prompts import messages
from rarl.method.replies import parse, reference_reply
from rarl.method.tasks import DIGITS, Task
from rarl.models.generation.replies import greedy_replies
from rarl.models.loading import load_model, load_processor
from rarl.models.tiny import SPECIAL, build_model, build_processor, build_tokenizer

TOKENIZER = load_processor("tiny").tokenizer


def test_it_is_a_qwen_of_a_third_of_a_million_parameters():
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = load_model("tiny")
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    assert 0.2e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.35e6


def test_the_folder_is_small_and_tells_nothing_of_where_it_was_made(tiny):
    files = sorted(path for path in Path(tiny).rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= 1.5e6
    for path in files:
        assert path.suffix in {".json", ".jinja", ".safetensors"}
        if path.suffix == ".json":
            assert not re.search(r'"/\w+/', path.read_text(encoding="utf-8"))  # an absolute path


def test_plain_transformers_loads_the_folder(tiny):
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    model, report = AutoModelForImageTextToText.from_pretrained(tiny, output_loading_info=True)
    assert not any(report.values())
    tokenizer, image_processor = AutoTokenizer.from_pretrained(tiny), AutoImageProcessor.from_pretrained(tiny)
    assert len(tokenizer) == model.config.text_config.vocab_size
    features = image_processor([Image.new("RGB", (28, 28))], return_tensors="pt")
    assert features["image_grid_thw"].tolist() == [[1, 2, 2]]
    own = load_processor("tiny")
    assert tokenizer.encode("Picture 1: 3.") == own.tokenizer.encode("Picture 1: 3.")


def test_its_config_and_its_tokenizer_agree(tiny):
    config, processor = load_model(tiny).config, load_processor(tiny)
    token = processor.tokenizer.convert_tokens_to_ids
    assert config.image_token_id == processor.image_token_id == token("<|image_pad|>")
    assert config.video_token_id == processor.video_token_id == token("<|video_pad|>")
    assert config.vision_start_token_id == token("<|vision_start|>")
    assert config.text_config.eos_token_id == processor.tokenizer.eos_token_id == token("<|im_end|>")
    assert config.text_config.pad_token_id == processor.tokenizer.pad_token_id == token("<|endoftext|>")
    # mrope_section must sum to half of a head, or transformers splits it wrongly.
    text = config.text_config
    assert sum(text.rope_parameters["mrope_section"]) == text.hidden_size // text.num_attention_heads // 2


def test_the_shipped_processor_is_what_the_code_builds(tiny, tmp_path):
    build_processor(DIGITS).save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (Path(tiny) / path.name).read_bytes(), path.name


# ── tokenizer ────────────────────────────────────────────────────────────────────────────────────────────


def not_special(text):
    return not any(token in text for token in SPECIAL)


@given(st.text().filter(not_special))
@example("")
@example(" \n\t  two  spaces . and a stop ")
@example("Picture 9: Picture 10: \u0661 \u00b2")
@example("é日本🙂\u200d\ufeff")
def test_every_text_comes_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_are_one_token_each_and_no_text():
    for token in SPECIAL:
        ids = TOKENIZER.encode(f"a{token}b", add_special_tokens=False)
        assert ids[1] == TOKENIZER.convert_tokens_to_ids(token)
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == "ab"


@pytest.mark.parametrize("number", range(1, 9))
def test_a_picture_and_its_number_are_one_token(number):
    [token] = TOKENIZER.encode(f"Picture {number}: ", add_special_tokens=False)
    text = f"<think>Picture {number}: 3. Picture {number}: 7.</think>"
    assert TOKENIZER.encode(text, add_special_tokens=False).count(token) == 2


def test_digits_are_never_merged():
    ids = TOKENIZER.encode('"value": 7}, {"image_id": 12, "value": 345', add_special_tokens=False)
    pieces = [TOKENIZER.decode([index]) for index in ids]
    assert [piece for piece in pieces if any(character.isdigit() for character in piece)] == [*"712345"]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_prompts_and_replies_are_short(count, tiny_processor):
    prompt = tiny_processor.apply_chat_template(
        messages(count, DIGITS.rule, DIGITS.value_range), tokenize=False, add_generation_prompt=True
    )
    assert prompt.count("<|image_pad|>") == count
    assert len(TOKENIZER.encode(prompt)) < 30 + 6 * count
    reply = reference_reply([float(i) for i in range(count)], DIGITS.step)
    assert len(TOKENIZER.encode(reply)) < 12 + 7 * count


def test_a_tokenizer_of_another_task_spells_its_values():
    task = Task("stars", "number of stars", low=0, high=5, step=0.5, delta=1)
    tokenizer = build_tokenizer(task, counts=(1, 2))
    reply = reference_reply([4.5, 0.0], task.step)
    assert tokenizer.decode(tokenizer.encode(reply)) == reply


# ── model ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_untrained_model_is_drawn_with_its_seed_and_leaves_the_generator(tiny_processor):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (build_model(tiny_processor, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_an_image_is_one_token_or_four(tiny_processor):
    for side, tokens in ((8, 1), (28, 1), (56, 4)):
        features = tiny_processor.image_processor([Image.new("RGB", (side, side))], return_tensors="pt")
        assert features["image_grid_thw"].prod() == 4 * tokens


def test_the_base_writes_the_format_and_reads_roughly(digits, tiny_processor):
    """Its level is designed: its replies are mostly well-formed, and its values are better than a constant
    but not right."""
    rows = digits.split("validation")[:60]
    prompt = messages(1, DIGITS.rule, DIGITS.value_range)
    texts = greedy_replies(
        load_model("tiny"),
        tiny_processor,
        [prompt] * len(rows),
        [[open_image(row.path)] for row in rows],
        max_new_tokens=40,
        batch_size=30,
    )
    replies = [parse(text) for text in texts]
    assert sum(reply.well_formed for reply in replies) > 0.9 * len(rows)
    values = [(reply.values(1)[0], row.value) for reply, row in zip(replies, rows, strict=True)]
    errors = [abs(value - truth) for value, truth in values if value is not None]
    assert 0.5 < sum(errors) / len(errors) < 2.4  # 2.5 is the error of always answering 4 or 5
