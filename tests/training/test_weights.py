"""From a trainer to a folder: which engines are refused, and that nothing goes before everything is written.
Trainers are stand-ins; FSDP itself is in test_fsdp.py."""

from types import SimpleNamespace

import pytest

from helpers.training import run_config
from rarl.errors import ConfigError, ModelError
from rarl.training import arms
from rarl.training.weights import check_engine, check_saving


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
    accelerator = SimpleNamespace(deepspeed_config={"zero_optimization": zero})
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
