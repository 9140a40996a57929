"""Every key of the trainer sections against TRL's own configuration: its name, its type, and what TRL itself
refuses. It imports TRL, and with it torch, when called."""

import dataclasses
import os
import types
import typing
from enum import Enum
from functools import cache
from tempfile import gettempdir
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rarl.errors import ConfigError
from rarl.training.config import RunConfig
from rarl.training.messages import Problem, joined, nearest, shown
from rarl.training.trainer_keys import MANAGED, SharedKeys


@cache
def _types(config_class: type) -> dict[str, Any]:
    """Field -> type, for what can be given to a TRL configuration."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class) if field.init}


def grpo_fields() -> dict[str, Any]:
    """The fields of RARLConfig, which is TRL's GRPOConfig and a few more, with their types."""
    from rarl.training.trainer import RARLConfig

    return _types(RARLConfig)


def sft_fields() -> dict[str, Any]:
    """The fields of TRL's SFTConfig, with their types."""
    from trl.trainer.sft_config import SFTConfig

    return _types(SFTConfig)


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _problem(value: Any, annotation: Any) -> str | None:
    """Why `value` can't be a field of type `annotation`; None if it can."""
    options = _options(annotation)
    if isinstance(value, bool) and bool not in options and typing.Literal[False] not in options:
        return f"must be {_described(options)}, not {shown(value)}"
    for option in options:
        # `SchedulerType | str` takes any text to its type, but TRL only the words of the enumeration.
        if isinstance(option, type) and issubclass(option, Enum) and isinstance(value, str):
            words = [str(member.value) for member in option]
            if value in words:
                return None
            return f"must be one of {', '.join(words)}, not {shown(value)}{nearest(value, words)}"
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return f"must be {_described(options)}, not {shown(value)}"
    return None


def _described(options: tuple[Any, ...]) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    names |= {list: "a list", dict: "a mapping"}
    return " or ".join(names.get(typing.get_origin(o) or o, str(o)) for o in options)


def _section(path: str, section: SharedKeys, fields: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    own = [
        *(key for key in fields if key not in MANAGED and not key.startswith("mutation")),
        "prompts_per_step",
    ]
    for key, value in section.given().items():
        if key == "prompts_per_step":
            continue
        if key not in fields:
            # There are some 190 of them: too many to list.
            near = nearest(key, own) or "; the keys are the fields of TRL's configuration"
            problems.append((joined(path, key), f"unknown key{near}"))
        elif problem := _problem(value, fields[key]):
            problems.append((joined(path, key), problem))
    return problems


def check_trainer_fields(config: RunConfig) -> None:
    """Checks `trainer`, `stages[].trainer` and `sft.trainer` whole, before anything runs.

    Raises:
        ConfigError: with one line for each unknown key and wrong type; then for what TRL refuses together.
    """
    problems = _section("trainer", config.trainer, grpo_fields())
    for number, stage in enumerate(config.stages):
        problems += _section(f"stages[{number}].trainer", stage.trainer, grpo_fields())
    if config.sft:
        problems += _section("sft.trainer", config.sft.trainer, sft_fields())
    if not problems:
        problems = _refused_by_trl(config)
    if problems:
        raise ConfigError("\n".join(f"{key}: {message}" for key, message in problems))


def machine_defaults() -> dict[str, Any]:
    """TRL's defaults are for a GPU: on a CPU it refuses bfloat16, which is slower there than float32 as well,
    and recomputing activations to save memory is not worth its time. Without `use_cpu`, several processes on
    a CPU would each train by itself."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "use_cpu": not gpu,
        "bf16": gpu and torch.cuda.is_bf16_supported(),
        "activation_checkpointing": gpu,
        "dataloader_pin_memory": gpu,
    }


def _refused_by_trl(config: RunConfig) -> list[Problem]:
    """What the configurations of TRL say when they are made. Making one writes nothing."""
    from trl.trainer.sft_config import SFTConfig

    from rarl.training.trainer import RARLConfig

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    problems: list[Problem] = []
    for number, stage in enumerate(config.stages):
        arguments = config.grpo_arguments(stage, processes=processes)
        try:
            RARLConfig(output_dir=gettempdir(), **(machine_defaults() | arguments))
        except (ValueError, TypeError) as error:
            problems.append((f"stages[{number}] with trainer", str(error)))
    if config.sft:
        try:
            SFTConfig(
                output_dir=gettempdir(), **(machine_defaults() | config.sft_arguments(processes=processes))
            )
        except (ValueError, TypeError) as error:
            problems.append(("sft with trainer", str(error)))
    return problems
