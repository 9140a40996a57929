"""Model folders as a stranger, or a disk that was full, may leave them: each is a change of a copy of the
embedded model. What must happen with every one is decided where they are used."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path], None]
MARK = "RAN"
"""A file that the code in such a folder leaves there, if it is run."""


# ── how a folder is changed ──────────────────────────────────────────────────────────────────────────────


def setting(file: str, place: str, value: Any) -> Change:
    """Puts `value` at the dotted `place` of a JSON file."""

    def change(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text()) if path.is_file() else {}
        *above, last = place.split(".")
        inner = found
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = value
        path.write_text(json.dumps(found))

    return change


def text(file: str, content: str) -> Change:
    """Replaces a file by this text."""
    return lambda folder: [(folder / file).unlink(missing_ok=True), (folder / file).write_text(content)][0]


def raw(file: str, content: bytes) -> Change:
    """Replaces a file by these bytes."""
    return lambda folder: [(folder / file).unlink(missing_ok=True), (folder / file).write_bytes(content)][0]


def cut(file: str, share: float) -> Change:
    """Leaves the first `share` of a file."""

    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * share)])

    return change


def own_code(file: str, kinds: dict[str, str]) -> Change:
    """A file of settings that names a class in the folder, which leaves a mark where it is imported."""

    def change(folder: Path) -> None:
        setting(file, "auto_map", kinds)(folder)
        if file == "config.json":
            setting(file, "model_type", "a_strangers_own")(folder)
        (folder / "own.py").write_text(f"open({str(folder / MARK)!r}, 'w').close()\n")

    return change


def without_tensors(*words: str) -> Change:
    """Leaves out the weights whose names have one of these words."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        kept = {
            name: tensor
            for name, tensor in load_file(path).items()
            if not any(word in name for word in words)
        }
        save_file(kept, path, metadata={"format": "pt"})

    return change


