"""Model folders of strangers: no code of theirs is run, and whatever is wrong with one is one sentence. These
are a few of the folders of `reliability/strangers.py`; `reliability/run.py` has them all."""

import importlib
import sys

import pytest
from PIL import Image

from helpers import ROOT
from rarl.errors import ModelError
from rarl.method.tasks import DIGITS
from rarl.ranking.ranker import Ranker


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """`stranger("config: cut")`: that folder of `reliability/strangers.py`."""
    monkeypatch.syspath_prepend(ROOT / "reliability")
    return lambda name: importlib.import_module("strangers").stranger(name, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "code: a model of its own",
            "it brings code of its own; if you trust its author, --trust-remote-code",
        ),
        ("code: weights as a pickle", "Weights only load failed"),
        ("code: attention from the hub", "is 'somebody/their-kernel', a kernel to be fetched and run"),
        (
            "weights: those of a layer missing",
            r"lacks weights: \S+layers\.1\.input_layernorm\.weight, .* 9 more",
        ),
        (
            "weights: one of another shape",
            r"have other shapes than its config\.json says: \S+q_proj\.weight$",
        ),
        ("config: a billion layers", r"text_config\.num_hidden_layers is 1000000000, which no model has"),
        ("shapes: an intermediate size of 10^8", "a far larger model than that of the weights beside it"),
        ("shapes: windows of nothing", "the model can't reply: ZeroDivisionError"),
        ("quantization: of no known method", "quantized in a way that transformers doesn't know"),
        ("images: a million pixels for each", r"makes [\d,]+ tokens of 64 x 64 pixels"),
        ("tokenizer: missing, of a class that can be empty", r"has no tokenizer\.json"),
        ("template: out of the sandbox", "SecurityError: access to attribute '__class__'"),
        ("template: a text of 10^11", "does not come to an end"),
        ("adapter: half of its weights", r"are not those that its adapter_config\.json describes: \S+lora_B"),
        ("adapter: its own base", "is an adapter itself"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(name, said, stranger):
    folder = stranger(name)
    picture = Image.linear_gradient("L").resize((28, 28))
    with pytest.raises(ModelError, match=said) as error:
        Ranker(folder, DIGITS, max_new_tokens=4).score([picture])
    assert "\n" not in str(error.value)
    assert not (folder / "RAN").exists()


def test_code_in_a_folder_that_can_be_read_without_it_is_not_run(stranger):
    folder = stranger("code: a tokenizer of its own")
    Ranker(folder, DIGITS)
    assert not (folder / "RAN").exists()


def test_code_is_run_where_that_is_asked_for(stranger, monkeypatch, tmp_path):
    """The code in this folder leaves a mark, and defines no model."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = stranger("code: a model of its own")
    with pytest.raises(ModelError, match="has no attribute 'Config'"):
        Ranker(folder, DIGITS, trust_remote_code=True)
    assert (folder / "RAN").exists()
