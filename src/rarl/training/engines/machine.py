"""What a run asks of the machine: one GPU for each process, the libraries that it names, and an engine that
can train its weights. It is asked before anything is written. How much memory a run needs is not known
here."""

import os

import torch
from transformers.utils import is_flash_attn_2_available
from trl.import_utils import is_vllm_available

from rarl.errors import ConfigError
from rarl.training.config import RunConfig
from rarl.training.trainer_keys import process_count


def check_machine(config: RunConfig) -> None:
    """Refuses a run that can't be trained here, or not as it was started.

    Raises:
        ConfigError: with what to do instead.
    """
    keys = [config.trainer_for(stage) for stage in config.stages]
    gpus = torch.cuda.device_count()
    if gpus > 1 and process_count() == 1 and not any(given.get("use_cpu") for given in keys):
        raise ConfigError(
            f"{gpus} GPUs are visible to this one process: start one for each with "
            f"`torchrun --nproc_per_node {gpus} -m rarl train CONFIG.yaml`, or choose one GPU with "
            "CUDA_VISIBLE_DEVICES=0"
        )
    if any(given.get("use_vllm") for given in keys) and not is_vllm_available():
        raise ConfigError(
            "trainer.use_vllm: vLLM is not installed: `pip install 'trl[vllm]'`, or remove this key"
        )
    if config.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise ConfigError(
            "attention: flash_attention_2 needs a GPU and `pip install flash-attn`: install it, or make this "
            "sdpa"
        )
    if config.dtype == "bfloat16" and config.lora is None and not _uses_deepspeed(config):
        raise ConfigError(
            "dtype: bfloat16 would lose AdamW's small steps where all weights are trained: make it float32 "
            "(passes are in bfloat16 all the same), add `lora`, or train with DeepSpeed, which keeps float32 "
            "weights beside"
        )


def _uses_deepspeed(config: RunConfig) -> bool:
    """As accelerate and transformers decide it."""
    started = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    return started or bool(config.trainer.given().get("deepspeed"))
