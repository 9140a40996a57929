"""From a trainer to a folder: which engines are refused, that nothing goes before everything is written, and
what a merged adapter is to the last bit. Trainers are stand-ins; FSDP itself is in
tests/training/test_fsdp.py."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from helpers.training import run_config, same, weights
from rarl.errors import ConfigError, ModelError
from rarl.models.loading import load_model
from rarl.training import arms
from rarl.training.engines.weights import check_engine, check_saving, merge_adapter


def trainer_of(**given):
    known = {"is_fsdp_enabled": False, "is_deepspeed_enabled": False, "is_world_process_zero": lambda: True}
    return SimpleNamespace(**known | given)


def test_nothing_is_removed_before_the_weights_are_there(tmp_path):
    config = run_config(
        tmp_path / "data",
        tmp_path / "run",
        [{"name": "a", "images": [1], "weights": {"ranking": 0}, "max_steps": 1}],
    )
    checkpoint = config.output / "checkpoints/a/checkpoint-1"
    checkpoint.mkdir(parents=True)
    trainer = trainer_of(
        save_model=lambda folder: None,  # as transformers 5.23 under FSDP with SHARDED_STATE_DICT
        processing_class=SimpleNamespace(save_pretrained=lambda folder: None),
        state=SimpleNamespace(log_history=[{"step": 1}]),
        args=SimpleNamespace(device=SimpleNamespace(type="cpu")),
    )
    with pytest.raises(
        ModelError, match=r"could not be written; the checkpoints in .*checkpoints/a are kept"
    ):
        arms._write_model_folder(trainer, "tiny", config.output / "a", config, 1.0)
    assert checkpoint.is_dir()
    assert not (config.output / "a").exists()


@pytest.mark.parametrize(
    ("zero", "refused"),
    [
        ({"stage": 3}, True),
        ({"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}, True),
        ({"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}, False),
        ({"stage": 2}, False),
    ],
)
def test_zero_3_that_keeps_its_weights_is_refused(zero, refused):
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": zero})
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    trainer = trainer_of(is_deepspeed_enabled=True, accelerator=accelerator)
    if not refused:
        check_saving(trainer)
        return
    with pytest.raises(ConfigError, match="zero3_save_16bit_model: true"):
        check_saving(trainer)


def test_a_checkpoint_goes_on_under_its_own_engine(tmp_path):
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    check_engine(trainer_of(), tmp_path)
    plugin = SimpleNamespace(state_dict_type=SimpleNamespace(name="SHARDED_STATE_DICT"))
    spread = trainer_of(
        is_fsdp_enabled=True, accelerator=SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    )
    with pytest.raises(ConfigError, match="by one process or DDP, and this is FSDP with SHARDED_STATE_DICT"):
        check_engine(spread, tmp_path)
    with pytest.raises(ConfigError, match="by one process or DDP, and this is DeepSpeed"):
        check_engine(trainer_of(is_deepspeed_enabled=True), tmp_path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Of three layers, with a scale of 2."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("lora")
    get_peft_model(load_model("tiny"), lora).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_adapter_is_exact_to_the_last_bit(adapter, tmp_path, dtype, monkeypatch):
    kind = getattr(torch, dtype)
    # On a GPU there is the model that trains; a second one would not fit beside it.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    merge_adapter("tiny", adapter, tmp_path, dtype)
    parts = load_file(adapter / "adapter_model.safetensors")
    expected = weights(load_model("tiny", device="cpu"))
    adapted = {key.split(".lora_A")[0] for key in parts if ".lora_A" in key}
    assert len(adapted) > 3
    for name in adapted:
        weight = expected[name.removeprefix("base_model.model.") + ".weight"]
        weight += parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"] * 2
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {kind}
    saved = weights(load_model(tmp_path, device="cpu"))
    assert same(saved, {name: weight.to(kind).float() for name, weight in expected.items()})
