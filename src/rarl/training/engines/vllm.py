"""vLLM as it generates for several trainers, one after the other. TRL 1.16 opens an engine, or a connection
to a server, for each trainer and closes none, and it hands over prompts that vLLM expands again. Here the
stages of a run share what the first one opened, and prompts are as vLLM wants them. No response is
scored here."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
import trl.trainer.grpo_trainer as grpo
from trl.generation.vllm_generation import VLLMGeneration

ONE_TOKEN_AN_IMAGE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families for which vLLM expands a single token for each image of a prompt."""

_SETTINGS = (
    *("mode", "server_base_url", "server_host", "server_port", "group_port"),
    *("tensor_parallel_size", "gpu_memory_utilization", "max_model_length"),
    *("enable_sleep_mode", "model_impl", "trust_remote_code"),  # not the model: it gets the policy's weights
)
_PARTS = ("llm", "tp_group", "vllm_client")

_opened: dict[str, Any] = {}
"""What is open in this process: `settings` and the parts. A second one would need a second part of the
GPU."""


class OneVLLM(VLLMGeneration):
    """TRL's VLLMGeneration on the engine or connection that is open, if it has the same settings."""

    def _init_vllm(self) -> None:
        settings = [getattr(self, name) for name in _SETTINGS]
        if _opened.get("settings") != settings:
            close_vllm()
            super()._init_vllm()
            parts = {name: getattr(self, name) for name in _PARTS if hasattr(self, name)}
            _opened.update(parts, settings=settings)
            return
        for name in _PARTS:
            if name in _opened:
                setattr(self, name, _opened[name])
        self._llm_weights_sleeping = self.enable_sleep_mode  # as each generation leaves it
        self.accelerator.wait_for_everyone()

    def generate(
        self, prompts: list[list[int]], images: list[list[Any] | None] | None, *others: Any, **named: Any
    ) -> Any:
        kind = self.accelerator.unwrap_model(self.model).config.model_type
        if self.mode == "colocate" and images is not None and kind in ONE_TOKEN_AN_IMAGE:
            processor: Any = self.processing_class
            token = processor.image_token_id
            prompts = [
                one_token_an_image(ids, token) if shown else ids
                for ids, shown in zip(prompts, images, strict=True)
            ]
        return super().generate(prompts, images, *others, **named)


def one_token_an_image(ids: Sequence[int], image_token: int) -> list[int]:
    """Token ids with one token in place of each run of an image's tokens. vLLM makes as many of it as the
    image has; of a run of them it would do so to the first, and leave the others standing behind."""
    return [each for token, run in groupby(ids) for each in ([token] if token == image_token else run)]


@contextmanager
def one_vllm() -> Iterator[None]:
    """Inside, a GRPOTrainer is made with `OneVLLM`."""
    module: Any = grpo
    before, module.VLLMGeneration = module.VLLMGeneration, OneVLLM
    try:
        yield
    finally:
        module.VLLMGeneration = before


def close_vllm() -> None:
    """Closes what is open, if anything is: the connection to the server, which then takes another; or the
    engine, whose memory goes with its last reference."""
    if (client := _opened.get("vllm_client")) is not None:
        client.close_communicator()
    _opened.clear()
    gc.collect()
    torch.cuda.empty_cache()
