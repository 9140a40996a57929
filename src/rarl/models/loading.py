"""Loads a model and its processor by folder or by hub name; `tiny` names the embedded base that ships with
the package. For a folder nothing is downloaded, and a folder that is not a model is refused before torch is
imported. It may be a stranger's: no code of its is run unless that is asked for, and whatever is wrong with
it is one sentence (`folders`). This module trains nothing, and imports torch and transformers
only when they are needed."""

import hashlib
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rarl.data.collection import TASK_FILE
from rarl.errors import ModelError, RarlError
from rarl.method.prompts import messages
from rarl.method.tasks import DIGITS, Task
from rarl.models.folders.checking import (
    ADAPTER,
    check_adapter,
    check_folder,
    check_template,
    check_tokenizer,
    check_unchanged,
    in_one_sentence,
    settings_of,
    some,
    stored_weights,
)
from rarl.models.machine import memory_for, use_one_thread
from rarl.yaml_files import read_yaml_mapping

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


EMBEDDED = "tiny"
BASE_FOLDER = Path(__file__).parent / "tiny_base"
_HASHED = 2**20  # bytes at either end of a file of weights
SMALL_WEIGHTS = 2**23  # bytes, eight times the weights of the embedded model
_MOST_IMAGE_TOKENS = 2**16  # of a picture of 64 x 64 pixels


def check_model(name: str | Path, *, weights: bool = True) -> str:
    """Returns what `from_pretrained` needs for `name`. It is cheap and does not import torch.

    Args:
        name: `tiny`, a folder, or a hub name such as `Qwen/Qwen2.5-VL-3B-Instruct`.
        weights: whether a folder must hold weights; a processor needs none.

    Raises:
        ModelError: if `name` is a folder without a model in it, or neither a folder nor a possible hub name.
            A name whose first part is a folder here is a path.
    """
    if str(name) == EMBEDDED:
        return str(BASE_FOLDER)
    folder = Path(name)
    if folder.is_dir():
        check_folder(folder)
        if (folder / ADAPTER).is_file():
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
    if folder.parent.is_dir():
        raise ModelError(
            f"no model at '{text}': it was taken for a path, because there is a folder {folder.parent}, but "
            f"that has no {folder.name}"
        )
    return text


