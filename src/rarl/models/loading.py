"""Loads a model and its processor by folder or by hub name; `tiny` names the embedded base that ships with
the package. For a folder nothing is downloaded, and a folder that is not a model is refused before torch is
imported. This module trains nothing, and imports torch and transformers only when they are needed."""

import ctypes
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


EMBEDDED = "tiny"
BASE_FOLDER = Path(__file__).parent / "tiny_base"
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


def load_model(name: str | Path, *, training: bool = False) -> "PreTrainedModel":
    """Loads the model in eval mode, on the GPU if there is one. An adapter is merged into its base.

    Args:
        name: as in `check_model`.
        training: keep the weights in float32, because bfloat16 loses AdamW's small steps. Otherwise a GPU
            gets bfloat16.

    Raises:
        ModelError: if there is no such model, or it is not a vision-language model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = check_model(name)
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu and not training else torch.float32
    if (Path(source) / "adapter_config.json").is_file():
        from peft import PeftModel

        base = load_model(_adapter_base(source), training=training)
        return PeftModel.from_pretrained(base, source).merge_and_unload().eval()
    try:
        config = AutoConfig.from_pretrained(source)
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            raise ModelError(f"{name} is a {config.model_type} model, which reads no images")
        model: Any = AutoModelForImageTextToText.from_pretrained(source, config=config, dtype=dtype)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"could not load the model {name}: {_reason(source, error)}") from error
    return model.to("cuda" if gpu else "cpu").eval()


def load_processor(name: str | Path, pixels: int | None = None) -> "ProcessorMixin":
    """Loads the model's processor: image processor, tokenizer and chat template. It pads on the left.

    Args:
        name: as in `check_model`.
        pixels: the most pixels of an image (`rarl.models.processor.limit_pixels`); None: the processor's own.

    Raises:
        ModelError: if it can't be loaded, or needs torchvision and that is not installed.
        ConfigError: if the model can't take so few pixels.
    """
    from rarl.models.processor import limit_pixels

    processor = _processor(name)
    if pixels is not None:
        limit_pixels(processor, pixels)
    return processor


def _processor(name: str | Path) -> "ProcessorMixin":
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

    from rarl.models.families import FAMILIES, family_processor

    source = model = check_model(name, weights=False)
    if (Path(source) / "adapter_config.json").is_file():
        model = check_model(_adapter_base(source))
        if not (Path(source) / "tokenizer.json").is_file():
            source = model
    try:
        kind = AutoConfig.from_pretrained(model).model_type
        if kind not in FAMILIES:
            if find_spec("torchvision") is None:
                raise ModelError(
                    f"the processor of {name} ({kind}) needs torchvision: pip install torchvision"
                )
            return AutoProcessor.from_pretrained(source, padding_side="left")
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        # Pillow and torchvision differ by rounding: one of them, so that training, evaluation and use agree.
        image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
        options, _ = ProcessorMixin.get_processor_dict(source)
        template = tokenizer.chat_template or options.get("chat_template")
        if template is None:
            raise OSError("it has no chat_template")
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"could not load the processor of {name}: {_reason(source, error)}") from error
    return family_processor(kind, image_processor, tokenizer, template, options)


def _adapter_base(folder: str) -> str:
    return str(json.loads((Path(folder) / "adapter_config.json").read_text())["base_model_name_or_path"])


def _reason(source: str, error: Exception) -> str:
    """Returns the first line of an error. A name that looks like a hub name may have been meant as a
    folder."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if Path(source).is_dir() else f"there is no such folder, and as a hub name: {line}"


def use_one_thread_for(model: str | Path) -> None:
    """Calls `use_one_thread` if the model is small (`is_small`)."""
    if is_small(model):
        use_one_thread()


def is_small(model: str | Path) -> bool:
    """Whether a model's weights are as small as those of the embedded model."""
    weights = Path(check_model(model)) / "model.safetensors"
    return weights.is_file() and weights.stat().st_size < SMALL_WEIGHTS


def use_one_thread() -> None:
    """Runs torch on one thread, and keeps freed memory, for the rest of this process.

    A model as small as the embedded one gains nothing from more threads, and its sums of floats would then
    depend on the number of cores. Giving freed memory back and taking it anew would cost a tenth of a step;
    only glibc can be told not to.
    """
    import torch

    torch.set_num_threads(1)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**30)
