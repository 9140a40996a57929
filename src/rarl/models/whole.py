"""Whole models in a program whose processes train one model together. FSDP and DeepSpeed make transformers
load a part of the weights in each process; here it loads all of them. Nothing is trained with such a
model."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_PARTS = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # with it, only one process reads the weights


@contextmanager
def whole_models() -> Iterator[None]:
    """Inside, each process loads a model as if it were alone, and generates without waiting for the
    others."""
    from transformers.integrations import deepspeed

    given, zero = os.environ.get(_PARTS), deepspeed._hf_deepspeed_config_weak_ref  # transformers 5.23
    os.environ[_PARTS] = "false"
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if given is None:
            del os.environ[_PARTS]
        else:
            os.environ[_PARTS] = given
        deepspeed._hf_deepspeed_config_weak_ref = zero
