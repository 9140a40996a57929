"""What a run asks of the machine, with machines that are made up. Nothing may be written before the
answer."""

import io
import os

import pytest
import torch
from rich.console import Console

from helpers import ROOT
from helpers.training import run_config
from rarl.errors import ConfigError
from rarl.models.machine import use_one_thread
from rarl.training.engines import machine
from rarl.training.engines.machine import check_machine
from rarl.training.run import train_and_evaluate

STAGES = [{"name": "a", "images": [1], "weights": {"ranking": 0}, "max_steps": 1}]


def test_several_gpus_and_one_process_are_told_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    config = run_config(None, tmp_path / "run", STAGES)
    with pytest.raises(ConfigError, match=r"4 GPUs are visible.*`torchrun --nproc_per_node 4 -m rarl train"):
        train_and_evaluate(config, resume=False, console=Console(file=io.StringIO()))
    assert not config.output.exists()
    check_machine(run_config(None, tmp_path / "run", STAGES, {"use_cpu": True}))
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_machine(config)


def test_a_small_model_takes_one_gpu_of_several(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    use_one_thread()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    monkeypatch.delenv("WORLD_SIZE")
    use_one_thread()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


REFUSED = [
    (
        {"trainer": {"use_vllm": True}},
        r"trainer.use_vllm: vLLM is not installed: `pip install 'trl\[vllm\]'`",
    ),
    ({"stages": [{**STAGES[0], "trainer": {"use_vllm": True}}]}, "trainer.use_vllm"),
    (
        {"attention": "flash_attention_2"},
        "attention: flash_attention_2 needs a GPU and `pip install flash-attn`",
    ),
    ({"dtype": "bfloat16"}, "dtype: bfloat16 would lose AdamW's small steps"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_missing_is_said(tmp_path, changes, message):
    config = run_config(None, tmp_path / "run", **({"stages": STAGES} | changes))
    with pytest.raises(ConfigError, match=message):
        check_machine(config)


def test_what_is_there_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "is_vllm_available", lambda: True)
    monkeypatch.setattr(machine, "is_flash_attn_2_available", lambda: True)
    for changes, _ in REFUSED[:3]:
        check_machine(run_config(None, tmp_path / "run", **({"stages": STAGES} | changes)))
    check_machine(run_config(None, tmp_path / "run", STAGES, dtype="bfloat16", lora={"r": 2}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check_machine(run_config(None, tmp_path / "run", STAGES, dtype="bfloat16"))


ENGINES = [  # file -> what the run depends on
    ("fsdp2", "FSDP", "fsdp_config", {"fsdp_version": 2, "fsdp_state_dict_type": "SHARDED_STATE_DICT"}),
    ("zero2", "DEEPSPEED", "deepspeed_config", {"zero_stage": 2, "zero3_init_flag": False}),
    ("zero3", "DEEPSPEED", "deepspeed_config", {"zero_stage": 3, "zero3_save_16bit_model": True}),
]


@pytest.mark.parametrize(("name", "kind", "section", "keys"), ENGINES)
def test_accelerate_reads_the_configurations_that_ship(name, kind, section, keys):
    from accelerate.commands.config.config_args import load_config_from_file

    file = ROOT / "configs/accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.distributed_type == kind
    assert config.mixed_precision == "bf16"
    assert getattr(config, section).items() >= keys.items()
    assert f"accelerate/{name}.yaml" in (ROOT / "configs/README.md").read_text(encoding="utf-8")
