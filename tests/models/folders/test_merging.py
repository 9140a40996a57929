"""An adapter merged into its base is W + scale * B A, rounded once to the base's precision, and a folder that
loads without either; or an error that says what is no adapter."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from rarl.cli import main
from rarl.errors import ModelError
from rarl.models.folders.merging import adapter_base, merge_adapter
from rarl.models.loading import load_model, load_processor

ALPHA, RANK = 6, 4


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """An adapter on a base in bfloat16, and the weights that base and adapter make together."""
    root = tmp_path_factory.mktemp("adapter")
    load_model("tiny").to(torch.bfloat16).save_pretrained(root / "base")
    load_processor("tiny").save_pretrained(root / "base")
    base = load_model(root / "base", training=True)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    tuned: Any = get_peft_model(base, config)
    torch.manual_seed(0)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    tuned.save_pretrained(root / "adapter")
    (root / "adapter" / "task.yaml").write_text("name: digits")
    state = tuned.state_dict()
    for name in [name for name in state if "lora_A" in name]:
        a, b = state[name], state[name.replace("lora_A", "lora_B")]
        before[name.removeprefix("base_model.model.").replace(".lora_A.default", "")] += (
            b @ a * (ALPHA / RANK)
        )
    return root / "adapter", {name: weight.to(torch.bfloat16) for name, weight in before.items()}


def test_the_merged_weights(
    adapter: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, wanted = adapter
    with pytest.raises(SystemExit) as leaving:
        main(["merge", str(folder), str(tmp_path / "merged")])
    assert not leaving.value.code
    assert capsys.readouterr().out == f"wrote {tmp_path / 'merged'}\n"
    saved = load_file(tmp_path / "merged" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    whole = load_model(tmp_path / "merged", training=True).state_dict()
    assert whole.keys() == wanted.keys()
    assert all(torch.equal(whole[name], wanted[name].float()) for name in wanted)
    assert (
        load_processor(tmp_path / "merged").tokenizer.eos_token == load_processor("tiny").tokenizer.eos_token
    )  # type: ignore[attr-defined]
    assert (tmp_path / "merged" / "task.yaml").read_text() == "name: digits"
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "is no adapter"),
        ("{", "not a valid JSON file"),
        ("{}", "names no base_model_name_or_path"),
        ('{"base_model_name_or_path": null}', "names no base_model_name_or_path"),
        ('{"base_model_name_or_path": "./gone"}', "no model at './gone'"),
    ],
)
def test_what_is_no_adapter(tmp_path: Path, config: str | None, said: str) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError, match=said):
        adapter_base(tmp_path)


def test_nothing_is_left_where_the_adapter_does_not_fit(
    adapter: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    config = json.loads((adapter[0] / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps({**config, "r": RANK + 1}))
    (broken / "adapter_model.safetensors").write_bytes(
        (adapter[0] / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="could not load the adapter"):
        merge_adapter(broken, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_an_adapter_that_lacks_a_matrix_is_not_merged(
    adapter: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """It would be merged as if that were zero."""
    broken = tmp_path / "broken"
    shutil.copytree(adapter[0], broken)
    weights = load_file(broken / "adapter_model.safetensors")
    del weights[next(name for name in weights if "lora_B" in name)]
    save_file(weights, broken / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="are not those that its adapter_config"):
        merge_adapter(broken, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
