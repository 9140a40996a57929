"""A run's YAML as a mapping: numbers such as `1e-6` are numbers, a key given twice is an error, and each
`--set a.b=c` of the command line replaces one value. What the keys mean is config.py's concern."""

import re
from pathlib import Path
from typing import Any

import yaml

from rarl.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the floats of YAML 1.2 and without silent duplicates."""


# YAML 1.1 wants a dot and a signed exponent in a float: to PyYAML `1e-6` is a text. YAML 1.2 disagrees.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)
# Nor is `no`, `off` or `yes` a bool here: `save_strategy: no` and `name: on` mean the words.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping whose keys are distinct; anything else would let the last of two values win in silence."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{key.value}' is given twice", key.start_mark
            )
        seen.add(key.value)
    loader.flatten_mapping(node)
    return {str(loader.construct_object(k)): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text spells.

    Raises:
        ConfigError: for wrong syntax, a key given twice, or an unknown tag; it names `where` and the line.
    """
    try:
        # _Loader is a SafeLoader: it builds plain values only.
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date such as 2026-99-99. YAMLError without a mark: a character that YAML forbids.
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: if the file is missing, no text, no YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: must be a mapping such as `task: digits`, but is {kind}")
    return value


def apply_override(mapping: dict[str, Any], override: str) -> None:
    """Replaces one value of `mapping` in place: `stages.0.max_steps=10`, `stages[0].max_steps=10`, `seed=1`.

    The value is YAML, so `[1, 2]`, `true` and `null` mean what they mean in the file. A mapping that isn't
    there yet is made; an element of a list must be there.

    Raises:
        ConfigError: if there is no `=`, or the path runs through a plain value or past the end of a list.
    """
    path, equals, text = override.partition("=")
    keys = re.sub(r"\[(\d+)\]", r".\1", path.strip()).split(".")
    where = f"--set {override}"
    if not equals or not all(keys):
        raise ConfigError(f"{where}: must look like key=value, such as seed=1 or stages.0.max_steps=10")
    value = parse_yaml(text, where)
    here: Any = mapping
    for depth, key in enumerate(keys):
        index = _index(here, key, ".".join(keys[:depth]) or "the file", where)
        if depth == len(keys) - 1:
            here[index] = value
            return
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here = here[index]


def _index(here: Any, key: str, path: str, where: str) -> str | int:
    """What to look `key` up by in `here`, which stands at `path`."""
    if isinstance(here, dict):
        return key
    if not isinstance(here, list):
        raise ConfigError(f"{where}: {path} is {here!r}, which has no key '{key}'")
    if not key.isdecimal() or int(key) >= len(here):
        raise ConfigError(f"{where}: {path} is a list of {len(here)}; '{key}' must be 0 to {len(here) - 1}")
    return int(key)
