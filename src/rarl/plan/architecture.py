"""The sizes of a vision-language model that a plan needs: parameters, layers and widths. They are read off a
model without weights, which transformers makes of the config: that of a folder, of the hub's cache, or one
that ships in `known.json`. No weight is read or downloaded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rarl.errors import ModelError
from rarl.models.loading import check_model

KNOWN = Path(__file__).with_name("known.json")
SHARED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The families whose groups share a prompt, see `rarl.shared_prefix`."""


@dataclass(frozen=True)
class Blocks:
    """Transformer layers of one kind, of the language model or of the vision tower.

    Attributes:
        number: of layers.
        hidden: the width of a token, or of a patch.
        queries, keys: the width of all heads of queries, and of all heads of keys.
        inner: the width inside the feed-forward part.
    """

    number: int
    hidden: int
    queries: int
    keys: int
    inner: int


@dataclass(frozen=True)
class Architecture:
    """A model's sizes.

    Attributes:
        family: its `model_type`.
        parameters: of the whole model, tied ones once.
        layer_parameters: of one layer of the language model.
        vocabulary: the rows of the head, tokens without a name included.
        patches: of an image in the vision tower, for each of its tokens in the prompt.
        patch_values: the numbers that the processor makes of one patch.
        linear: inputs and outputs of each linear layer by its name, the head's left out: adapters go there.
    """

    family: str
    text: Blocks
    vision: Blocks
    parameters: int
    layer_parameters: int
    vocabulary: int
    patches: float
    patch_values: int
    linear: dict[str, tuple[int, int]]

    @property
    def shares_prompts(self) -> bool:
        """Whether the responses of a group share one prompt pass."""
        return self.family in SHARED

    def adapter_parameters(self, rank: int, targets: str | Sequence[str]) -> int:
        """The parameters of LoRA with this rank, on `all-linear` layers or those with one of these names."""
        return sum(
            rank * (inputs + outputs)
            for name, (inputs, outputs) in self.linear.items()
            if targets == "all-linear" or name.rpartition(".")[2] in targets
        )


@cache
def known_models() -> dict[str, Any]:
    """What ships of models of the hub, by their names there."""
    known: dict[str, Any] = json.loads(KNOWN.read_text(encoding="utf-8"))
    return known


@cache
def architecture_of(model: str) -> Architecture:
    """The sizes of the model of that name or folder; an adapter counts as its base.

    Raises:
        ModelError: if its config can't be read, or it is no vision-language model.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    config = model_config(model)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ModelError(f"{model} is a {config.model_type} model, which reads no images")
    with torch.device("meta"):
        empty: Any = AutoModelForImageTextToText.from_config(config)
    head = empty.get_output_embeddings()
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in empty.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    layers = next(module.layers for module in empty.modules() if _is_decoder(module))
    return Architecture(
        family=config.model_type,
        text=_blocks(config.get_text_config()),
        vision=_blocks(config.vision_config),
        parameters=sum(weight.numel() for weight in empty.parameters()),
        layer_parameters=sum(weight.numel() for weight in layers[0].parameters()),
        vocabulary=config.get_text_config().vocab_size,
        patches=_patches_of_a_token(config),
        patch_values=_patch_values(config.vision_config),
        linear=linear,
    )


def model_config(model: str) -> Any:
    """The model's config. That of a folder is read there, and one that ships is not looked for on the hub.

    Raises:
        ModelError: if it can't be read.
    """
    from transformers import AutoConfig

    if model in known_models():
        fields = dict(known_models()[model]["config"])
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    source = check_model(model, weights=False)
    adapter = Path(source) / "adapter_config.json"
    if adapter.is_file():
        return model_config(str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]))
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"can't plan with the model {model}: its config.json can't be read ({line}). Give a folder, or "
            f"plan where the hub can be reached; without either are known: {', '.join(known_models())}"
        ) from error


def _is_decoder(module: Any) -> bool:
    return hasattr(module, "embed_tokens") and hasattr(module, "layers")


def _first(config: Any, *names: str) -> Any:
    """The first of these that the config has; families name the same thing differently."""
    return next(value for name in names if (value := getattr(config, name, None)) is not None)


def _blocks(config: Any) -> Blocks:
    # Qwen2-VL's tower has its own width in `embed_dim`, and the language model's in `hidden_size`.
    hidden = _first(config, "embed_dim", "hidden_size")
    heads = _first(config, "num_heads", "num_attention_heads")
    size = getattr(config, "head_dim", None) or hidden // heads
    ratio = getattr(config, "mlp_ratio", None)
    return Blocks(
        number=_first(config, "depth", "num_hidden_layers"),
        hidden=hidden,
        queries=heads * size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        inner=int(hidden * ratio) if ratio else config.intermediate_size,
    )


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)


def _patches_of_a_token(config: Any) -> float:
    vision = config.vision_config
    if merged := getattr(vision, "spatial_merge_size", None):
        return float(merged**2)
    if factor := getattr(config, "scale_factor", None):
        return float(factor**2)
    if ratio := getattr(config, "downsample_ratio", None):
        return 1 / ratio**2
    tokens = getattr(config, "mm_tokens_per_image", None)
    patches = (_side(vision.image_size) // _side(vision.patch_size)) ** 2
    return patches / tokens if tokens else 1.0


def _patch_values(vision: Any) -> int:
    return 3 * _side(vision.patch_size) ** 2 * int(getattr(vision, "temporal_patch_size", None) or 1)
