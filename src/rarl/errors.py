"""The errors that a user can mend. Each message says what is wrong, where, and how to mend it; the command
line prints it without a traceback. Everything else that is raised is a defect of this library. Below them:
what pydantic finds wrong with a mapping, in the words of its file, one line for each mistake."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError


class RarlError(Exception):
    """Root of the tree: catch this one to catch every mistake a user can mend."""


class ConfigError(RarlError):
    """A run's YAML, or an option of a command, is not what the run needs."""


class DataError(RarlError):
    """An image, a collection or a task file is missing, malformed or out of its task's range."""


class ModelError(RarlError):
    """A model folder or name can't be loaded, or can't do what is asked of it."""


class DiskError(RarlError):
    """What was to be written could not be, mostly because a disk is full."""


# ── mistakes in a mapping ────────────────────────────────────────────────────────────────────────────────


class Section(BaseModel):
    """A mapping of a file. Unknown keys and wrong types are errors, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Problem = tuple[str, str]  # key path, such as `stages[1].mutation.k`, and what is wrong there


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """Raises, within a pydantic validator, errors at keys below the one under validation."""
    text = "; ".join(f"{key}: {message}" for key, message in problems)
    raise PydanticCustomError("refused", "{text}", {"text": text, "problems": list(problems)})


def joined(path: str, key: str | int) -> str:
    """A key path with one more key: `stages` and 0 give `stages[0]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path and key else path or key


def nearest_word(given: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing when nothing is near."""
    near = get_close_matches(given, list(allowed), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def known_keys(key: str, allowed: Sequence[str]) -> str:
    """What to say behind an unknown key: the nearest, and the keys there are."""
    near = nearest_word(key, allowed)
    return f"{near or ';'} the keys are {', '.join(allowed)}"


def shown(value: Any) -> str:
    """A value as the user wrote it, cut to a readable length."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Every finding of pydantic about `model`, in the order of the file's keys."""
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        path = ""
        for key in detail["loc"]:
            path = joined(path, key)
        context: Mapping[str, Any] = detail.get("ctx", {})
        if detail["type"] == "refused":
            found += [(joined(path, key), message) for key, message in context["problems"]]
        elif detail["type"] == "extra_forbidden":
            key = str(detail["loc"][-1])
            allowed = _keys_at(model, detail["loc"][:-1])
            found.append((path, f"unknown key{known_keys(key, allowed)}"))
        elif detail["type"] == "missing":
            found.append((path, "missing; it must be given"))
        elif detail["type"] == "model_type":
            found.append((path, f"must be a mapping of keys to values, not {shown(detail['input'])}"))
        elif detail["type"] == "path_type":
            found.append((path, f"must be a folder's path, not {shown(detail['input'])}"))
        elif detail["type"] == "said":
            found.append((path, detail["msg"]))
        else:
            found.append((path, _message(detail["msg"], detail["input"], context)))
    return found


def _message(message: str, given: Any, context: Mapping[str, Any]) -> str:
    """Pydantic's sentence with what was given, and the nearest of the allowed words."""
    said = message.replace("Input should be", "must be")
    hint = ""
    if isinstance(given, str) and "expected" in context:
        hint = nearest_word(
            given, [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        )
    return f"{said}, not {shown(given)}{hint}"


def _keys_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that the model at `path` below `model` takes."""
    here: type[BaseModel] = model
    for key in path:
        if isinstance(key, str) and key in here.model_fields:
            here = _model_in(here.model_fields[key].annotation) or here
    return list(here.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside `Model`, `Model | None` or `list[Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _model_in(argument):
            return found
    return None
