"""Models and processors by name: each mistake that a user may make has a message that helps, and
a processor reads the same after it is saved. With `shared/data` beside the repository, also the real
Qwen2.5-VL's files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers import SHARED_DATA
from rarl.errors import ModelError
from rarl.method.prompts import INSTRUCT, SYSTEM, messages
from rarl.method.tasks import AGE, DIGITS
from rarl.models.loading import (
    BASE_FOLDER,
    check_model,
    load_model,
    load_processor,
    model_digest,
    trained_task,
)
from rarl.yaml_files import yaml_text

QWEN = SHARED_DATA / "qwen2.5-vl-7b"


@pytest.fixture
def folder(tmp_path, tiny):
    """A copy of the embedded model, to be damaged."""
    shutil.copytree(tiny, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A folder with a model that can't read images."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(
        n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter of the embedded model that changes its replies."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        load_model("tiny"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    folder = tmp_path_factory.mktemp("lora")
    model.save_pretrained(folder)
    return folder


def reading(processor, count=2, task=DIGITS):
    """What the model is given for a prompt of this many pictures."""
    text = processor.apply_chat_template(
        messages(count, task.rule, task.value_range), tokenize=False, add_generation_prompt=True
    )
    images = [Image.linear_gradient("L").resize((28, 28)).rotate(90 * i).convert("RGB") for i in range(count)]
    return text, processor(text=[text], images=[images], return_tensors="pt")


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────


def test_tiny_is_the_folder_in_the_package():
    assert Path(check_model("tiny")) == BASE_FOLDER
    assert BASE_FOLDER.is_dir()


def test_a_folder_and_a_hub_name_are_taken_as_they_are(folder, adapter):
    assert check_model(folder) == str(folder)
    assert check_model(adapter) == str(adapter)
    assert check_model("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize(
    "name", ["missing", "./missing", "/missing", "a/b/c", "runs/", "/", "~/model", "../model"]
)
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as error:
        check_model(name)
    if name != "/":
        assert str(error.value) == (
            f"no model at '{name}': it is neither a folder nor a hub name such as Qwen/Qwen2.5-VL-3B-Instruct"
        )


def test_a_file_is_no_model(folder):
    with pytest.raises(ModelError, match="neither a folder nor a hub name"):
        check_model(folder / "config.json")


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path, folder):
    with pytest.raises(ModelError, match=r"is not a model folder: it has no config\.json"):
        check_model(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has a config.json and no weights \(\*.safetensors\)"):
        check_model(folder)


def test_an_adapter_without_its_weights_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"and no adapter_model\.safetensors"):
        check_model(tmp_path)


def test_checking_a_name_imports_no_torch():
    code = "import sys, rarl.models.loading as l; l.check_model('tiny'); print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_eval_mode_and_single_precision_on_the_cpu(training):
    model = load_model("tiny", training=training)
    assert not model.training
    if training or not torch.cuda.is_available():
        assert model.dtype == torch.float32


def test_a_text_model_is_refused(text_model):
    assert check_model(text_model) == str(text_model)  # that much can't be seen without transformers
    with pytest.raises(ModelError, match="is a gpt2 model, which reads no images"):
        load_model(text_model)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "not a valid JSON file"),
        ("config.json", b"{}", "Unrecognized model"),
        ("model.safetensors", b"", "header too small"),
        ("model.safetensors", None, "header"),  # cut in half
    ],
)
def test_a_damaged_model_is_one_line(folder, file, content, message):
    path = folder / file
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ModelError, match=message) as error:
        load_model(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_that_looks_like_a_hub_name_is_said_to_be_no_folder(tmp_path, monkeypatch):
    """`runs/demo` is also a possible hub name; the tests are offline."""
    monkeypatch.chdir(tmp_path)
    for load in (load_model, load_processor):
        with pytest.raises(ModelError, match="runs/demo: there is no such folder, and as a hub name: "):
            load("runs/demo")


def test_a_name_whose_first_part_is_a_folder_is_a_path(tmp_path, monkeypatch):
    """It was mistyped, and is nobody else's business."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelError) as error:
        check_model("runs/dem")
    assert str(error.value) == (
        "no model at 'runs/dem': it was taken for a path, because there is a folder runs, but that has no dem"
    )


def test_an_adapter_is_merged_into_its_base(adapter):
    from transformers import PreTrainedModel

    model, base = load_model(adapter), load_model("tiny")
    assert isinstance(model, PreTrainedModel)
    assert not model.training
    own, other = model.state_dict(), base.state_dict()
    assert own.keys() == other.keys()
    changed = [name for name in own if not torch.equal(own[name], other[name])]
    assert changed
    assert all("q_proj" in name for name in changed)


