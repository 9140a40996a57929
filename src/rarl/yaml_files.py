"""YAML that people write, read within limits, and written so that readers of YAML 1.1 understand it too. It
may be a stranger's: what stands for far more than it is long is refused before it costs time or memory."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from rarl.errors import ConfigError

LONGEST_YAML = 20_000  # characters; the configuration of a run has some thousands, and the parser is slow
MOST_ENTRIES = 10_000  # of a YAML text, with what its aliases stand for
DEEPEST_YAML = 50
LARGEST_INTEGER = 10**18


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML 1.2 text spells: `1e-6` is a number, `no` and `on` are words.

    Raises:
        ConfigError: for wrong syntax, a key given twice, an unknown tag, or more than any configuration
            needs, such as aliases that stand for billions of entries; it names `where` and the line.
    """
    if len(text) > LONGEST_YAML:
        raise ConfigError(f"{where}: has {len(text):,} characters, more than {LONGEST_YAML:,}")
    if _nested_brackets(text) > DEEPEST_YAML:
        raise ConfigError(f"{where}: more than {DEEPEST_YAML} brackets in each other")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            return _plain_keys(_yaml().load(text), where)
    except ReusedAnchorWarning as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())[:100]}") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(error.problem or error.context)
        if isinstance(error, DuplicateKeyError):
            key = re.match(r'found duplicate key "?(.*?)"? with value', problem, re.DOTALL)
            problem = f"key '{key[1] if key else problem}' is given twice"
        raise ConfigError(f"{where}{line}: {problem}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date such as 2026-99-99. YAMLError without a mark: a character that YAML forbids.
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from error


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises:
        ConfigError: if the file is missing, no text, or no YAML.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigError(f"{path}: is no file")  # who opens a pipe waits for ever
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST_YAML + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > LONGEST_YAML:
        raise ConfigError(f"{path}: has more than {LONGEST_YAML:,} characters")
    return parse_yaml(text, str(path))


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: as `read_yaml`, or if the value is no mapping.
    """
    value = read_yaml(path)
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: must be a mapping such as `task: digits`, but is {kind}")
    return value


def yaml_text(value: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads back, and YAML 1.1 readers such as PyYAML too."""
    yaml = _yaml()
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.representer.add_representer(float, _represent_float)
    yaml.representer.add_representer(str, _represent_text)
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml


class _Constructor(SafeConstructor):
    """Makes values of a text whose aliases and merges stand for no more entries than can be looked at."""

    def construct_document(self, node: Node) -> Any:
        _count_entries(node, {}, 0)
        return super().construct_document(node)


def _count_entries(node: Node, known: dict[int, int | None], depth: int) -> int:
    """The number of entries of a node, with what its aliases stand for.

    Args:
        known: the numbers of nodes that were counted before; None for one that is being counted.
    """
    if depth > DEEPEST_YAML:
        raise MarkedYAMLError(problem="is too deep", problem_mark=node.start_mark)
    if id(node) in known:
        if (entries := known[id(node)]) is None:
            raise MarkedYAMLError(problem="an alias stands within itself", problem_mark=node.start_mark)
        return entries
    known[id(node)] = None
    children: list[Node] = []
    if isinstance(node, SequenceNode):
        children = node.value
    elif isinstance(node, MappingNode):
        children = [part for pair in node.value for part in pair]
    entries = 1 + sum(_count_entries(child, known, depth + 1) for child in children)
    if entries > MOST_ENTRIES:
        problem = f"stands for more than {MOST_ENTRIES:,} entries"
        raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    known[id(node)] = entries
    return entries


def _nested_brackets(text: str) -> int:
    """How many brackets are open at once, where every one counts: thousands take the parser seconds."""
    deepest = depth = 0
    for mark in re.findall(r"[][{}]", text):
        depth = max(depth + (1 if mark in "[{" else -1), 0)
        deepest = max(deepest, depth)
    return deepest


def _plain_keys(value: Any, where: str, seen: dict[int, Any] | None = None) -> Any:
    """`value` with texts for keys: a key that is a number in YAML is a name here. What an alias shares stays
    shared."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, list):
        plain_list: list[Any] = []
        seen[id(value)] = plain_list
        plain_list += [_plain_keys(entry, where, seen) for entry in value]
        return plain_list
    if isinstance(value, dict):
        plain: dict[str, Any] = {}
        seen[id(value)] = plain
        for key, entry in value.items():
            if isinstance(key, tuple | dict | list):
                raise ConfigError(f"{where}: a key must be a plain name, not {key!r}")
            _check_integer(key, where)
            plain[str(key)] = _plain_keys(entry, where, seen)
        return plain
    _check_integer(value, where)
    return value


def _check_integer(value: Any, where: str) -> None:
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:  # Python spells out no more than 4,300 digits
        raise ConfigError(f"{where}: a number of more than 18 digits")


def _represent_float(representer: Any, value: float) -> Any:
    # YAML 1.1 wants a dot: to it, 1e-06 is a text.
    node = type(representer).represent_float(representer, value)
    if "e" in node.value and "." not in node.value:
        node.value = node.value.replace("e", ".0e", 1)
    return node


def _represent_text(representer: Any, text: str) -> Any:
    # In YAML 1.1 these words are true and false.
    word = text.lower() in ("yes", "no", "on", "off", "y", "n")
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style="'" if word else None)
