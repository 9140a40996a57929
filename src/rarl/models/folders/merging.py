"""A LoRA adapter and its base as one model folder, which transformers, vLLM and this library load like any
other. It is computed on the CPU in float32, and rounded once to the base's own precision."""

import shutil
from pathlib import Path
from typing import Any

from rarl.files import new_folder
from rarl.models.folders.checking import check_unchanged
from rarl.models.loading import adapter_base, check_model, load_model, load_processor, with_adapter

KEPT = ("task.yaml", "training.json")
"""Files of the adapter's folder that say what it was trained on; they go along."""


def write_merged(base: str | Path, adapter: Path, folder: Path, dtype: Any = None) -> None:
    """Writes the weights of `base` with a LoRA adapter merged into them. The result needs no other folder.

    It is computed on the CPU in float32 and rounded once: what is written depends on no GPU, and one that
    trains holds no second model.

    Args:
        dtype: torch's, of what is written; None: that of the base.

    Raises:
        ModelError: if the two can't be loaded, or don't fit.
    """
    import torch
    from transformers import AutoConfig

    check_unchanged(adapter)
    model = load_model(base, training=True, device="cpu")
    kind = dtype or AutoConfig.from_pretrained(check_model(base)).dtype or torch.float32
    with_adapter(model, str(adapter), adapter, "cpu").to(kind).save_pretrained(folder)


def merge_adapter(adapter: Path, out: Path) -> None:
    """Writes `out`, a model folder with the adapter merged into its base. It needs memory for the whole base
    in float32: 13 GB for 3 billion parameters.

    Raises:
        ModelError: if the adapter, its base, or the base's processor can't be loaded, or they don't fit.
        FileExistsError: if there is an `out`.
    """
    source = adapter_base(adapter)
    processor = load_processor(adapter)
    with new_folder(out) as folder:
        write_merged(source, adapter, folder)
        processor.save_pretrained(folder)
        for name in KEPT:
            if (adapter / name).is_file():
                shutil.copy(adapter / name, folder / name)