# ── processors ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_saved_processor_reads_the_same(tiny_processor, folder, tmp_path):
    text, inputs = reading(tiny_processor)
    for again in (load_processor(folder), resaved(tiny_processor, folder, tmp_path / "again")):
        other_text, other = reading(again)
        assert text == other_text
        assert inputs.keys() == other.keys()
        assert all(torch.equal(inputs[name], other[name]) for name in inputs)
        assert again.tokenizer.padding_side == "left"


def resaved(processor, folder, out):
    shutil.copytree(folder, out)
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (out / name).unlink()
    processor.save_pretrained(out)
    return load_processor(out)


def test_the_saved_processor_is_one_that_transformers_knows(tiny_processor, tmp_path):
    """For a class that it doesn't know, AutoProcessor silently gives a tokenizer. With torchvision it must
    give the same processor; without torchvision it can give none."""
    from importlib.util import find_spec

    from transformers import AutoProcessor, Qwen2_5_VLProcessor

    tiny_processor.save_pretrained(tmp_path)
    for name in ("processor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text())["processor_class"] == "Qwen2_5_VLProcessor"
    assert isinstance(tiny_processor, Qwen2_5_VLProcessor)
    if find_spec("torchvision") is None:
        with pytest.raises(ImportError, match="Torchvision"):
            AutoProcessor.from_pretrained(tmp_path)
    else:
        text, inputs = reading(tiny_processor)
        other_text, other = reading(AutoProcessor.from_pretrained(tmp_path))
        assert text == other_text
        assert all(torch.equal(inputs[name], other[name]) for name in inputs)


def test_the_processor_of_an_adapter_is_its_own_or_its_bases(adapter, tiny_processor, tmp_path):
    text, inputs = reading(tiny_processor)
    own = tmp_path / "own"
    shutil.copytree(adapter, own)
    tiny_processor.save_pretrained(own)
    for folder in (adapter, own):
        other_text, other = reading(load_processor(folder))
        assert text == other_text
        assert torch.equal(inputs["input_ids"], other["input_ids"])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "tokenizer"),
        ("processor_config.json", "image processor"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_a_processor_with_a_file_missing_is_one_line(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message) as error:
        load_processor(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_processor_that_needs_torchvision_says_so(text_model, monkeypatch):
    monkeypatch.setattr("rarl.models.loading.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"\(gpt2\) needs torchvision: pip install torchvision"):
        load_processor(text_model)


@pytest.mark.skipif(not QWEN.is_dir(), reason="the files of Qwen2.5-VL are not beside the repository")
def test_the_real_qwen_files_read_the_prompt_of_table_1(tmp_path):
    from safetensors.torch import save_file

    for path in QWEN.iterdir():
        shutil.copy(path, tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")  # there are no weights among them
    processor = load_processor(tmp_path)
    text, inputs = reading(processor, 2, AGE)
    assert SYSTEM in text
    assert INSTRUCT.replace("[Rule]", "facial age").replace("[Value_Range]", "0-116") in text
    assert text.index("Picture 1: ") < text.index("<|image_pad|>") < text.index("Picture 2: ")
    assert text.endswith("<|im_start|>assistant\n")
    ids = inputs["input_ids"][0]
    assert ids.tolist().count(processor.image_token_id) == inputs["image_grid_thw"].prod(dim=1).sum() // 4
    assert inputs["mm_token_type_ids"][0].tolist() == (ids == processor.image_token_id).int().tolist()
    decoded = processor.tokenizer.decode(ids)
    assert decoded.replace("<|image_pad|>", "") == text.replace("<|image_pad|>", "")


def test_the_task_of_a_model(tmp_path):
    assert trained_task("tiny") == DIGITS
    assert trained_task(tmp_path) is None
    assert trained_task("owner/model") is None
    (tmp_path / "task.yaml").write_text(yaml_text(AGE.to_dict()))
    assert trained_task(tmp_path) == AGE


def test_a_digest_tells_models_apart_and_not_where_they_are(tmp_path):
    long = b"1" * 3_000_000
    for name, weights in (("a", long), ("moved", long), ("other", long[1:] + b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    digests = [model_digest(tmp_path / name) for name in ("a", "moved", "other")]
    assert digests[0] == digests[1] != digests[2]
    assert model_digest("owner/model") is None
