"""Compares the peak memory that `rarl plan` computes with what a CPU is seen to take: short runs of GRPO of a
shrunk Qwen2.5-VL, with all weights and adapters, with and without checkpointing and shared prompts. Each run
has a process of its own. What only a GPU has (bfloat16, DDP's buckets, FSDP) is not measured here.

    python benchmarks/plan_memory.py                    # some minutes; prints a Markdown table
    python benchmarks/plan_memory.py --case "LoRA"      # one case, as a line of JSON
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KEPT = {"activation_checkpointing": False}
CASES: dict[str, dict[str, Any]] = {
    "all weights": {"trainer": KEPT},
    "all weights, two micro-batches": {"trainer": {**KEPT, "gradient_accumulation_steps": 2}},
    "all weights, checkpointing": {"trainer": {"activation_checkpointing": True}},
    "all weights, unshared": {"trainer": {**KEPT, "shared_prefix": "off"}},
    "LoRA": {"trainer": KEPT, "lora": {"r": 16, "alpha": 32}},
    "LoRA, checkpointing": {"trainer": {"activation_checkpointing": True}, "lora": {"r": 16, "alpha": 32}},
}
TRAINER = {"prompts_per_step": 2, "num_generations": 4, "max_completion_length": 128}
SIDE = 224  # pixels; 64 tokens
TEXT = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
}
VISION = {
    "depth": 4,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_heads": 4,
    "out_hidden_size": 384,
    "fullatt_block_indexes": [1, 3],
}


def write_model(folder: Path) -> None:
    """A model of 16 million parameters with random weights, and its processor."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rarl.method.tasks import DIGITS
    from rarl.models.families import family_processor
    from rarl.models.tiny import CHAT_TEMPLATE, build_tokenizer

    tokenizer = build_tokenizer(DIGITS)
    images = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=SIDE**2)
    family_processor("qwen2_5_vl", images, tokenizer, CHAT_TEMPLATE).save_pretrained(folder)
    token = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "eos_token_id": token("<|im_end|>")},
        vision_config=VISION,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def write_images(folder: Path) -> None:
    """A collection of plain squares."""
    import io

    from PIL import Image

    from rarl.data.writing import write_collection
    from rarl.method.tasks import DIGITS

    def entries(split: str) -> list[tuple[str, float, bytes]]:
        found = []
        for value in range(10):
            file = io.BytesIO()
            Image.new("RGB", (SIDE, SIDE), (25 * value,) * 3).save(file, "PNG")
            found.append((f"{split}-{value}", float(value), file.getvalue()))
        return found

    write_collection(folder, DIGITS, {split: entries(split) for split in ("train", "test")})


def run_case(name: str) -> dict[str, Any]:
    """Plans and measures one case in this process; GB."""
    from rich.console import Console

    from rarl.plan.measure import measure
    from rarl.plan.run import plan_run
    from rarl.training.config import config_from

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model")
        write_images(folder / "data")
        case = CASES[name]
        stage = {"name": "rarl", "images": [8], "max_steps": 3}
        config = config_from(
            {
                "task": "digits",
                "model": str(folder / "model"),
                "data": str(folder / "data"),
                "output": str(folder / "run"),
                "stages": [stage],
                "evaluation": {"images": [1], "lists": 1},
                **case,
                "trainer": {**TRAINER, **case["trainer"]},
            },
            name,
        )
        # What a first training loads and keeps is no tensor of the second.
        measure(config.model_copy(update={"model": "tiny"}), Console(quiet=True))
        plan = plan_run(config, cards=1, card=8e9, size=None, gpu=False)
        parts = plan.stages[0].memory["ddp"]
        measured = measure(config, Console(quiet=True))
    return {"case": name, "planned": parts.peak / 1e9, "measured": measured.peak["rarl"] / 1e9, **vars(parts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=CASES)
    case = parser.parse_args().case
    if case is not None:
        print(json.dumps(run_case(case)))
        return
    # Freed memory goes back to the system at once, so that what the process holds is what its tensors take.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    print("| case | planned, GB | measured, GB | planned / measured |\n| --- | ---: | ---: | ---: |")
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        share = row["planned"] / row["measured"]
        print(f"| {name} | {row['planned']:.2f} | {row['measured']:.2f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
