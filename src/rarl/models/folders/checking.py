"""What a model folder must be before a model is made of it: it may come from a stranger, or from a disk that
was full. Only the files' form is looked at; whether they hold the weights that the model needs is found when
it is loaded. No torch is imported."""

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rarl.digests import DIGESTS, damage
from rarl.errors import ModelError, RarlError
from rarl.method.prompts import messages
from rarl.models.folders.trial import ends

ADAPTER = "adapter_config.json"
_SETTINGS_LIMIT = 2**24  # bytes of a file of settings; those of models have some thousands
_COUNTED = re.compile(r"layers|depth|blocks|experts|heads|stages")
_MOST = 100_000  # of layers and the like, each of which is looked at in a loop
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken")
_LONGEST_HEADER = 2**28  # bytes of the list of tensors in front of a safetensors file
_LARGEST_RANK = 8192
NAMED = 3
"""How many weights a message names."""


def settings_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        ModelError: if it is none.
    """
    try:
        if path.stat().st_size > _SETTINGS_LIMIT:
            raise ModelError(f"{path} has {path.stat().st_size:,} bytes, more than settings ever have")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a valid JSON file ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} must be an object such as {{...}}, and is none")
    return found


def check_folder(folder: Path) -> None:
    """Refuses a folder whose files of settings can't be read, or ask for what no model needs.

    Raises:
        ModelError: which names the file, and the key.
    """
    for path in sorted(folder.iterdir()):
        if not path.is_file() and not path.is_dir():
            raise ModelError(f"{path} is no plain file: a model folder has no links to nowhere and no pipes")
    for path in sorted(folder.glob("*config*.json")):
        for place, value in _entries(settings_of(path)):
            key = place[-1] if place else ""
            if type(value) is int and abs(value) > _MOST and _COUNTED.search(key):
                raise ModelError(f"{path}: {'.'.join(place)} is {_short(value)}, which no model has")
            if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
                raise ModelError(
                    f"{path}: {'.'.join(place)} is {_short(value)}, a kernel to be fetched and run, which is "
                    "not done: remove the key"
                )


def check_unchanged(folder: Path, *, weights: bool = True) -> None:
    """Refuses a folder with digests in which a file has changed since.

    Args:
        weights: as in `rarl.digests.damage`.

    Raises:
        ModelError: which says what has changed.
    """
    if changed := damage(folder, weights=weights):
        raise ModelError(
            f"{folder} was damaged since it was written: {changed}; copy it again, or make it again. If you "
            f"changed it yourself, remove its {DIGESTS}"
        )


def _entries(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every entry of nested settings, with the keys that lead there."""
    yield place, value
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _entries(entry, (*place, key))


def _short(value: object) -> str:
    if type(value) is int and abs(value) >= 10**30:  # Python spells out no more than 4,300 digits
        return "a number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_tokenizer(folder: Path) -> None:
    """Refuses a folder without a tokenizer: transformers 5.23 makes an empty one of some classes, without a
    word.

    Raises:
        ModelError: if there is none.
    """
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer.json")


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────


class Stored(NamedTuple):
    """How many tensors there are in weight files, and how many numbers in them."""

    tensors: int
    numbers: int


def stored_weights(folder: Path) -> Stored | None:
    """What the safetensors files of a folder hold, by their headers; None if there are none, or one is
    damaged, which is found when it is loaded."""
    tensors = numbers = 0
    for path in folder.glob("*.safetensors"):
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > min(_LONGEST_HEADER, path.stat().st_size):
                    return None
                header = json.loads(file.read(length))
            shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
            tensors += len(shapes)
            numbers += sum(math.prod(shape) for shape in shapes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
    return Stored(tensors, numbers) if tensors else None


def some(names: Collection[str]) -> str:
    """Some of the names of weights, and how many more there are."""
    shown = ", ".join(sorted(names)[:NAMED])
    return f"{shown} and {len(names) - NAMED:,} more" if len(names) > NAMED else shown


# ── adapters ─────────────────────────────────────────────────────────────────────────────────────────────


def check_adapter(folder: Path, modules: Sequence[str]) -> None:
    """Refuses an adapter that is no LoRA as PEFT writes it.

    Args:
        modules: the names of the base's modules.

    Raises:
        ModelError: which names the key.
    """
    path = folder / ADAPTER
    settings = settings_of(path)
    if settings.get("peft_type") != "LORA":
        raise ModelError(f"{path}: peft_type is {_short(settings.get('peft_type'))}, and only LORA is read")
    rank = settings.get("r")
    if type(rank) is not int or not 0 < rank <= _LARGEST_RANK:
        raise ModelError(f"{path}: r must be a whole number from 1 to {_LARGEST_RANK}, not {_short(rank)}")
    if settings.get("layer_replication"):
        raise ModelError(f"{path}: layer_replication is not possible here: merge the adapter with PEFT first")
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
        for pattern in [value] if isinstance(value := settings.get(key), str) else value or ():
            if len(str(pattern)) > 1000 or not ends("match", pattern=str(pattern), names=list(modules)):
                raise ModelError(f"{path}: {key} is a pattern that takes too long to match names of modules")


# ── chat templates ───────────────────────────────────────────────────────────────────────────────────────


def check_template(template: str, name: str) -> None:
    """Refuses a chat template that takes seconds or much memory to make a prompt.

    Args:
        name: of the model, for the error.

    Raises:
        ModelError: if it does.
    """
    if not _template_ends(template):
        raise ModelError(
            f"the chat template of {name} does not come to an end: it takes more than seconds, or more "
            "memory than any prompt"
        )


@lru_cache
def _template_ends(template: str) -> bool:
    asked = [messages(count, "x", "0-1") for count in (1, 8)]
    return ends("render", template=template, conversations=asked)


# ── the sentence ────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def in_one_sentence(what: str, source: str) -> Iterator[None]:
    """Any error within becomes a `ModelError` of one line: a folder can be wrong in more ways than
    transformers has errors for.

    Args:
        what: could not be loaded, such as "the model runs/demo/rarl".
        source: a folder, or a hub name, which may have been meant as a folder.
    """
    try:
        yield
    except RarlError:
        raise
    except BaseException as error:
        # tokenizers 0.23 panics at some files, with an exception that can't be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = _reason(error)
        if not Path(source).is_dir() and not Path(source).is_absolute():
            reason = f"there is no such folder, and as a hub name: {reason}"
        raise ModelError(f"could not load {what}: {reason}") from error


def _reason(error: BaseException) -> str:
    """The first line of an error, and the second where that only announces it."""
    if "trust_remote_code" in str(error):
        return "it brings code of its own; if you trust its author, --trust-remote-code runs that"
    first, *rest = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    line = f"{first} {rest[0]}"[:500] if first.endswith(":") and rest else first[:500]
    said = isinstance(error, (OSError, ValueError, ImportError, RuntimeError))
    return line if said else f"{type(error).__name__}: {line}"