def load_model(
    name: str | Path,
    *,
    training: bool = False,
    dtype: str | None = None,
    attention: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """Loads the model in eval mode, on the GPU if there is one. An adapter is merged into its base.

    Args:
        name: as in `check_model`.
        training: keep the weights in float32, because bfloat16 loses AdamW's small steps. Otherwise a GPU
            gets bfloat16.
        dtype: of the weights, such as `bfloat16`, whatever `training` says.
        attention: one of transformers' attention implementations; None: its own choice.
        device: where the weights go; None: the GPU if there is one.
        trust_remote_code: whether a model may bring code of its own, which is then run.

    Raises:
        ModelError: if there is no such model, it lacks weights, it is not a vision-language model, or the
            GPU's memory is too small for it.
    """
    import torch

    source = check_model(name)
    gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    kind = torch.bfloat16 if gpu and not training else torch.float32
    if dtype is not None:
        kind = getattr(torch, dtype)
    check_unchanged(Path(source))
    if (Path(source) / ADAPTER).is_file():
        base = adapter_base(source)
        if (Path(base) / ADAPTER).is_file():
            raise ModelError(f"the base of the adapter {name} is an adapter itself: merge {base} first")
        model: Any = load_model(
            base,
            training=training,
            dtype=dtype,
            attention=attention,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        return with_adapter(model, source, name, device)
    with in_one_sentence(f"the model {name}", source), memory_for(f"the model {name}"):
        model = _whole_model(source, name, kind, attention, trust_remote_code)
        return model.to(device or ("cuda" if gpu else "cpu")).eval()


def _whole_model(source: str, name: str | Path, dtype: Any, attention: str | None, trusted: bool) -> Any:
    """The model with all its weights.

    transformers 5.23 draws weights at random where a file has none, and says so only in a log.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
    brought = trusted and AutoModelForImageTextToText.__name__ in (getattr(config, "auto_map", None) or {})
    if type(config) not in AutoModelForImageTextToText._model_mapping and not brought:
        raise ModelError(f"{name} is a {config.model_type} model, which reads no images")
    if not brought:
        _check_size(Path(source), config)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        source,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        trust_remote_code=trusted,
        ignore_mismatched_sizes=True,  # found below, with their names
        output_loading_info=True,
    )
    model, report = loaded
    if getattr(config, "quantization_config", None) is not None and not getattr(model, "hf_quantizer", None):
        raise ModelError(f"the model {name} is quantized in a way that transformers doesn't know")
    if missing := report["missing_keys"]:
        raise ModelError(f"the model {name} lacks weights: {some(missing)}; was its folder copied whole?")
    if wrong := report["mismatched_keys"]:
        raise ModelError(
            f"weights of the model {name} have other shapes than its config.json says: "
            f"{some([entry[0] for entry in wrong])}"
        )
    return model


def _check_size(folder: Path, config: Any) -> None:
    """Refuses a config that describes a far larger model than there are weights for: room for them would be
    taken before they are missed."""
    import torch
    from torch.nn.modules.module import register_module_module_registration_hook
    from transformers import AutoModelForImageTextToText

    stored = stored_weights(folder) if folder.is_dir() else None
    if stored is None or getattr(config, "quantization_config", None) is not None:
        return
    too_large = ModelError(
        f"{folder / 'config.json'} describes a far larger model than that of the weights beside it"
    )
    modules = 0

    def count(*registered: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > 10 * stored.tensors + 1000:
            raise too_large

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except ModelError:
        raise
    except Exception:
        return  # whatever is wrong with it is said when it is loaded
    finally:
        hook.remove()
    numbers = sum(tensor.numel() for tensor in [*empty.parameters(), *empty.buffers()])
    if numbers > 2 * stored.numbers + 2**24:  # weights may be tied, and buffers are not stored
        raise too_large


def with_adapter(base: Any, source: str, name: str | Path, device: str | None) -> Any:
    """The base with the weights of a LoRA adapter merged in.

    PEFT 0.21 leaves those out that a file lacks, and says so only in a warning.

    Args:
        source: the adapter's folder; `name` is what errors call it.

    Raises:
        ModelError: if it is no adapter of this base, or damaged.
    """
    import warnings

    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    check_adapter(Path(source), [module for module, _ in base.named_modules()])
    with in_one_sentence(f"the adapter {name}", source), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # they are an error below
        model = PeftModel.from_pretrained(base, source, torch_device=device)
        # Embeddings are left out: to find whether they were saved, PEFT would ask the hub for the base.
        wanted = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
        there = load_peft_weights(source, device="cpu").keys()
        if wrong := {*(wanted - there), *(key for key in there - wanted if "lora_" in key)}:
            raise ModelError(
                f"the weights of the adapter {name} are not those that its {ADAPTER} describes: {some(wrong)}"
            )
        return model.merge_and_unload().eval()


def load_processor(
    name: str | Path, pixels: int | None = None, *, trust_remote_code: bool = False
) -> "ProcessorMixin":
    """Loads the model's processor: image processor, tokenizer and chat template. It pads on the left.

    Args:
        name: as in `check_model`.
        pixels: the most pixels of an image (`rarl.models.processor.limit_pixels`); None: the processor's own.
        trust_remote_code: as in `load_model`.

    Raises:
        ModelError: if it can't be loaded, makes no prompts, or needs torchvision and that is not installed.
        ConfigError: if the model can't take so few pixels.
    """
    from rarl.models.processor import limit_pixels

    source = check_model(name, weights=False)
    check_unchanged(Path(source), weights=False)
    processor = _processor(name, trust_remote_code)
    _check_processor(processor, name, source)
    if pixels is not None:
        limit_pixels(processor, pixels)
    return processor


def _processor(name: str | Path, trusted: bool) -> "ProcessorMixin":
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

    from rarl.models.families import FAMILIES, family_processor

    source = model = check_model(name, weights=False)
    if (Path(source) / ADAPTER).is_file():
        model = check_model(adapter_base(source))
        if not (Path(source) / "tokenizer.json").is_file():
            source = model
    with in_one_sentence(f"the processor of {name}", source):
        kind = AutoConfig.from_pretrained(model, trust_remote_code=trusted).model_type
        if kind not in FAMILIES and find_spec("torchvision") is None:
            raise ModelError(f"the processor of {name} ({kind}) needs torchvision: pip install torchvision")
        check_tokenizer(Path(source))
        if kind not in FAMILIES:
            return AutoProcessor.from_pretrained(source, padding_side="left", trust_remote_code=trusted)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=trusted)
        # Pillow and torchvision differ by rounding: one of them, so that training, evaluation and use agree.
        image_processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=trusted)
        options, _ = ProcessorMixin.get_processor_dict(source)
        template = tokenizer.chat_template or options.get("chat_template")
        if template is None:
            raise OSError("it has no chat template (chat_template.jinja)")
        return family_processor(kind, image_processor, tokenizer, template, options)


def _check_processor(processor: Any, name: str | Path, source: str) -> None:
    """Makes a prompt, and asks for the tokens of a small picture: a processor that can't, or for which that
    has no end, is found before anything runs."""
    from rarl.models.processor import image_tokens

    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and template != _embedded_template():
        check_template(template, str(name))
        with in_one_sentence(f"the chat template of {name}", source):
            processor.apply_chat_template(
                [messages(1, "x", "0-1")], tokenize=False, add_generation_prompt=True
            )
    with in_one_sentence(f"the image processor of {name}", source):
        try:
            tokens = image_tokens(processor, 64, 64)
        except RarlError:  # it can't say, or takes no such picture; neither is a fault
            return
        if tokens > _MOST_IMAGE_TOKENS:
            raise ModelError(f"the image processor of {name} makes {tokens:,} tokens of 64 x 64 pixels")


@lru_cache
def _embedded_template() -> str:
    return (BASE_FOLDER / "chat_template.jinja").read_text(encoding="utf-8")


def adapter_base(folder: str | Path) -> str:
    """The folder or hub name of the model that an adapter belongs to.

    Raises:
        ModelError: if the folder holds no adapter, or one that does not name its base.
    """
    if not (Path(folder) / ADAPTER).is_file():
        raise ModelError(f"{folder} is no adapter: it has no {ADAPTER}")
    base = settings_of(Path(folder) / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str):
        raise ModelError(f"{Path(folder) / ADAPTER} names no base_model_name_or_path")
    try:
        return check_model(base)
    except ModelError as error:
        raise ModelError(f"the base of the adapter {folder}: {error}") from error


def trained_task(name: str | Path) -> Task | None:
    """The task that a model was trained on, as its folder says; None if it doesn't say. That of `tiny` are
    the digits.

    Raises:
        ConfigError: if what the folder has is no task.
    """
    path = Path(name) / TASK_FILE
    if path.is_file():
        return Task.from_dict(read_yaml_mapping(path), str(path))
    return DIGITS if str(name) == EMBEDDED else None


def model_digest(name: str | Path) -> str | None:
    """A hash that tells a model folder from another, also after it was moved: of its configuration, and of
    the size, the beginning and the end of each file of weights. None for the name of a model on the hub.

    Raises:
        ModelError: as `check_model`.
    """
    folder = Path(check_model(name))
    if not folder.is_dir():
        return None
    found = hashlib.sha256()
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    for path in [*sorted(folder.glob("*config.json")), *weights]:
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            found.update(file.read(_HASHED))
            if size > 2 * _HASHED:
                file.seek(-_HASHED, os.SEEK_END)
            found.update(file.read(_HASHED))
    return found.hexdigest()[:16]


def use_one_thread_for(model: str | Path) -> None:
    """Calls `use_one_thread` if the model is small (`is_small`)."""
    if is_small(model):
        use_one_thread()


def is_small(model: str | Path) -> bool:
    """Whether a model's weights are as small as those of the embedded model."""
    weights = Path(check_model(model)) / "model.safetensors"
    return weights.is_file() and weights.stat().st_size < SMALL_WEIGHTS
