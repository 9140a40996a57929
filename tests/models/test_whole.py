"""Models that each process loads whole, beside a training that spreads its own."""

import os
from types import SimpleNamespace

from transformers.distributed.fsdp import is_fsdp_enabled
from transformers.integrations import deepspeed

from rarl.models.whole import whole_models


def test_neither_fsdp_nor_zero_3_take_a_part_of_the_weights(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    monkeypatch.setattr("transformers.distributed.fsdp._is_torch_distributed_initialized", lambda: True)
    zero = SimpleNamespace(is_zero3=lambda: True)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: zero)

    def spread():
        return is_fsdp_enabled(), deepspeed.is_deepspeed_zero3_enabled()

    assert spread() == (True, True)
    with whole_models():
        assert spread() == (False, False)
    assert spread() == (True, True)
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING")
    with whole_models():
        pass
    assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ
