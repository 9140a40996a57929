"""A model and its processor, by folder or by hub name. `tiny` names the embedded base that ships with the
package. Nothing is downloaded for a folder, and a folder that is no model is refused before torch is
imported."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


EMBEDDED = "tiny"
BASE_FOLDER = Path(__file__).parent / "tiny_base"
# The architectures whose processor is built here, for it needs no torchvision then (which not every CPU build
# of torch has one for).
_QWEN_VL = ("qwen2_vl", "qwen2_5_vl")


def check_model(name: str | Path, *, weights: bool = True) -> str:
    """What `from_pretrained` is to be given for `name`: cheap, without importing torch.

    Args:
        name: `tiny`, a folder, or a hub name such as `Qwen/Qwen2.5-VL-3B-Instruct`.
        weights: whether a folder must have them; a processor has none.

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
    """The model in eval mode, on the GPU where there is one; an adapter is merged into its base.

    Args:
        name: as in `check_model`.
        training: weights in float32, for AdamW's small steps are lost in bfloat16; otherwise bfloat16 on a
            GPU.

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


def load_processor(name: str | Path) -> "ProcessorMixin":
    """The processor (image processor, tokenizer, chat template) that belongs to the model; pads on the left.

    Raises:
        ModelError: if it can't be loaded, or needs torchvision where there is none.
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
    """The chat template of a processor that keeps it in a file of its own."""
    from transformers.utils import cached_file

    jinja = cached_file(source, "chat_template.jinja", _raise_exceptions_for_missing_entries=False)
    if jinja is not None:
        return Path(jinja).read_text(encoding="utf-8")
    path: Any = cached_file(source, "chat_template.json")
    return json.loads(Path(path).read_text(encoding="utf-8"))["chat_template"]


def _adapter_base(folder: str) -> str:
    return str(json.loads((Path(folder) / "adapter_config.json").read_text())["base_model_name_or_path"])


def _reason(source: str, error: Exception) -> str:
    """The first line of an error. What was meant as a folder may look like a hub name."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if Path(source).is_dir() else f"there is no such folder, and as a hub name: {line}"
