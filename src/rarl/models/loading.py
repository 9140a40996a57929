"""Loads a model and its processor by folder or by hub name; `tiny` names the embedded base that ships with
the package. For a folder nothing is downloaded, and a folder that is not a model is refused before torch is
imported. This module trains nothing, and imports torch and transformers only when they are needed."""

import ctypes
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


EMBEDDED = "tiny"
BASE_FOLDER = Path(__file__).parent / "tiny_base"
# The processors of these architectures are built here, so that they don't need torchvision, which some CPU
# builds of torch have no match for.
_QWEN_VL = ("qwen2_vl", "qwen2_5_vl")
SMALL_WEIGHTS = 2**23  # bytes, eight times the weights of the embedded model


def check_model(name: str | Path, *, weights: bool = True) -> str:
    """Returns what `from_pretrained` needs for `name`. It is cheap and does not import torch.

    Args:
        name: `tiny`, a folder, or a hub name such as `Qwen/Qwen2.5-VL-3B-Instruct`.
        weights: whether a folder must hold weights; a processor needs none.

    Raises:
        ModelError: if `name` is a folder without a model in it, or neither a folder nor a possible hub name.
    """
    if str(name) == EMBEDDED:
        return str(BASE_FOLDER)
    folder = Path(name)
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file():
            if not any(folder.glob("adapter_model.*")):
                raise ModelError(f"{folder} has an adapter_config.json and no adapter_model.safetensors")
            return str(folder)
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{folder} is not a model folder: it has no config.json. Give the folder of one model, "
                "such as runs/demo/rarl"
            )
        if weights and not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
            raise ModelError(f"{folder} has a config.json and no weights (*.safetensors)")
        return str(folder)
    text = str(name)
    parts = text.split("/")
    # A hub name is "owner/model"; anything else can only have been meant as a path.
    if len(parts) != 2 or not all(parts) or text.startswith((".", "~")) or folder.exists():
        raise ModelError(
            f"no model at '{text}': it is neither a folder nor a hub name such as Qwen/Qwen2.5-VL-3B-Instruct"
        )
    return text


def load_model(
    name: str | Path,
    *,
    training: bool = False,
    dtype: str | None = None,
    attention: str | None = None,
    device: str | None = None,
) -> "PreTrainedModel":
    """Loads the model in eval mode, on the GPU if there is one. An adapter is merged into its base.

    Args:
        name: as in `check_model`.
        training: keep the weights in float32, because bfloat16 loses AdamW's small steps. Otherwise a GPU
            gets bfloat16.
        dtype: of the weights, such as `bfloat16`, whatever `training` says.
        attention: one of transformers' attention implementations; None: its own choice.
        device: where the weights go; None: the GPU if there is one.

    Raises:
        ModelError: if there is no such model, or it is not a vision-language model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = check_model(name)
    gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    kind = torch.bfloat16 if gpu and not training else torch.float32
    if dtype is not None:
        kind = getattr(torch, dtype)
    if (Path(source) / "adapter_config.json").is_file():
        from peft import PeftModel

        named: Any = {"training": training, "dtype": dtype, "attention": attention, "device": device}
        base = load_model(_adapter_base(source), **named)
        return PeftModel.from_pretrained(base, source, torch_device=device).merge_and_unload().eval()
    try:
        config = AutoConfig.from_pretrained(source)
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            raise ModelError(f"{name} is a {config.model_type} model, which reads no images")
        model: Any = AutoModelForImageTextToText.from_pretrained(
            source, config=config, dtype=kind, attn_implementation=attention
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"could not load the model {name}: {_reason(source, error)}") from error
    return model.to(device or ("cuda" if gpu else "cpu")).eval()


def load_processor(name: str | Path) -> "ProcessorMixin":
    """Loads the model's processor: image processor, tokenizer and chat template. It pads on the left.

    Raises:
        ModelError: if it can't be loaded, or needs torchvision and that is not installed.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer

    source = model = check_model(name, weights=False)
    if (Path(source) / "adapter_config.json").is_file():
        model = check_model(_adapter_base(source))
        if not (Path(source) / "tokenizer.json").is_file():
            source = model
    try:
        kind = AutoConfig.from_pretrained(model).model_type
        if kind not in _QWEN_VL:
            if find_spec("torchvision") is None:
                raise ModelError(
                    f"the processor of {name} ({kind}) needs torchvision: pip install torchvision"
                )
            return AutoProcessor.from_pretrained(source, padding_side="left")
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        image_processor = AutoImageProcessor.from_pretrained(source)
        template = tokenizer.chat_template or _chat_template(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"could not load the processor of {name}: {_reason(source, error)}") from error
    from rarl.models.processor import image_text_processor

    return image_text_processor(image_processor, tokenizer, template)


def _chat_template(source: str) -> str:
    """Reads the chat template of a processor that keeps it in a separate file."""
    from transformers.utils import cached_file

    jinja = cached_file(source, "chat_template.jinja", _raise_exceptions_for_missing_entries=False)
    if jinja is not None:
        return Path(jinja).read_text(encoding="utf-8")
    path: Any = cached_file(source, "chat_template.json")
    return json.loads(Path(path).read_text(encoding="utf-8"))["chat_template"]


def _adapter_base(folder: str) -> str:
    return str(json.loads((Path(folder) / "adapter_config.json").read_text())["base_model_name_or_path"])


def _reason(source: str, error: Exception) -> str:
    """Returns the first line of an error. A name that looks like a hub name may have been meant as a
    folder."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if Path(source).is_dir() else f"there is no such folder, and as a hub name: {line}"


def use_one_thread_for(model: str | Path) -> None:
    """Calls `use_one_thread` if the model's weights are as small as those of the embedded model."""
    weights = Path(check_model(model)) / "model.safetensors"
    if weights.is_file() and weights.stat().st_size < SMALL_WEIGHTS:
        use_one_thread()


def use_one_thread() -> None:
    """Runs torch on one thread and one GPU, and keeps freed memory, for the rest of this process.

    A model as small as the embedded one gains nothing from more threads or GPUs, and its sums of floats would
    then depend on the number of cores. Giving freed memory back and taking it anew would cost a tenth of a
    step; only glibc can be told not to.
    """
    import torch

    torch.set_num_threads(1)
    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**30)
