"""Builds the two trainers that `step_cost.py` compares, with the same model, prompts and settings; and a
model with the shape of Qwen2.5-VL-3B and random weights."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

from rarl.data.dataset import to_dataset
from rarl.data.groups import Group
from rarl.method.tasks import DIGITS
from rarl.models.loading import load_model, load_processor
from rarl.models.tiny import IMAGE_SIDE
from rarl.training.trainer import REWARDS, RARLConfig, RARLTrainer

NO_GPU = "--device cuda: torch sees no GPU"
# The shape of Qwen2.5-VL-3B-Instruct, except its special tokens.
TEXT_3B = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION_3B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 2048,
    "tokens_per_second": 2,
}


def build_3b(folder: Path, device: str) -> None:
    """Saves a model of the 3B's shape in `folder`, in bfloat16, with the embedded model's special tokens."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit(NO_GPU)
    token = load_processor("tiny").tokenizer.convert_tokens_to_ids  # type: ignore[attr-defined]
    ends = {"bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")}
    config = Qwen2_5_VLConfig(
        text_config=TEXT_3B | ends,
        vision_config=VISION_3B,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = ends["eos_token_id"]
    model.generation_config.pad_token_id = ends["pad_token_id"]
    model.save_pretrained(folder)


def build_trainer(kind: str, job: dict[str, Any], groups: list[Group], folder: Path) -> GRPOTrainer:
    """Builds the trainer `stock` or `ours`, which trains on `job["prompts"]` of the groups per step."""
    cuda, large = job["device"] == "cuda", job["size"] == "3b"
    count, micro = job["generations"], job["micro_batch"]
    pixels = IMAGE_SIDE**2 * job["tokens"]
    processor: Any = load_processor("tiny")
    processor.image_processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
    settings: dict[str, Any] = {
        "output_dir": str(folder / kind),
        "per_device_train_batch_size": micro * count,
        "gradient_accumulation_steps": job["prompts"] // micro,
        "num_generations": count,
        "max_completion_length": job["new_tokens"],
        "generation_kwargs": {"min_new_tokens": job["new_tokens"]},
        "max_steps": len(groups) // job["prompts"],
        "learning_rate": 1e-6,
        "beta": 0.01,
        "temperature": 1.0,
        "loss_type": "grpo",
        "reward_weights": [1.0] * len(REWARDS),
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": job["dtype"] == "bfloat16",
        "activation_checkpointing": large,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "seed": job["seed"],
    }
    model = load_model(job["model"], training=not large)
    named = {"train_dataset": to_dataset(groups, DIGITS), "processing_class": processor}
    if kind == "ours":
        trainer: GRPOTrainer = RARLTrainer(
            model, list(REWARDS), RARLConfig(**settings, shared_prefix="on"), **named
        )
    else:
        trainer = GRPOTrainer(model, list(REWARDS), GRPOConfig(**settings), **named)
    trainer.remove_callback(PrinterCallback)
    return trainer