def reshaped(word: str) -> Change:
    """Halves the first weight whose name has this word."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if word in name)
        tensors[name] = tensors[name][: len(tensors[name]) // 2].clone()
        save_file(tensors, path, metadata={"format": "pt"})

    return change


def pickled(folder: Path) -> None:
    """Weights as a pickle that runs code where it is opened."""
    import pickle

    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch '{folder / MARK}'",)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(), protocol=2))


def pipe(file: str) -> Change:
    """A named pipe in place of a file: who opens it waits for ever."""
    return lambda folder: [(folder / file).unlink(missing_ok=True), os.mkfifo(folder / file)][1]


def adapter(**settings: Any) -> Change:
    """A LoRA adapter of the embedded model, with these settings changed; `weights` is a change of its own."""

    def change(folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        from rarl.models.loading import load_model

        shutil.rmtree(folder)
        lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(load_model("tiny"), lora).save_pretrained(folder)
        if "weights" in settings:
            settings.pop("weights")(folder)
        path = folder / "adapter_config.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "tiny"} | settings)
        )

    return change


def adapter_without(word: str) -> Change:
    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "adapter_model.safetensors"
        save_file({name: value for name, value in load_file(path).items() if word not in name}, path)

    return change


TEMPLATE, CONFIG, WEIGHTS = "chat_template.jinja", "config.json", "model.safetensors"
AUTO = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}

# ── the folders ──────────────────────────────────────────────────────────────────────────────────────────

CODE_FOLDERS: dict[str, Change] = {
    "code: a model of its own": own_code(CONFIG, AUTO),
    "code: a config of another repository": setting(CONFIG, "auto_map", {"AutoConfig": "a/b--own.Config"}),
    "code: an image processor of its own": own_code("processor_config.json", {"AutoImageProcessor": "own.X"}),
    "code: a processor of its own": own_code("processor_config.json", {"AutoProcessor": "own.X"}),
    "code: a tokenizer of its own": own_code("tokenizer_config.json", {"AutoTokenizer": ["own.X", "own.Y"]}),
    "code: weights as a pickle": pickled,
    "code: an adapter as a pickle": adapter(
        weights=lambda folder: [(folder / "adapter_model.safetensors").unlink(), _pickled_adapter(folder)][0]
    ),
    "code: attention from the hub": setting(CONFIG, "attn_implementation", "somebody/their-kernel"),
    "code: the text's attention from the hub": setting(
        CONFIG, "text_config._attn_implementation", "kernels-community/flash-attn3"
    ),
    "code: experts from the hub": setting(CONFIG, "experts_implementation", "somebody/their-kernel"),
}


def _pickled_adapter(folder: Path) -> None:
    import pickle

    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch '{folder / MARK}'",)

    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Runs(), protocol=2))


DAMAGED_FOLDERS: dict[str, Change] = {
    "weights: those of a layer missing": without_tensors("layers.1."),
    "weights: those of the tower missing": without_tensors("visual"),
    "weights: the last norm missing": without_tensors("norm.weight"),
    "weights: all missing": without_tensors(""),
    "weights: one of another shape": reshaped("q_proj.weight"),
    "weights: cut": cut(WEIGHTS, 0.5),
    "weights: empty": raw(WEIGHTS, b""),
    "weights: zeros": raw(WEIGHTS, bytes(100_000)),
    "weights: a header of 2^62 bytes": raw(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"),
    "weights: a header of nested lists": raw(WEIGHTS, struct.pack("<Q", 200_000) + b"[" * 200_000),
    "weights: an index of a file that is not there": lambda folder: [
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors"),
        text(f"{WEIGHTS}.index.json", json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))(
            folder
        ),
    ][0],
    "weights: a pipe": pipe(WEIGHTS),
    "config: cut": cut(CONFIG, 0.5),
    "config: a list": text(CONFIG, "[]"),
    "config: 100,000 lists in each other": text(CONFIG, "[" * 100_000 + "]" * 100_000),
    "config: a pipe": pipe(CONFIG),
    "config: of no known type": setting(CONFIG, "model_type", "nobody_knows"),
    "config: a billion layers": setting(CONFIG, "text_config.num_hidden_layers", 10**9),
    "config: 90,000 layers": setting(CONFIG, "text_config.num_hidden_layers", 90_000),
    "config: a number of 10,000 digits": text(
        CONFIG, '{"model_type": "qwen2_5_vl", "x": ' + "9" * 10_000 + "}"
    ),
    "config: a tower as deep as a billion": setting(CONFIG, "vision_config.depth", 10**9),
    "shapes: a hidden size of 10^12": setting(CONFIG, "text_config.hidden_size", 10**12),
    "shapes: a vocabulary of 10^10": setting(CONFIG, "text_config.vocab_size", 10**10),
    "shapes: an intermediate size of 10^8": setting(CONFIG, "text_config.intermediate_size", 10**8),
    "shapes: no attention heads": setting(CONFIG, "text_config.num_attention_heads", 0),
    "shapes: a negative size": setting(CONFIG, "text_config.hidden_size", -64),
    "shapes: patches of nothing": setting(CONFIG, "vision_config.patch_size", 0),
    "shapes: three heads for four": setting(CONFIG, "text_config.num_key_value_heads", 3),
    "shapes: rotations of another size": setting(
        CONFIG, "text_config.rope_parameters.mrope_section", [2, 3, 30]
    ),
    "shapes: a size as a text": setting(CONFIG, "text_config.hidden_size", "sixty-four"),
    "shapes: windows of nothing": setting(CONFIG, "vision_config.window_size", 0),
    "shapes: an image token that is none": setting(CONFIG, "image_token_id", 10**9),
    "quantization: of no known method": setting(CONFIG, "quantization_config", {"quant_method": "nobody"}),
    "quantization: of 4 bits": setting(
        CONFIG, "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}
    ),
    "quantization: a text": setting(CONFIG, "quantization_config", "yes"),
    "kernels: attention that nobody has": setting(CONFIG, "attn_implementation", "nobody_has_this"),
    "kernels: flash attention": setting(CONFIG, "attn_implementation", "flash_attention_2"),
    "images: patches of nothing": setting("processor_config.json", "image_processor.patch_size", 0),
    "images: a million pixels for each": setting(
        "processor_config.json", "image_processor.size", {"shortest_edge": 10**12, "longest_edge": 10**13}
    ),
    "images: a processor of no known kind": setting(
        "processor_config.json", "image_processor.image_processor_type", "Nobody"
    ),
    "images: settings cut": cut("processor_config.json", 0.5),
    "tokenizer: missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "tokenizer: missing, of a class that can be empty": lambda folder: [
        (folder / "tokenizer.json").unlink(),
        setting("tokenizer_config.json", "tokenizer_class", "Qwen2Tokenizer")(folder),
    ][0],
    "tokenizer: cut": cut("tokenizer.json", 0.5),
    "tokenizer: an empty object": text("tokenizer.json", "{}"),
    "tokenizer: another vocabulary": text(
        "tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 5000}, "merges": []}}'
    ),
    "template: missing": lambda folder: (folder / TEMPLATE).unlink(),
    "template: not closed": text(TEMPLATE, "{% for message in messages %}"),
    "template: out of the sandbox": text(TEMPLATE, "{{ messages.__class__.__mro__[1].__subclasses__() }}"),
    "template: out by a format": text(
        TEMPLATE, "{{ '{0.__class__.__base__}'.format(messages) }}{{ none.x }}"
    ),
    "template: a loop of 10^10": text(
        TEMPLATE, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "template: a text of 10^11": text(TEMPLATE, "{{ 'x' * 100000000000 }}"),
    "template: a power of powers": text(TEMPLATE, "{{ 9 ** (9 ** (9 ** 9)) }}"),
    "template: calls itself": text(TEMPLATE, "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}"),
    "template: raises": text(TEMPLATE, "{{ raise_exception('only for paying customers') }}"),
    "template: zeros": raw(TEMPLATE, bytes(1000) + b"\xff"),
    "adapter: half of its weights": adapter(weights=adapter_without("lora_B")),
    "adapter: of other weights": adapter(target_modules=["v_proj"]),
    "adapter: of no modules": adapter(target_modules=["nobody"]),
    "adapter: a pattern without an end": adapter(target_modules=r"(\w+\.?)+!"),
    "adapter: of rank 10^9": adapter(r=10**9),
    "adapter: layers 10^9 times": adapter(layer_replication=[[0, 10**9]]),
    "adapter: of another kind": adapter(peft_type="PREFIX_TUNING"),
    "adapter: its own base": lambda folder: [
        adapter()(folder),
        setting("adapter_config.json", "base_model_name_or_path", str(folder))(folder),
    ][0],
    "adapter: a base that is not there": adapter(base_model_name_or_path="/nowhere/at/all"),
    "adapter: settings cut": lambda folder: [adapter()(folder), cut("adapter_config.json", 0.5)(folder)][0],
}

FOLDERS = CODE_FOLDERS | DAMAGED_FOLDERS


def stranger(name: str, folder: Path) -> Path:
    """Makes the folder `name` at `folder`, a place that is free."""
    from rarl.models.loading import BASE_FOLDER

    shutil.copytree(BASE_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    FOLDERS[name](folder)
    return folder
