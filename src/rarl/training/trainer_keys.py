"""The `trainer:` sections of a run: the keys whose range we check, the paper's values for keys that are not
given, and the keys that a run sets elsewhere. Then every key against the fields of TRL's own configuration:
that alone imports TRL, and with it torch. Nothing here knows a whole run."""

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rarl.errors import Problem, joined, nearest_word, refuse, shown


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("bool", "must be a number")
    return value


# Lax apart from bools: a quoted "1e-6" is the number it spells.
Whole = Annotated[int, Strict(False), BeforeValidator(_no_bool)]
Number = Annotated[float, Strict(False), BeforeValidator(_no_bool), Field(allow_inf_nan=False)]


def _whole_steps(value: float) -> float:
    """A number of steps as a whole number, or a share below 1 as it is."""
    if value < 1:
        return value
    if value != int(value):
        raise PydanticCustomError("steps", "must be a whole number of steps, or a share of max_steps below 1")
    return int(value)


Steps = Annotated[Number, Field(gt=0), AfterValidator(_whole_steps)]

_SET_BY_STEPS = "stages[].max_steps and sft.max_steps"
_SET_BY_BATCH = "trainer.prompts_per_step (times num_generations) and trainer.gradient_accumulation_steps"
_SET_BY_EVALUATION = "the section `evaluation`; each arm is evaluated once it is trained"

# Fields of TRL that a run sets from elsewhere: field -> where the user sets it.
MANAGED = {
    "output_dir": "`output`",
    "seed": "`seed`",
    "data_seed": "`seed`",
    "reward_weights": "stages[].weights",
    "stagnant": "stages[].stagnant",
    "resample_rounds": "stages[].resample_rounds",
    "max_steps": _SET_BY_STEPS,
    "num_train_epochs": _SET_BY_STEPS,
    "per_device_train_batch_size": _SET_BY_BATCH,
    "generation_batch_size": _SET_BY_BATCH,
    "auto_find_batch_size": _SET_BY_BATCH,
    "shuffle_dataset": "`seed`; the groups are drawn and shuffled before training",
    "train_sampling_strategy": "`seed`; the groups are drawn and shuffled before training",
    "remove_unused_columns": "the rewards, which read the columns",
    "resume_from_checkpoint": "the option --resume",
    "ignore_data_skip": "the option --resume",
    "save_only_model": "nothing: a run could not be continued without its optimizer",
    "model_init_kwargs": "`model`",
    "do_train": "`stages`",
    "do_eval": _SET_BY_EVALUATION,
    "do_predict": _SET_BY_EVALUATION,
    "eval_strategy": _SET_BY_EVALUATION,
    "eval_on_start": _SET_BY_EVALUATION,
    "num_generations_eval": _SET_BY_EVALUATION,
    "per_device_eval_batch_size": "evaluation.batch_size",
    "load_best_model_at_end": _SET_BY_EVALUATION,
}

UNREFERENCED = ("sync_ref_model", "cast_lm_head_to_fp32")
"""Keys by which TRL treats the reference that it made itself; `reference: base` is another."""


class SharedKeys(BaseModel):
    """The keys that GRPO and SFT share; other fields of TRL's configuration pass through."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    prompts_per_step: Annotated[Whole, Field(ge=1)] = 8
    gradient_accumulation_steps: Annotated[Whole, Field(ge=1)] = 1
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-6
    max_grad_norm: Annotated[Number, Field(ge=0)] = 1.0
    logging_steps: Steps = 10
    save_strategy: Literal["no", "steps"] = "steps"
    save_steps: Steps = 500
    save_total_limit: Annotated[Whole, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _not_managed(self) -> Self:
        extra = self.__pydantic_extra__ or {}
        problems = [(key, f"is not set here but by {MANAGED[key]}") for key in extra if key in MANAGED]
        # RARLConfig takes what RMO needs under names that begin so.
        problems += [
            (k, "is not set here but by stages[].mutation") for k in extra if k.startswith("mutation")
        ]
        if problems:
            refuse(problems)
        return self

    def given(self) -> dict[str, Any]:
        """The keys that the file gives, and no defaults."""
        return self.model_dump(exclude_unset=True)


class GRPOKeys(SharedKeys):
    """The keys of `trainer:`; see `rarl.training.defaults` for what a run starts from."""

    num_generations: Annotated[Whole, Field(ge=2)] = 8
    num_iterations: Annotated[Whole, Field(ge=1)] = 1
    steps_per_generation: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(gt=0)] = 1.0
    beta: Annotated[Number, Field(ge=0)] = 0.01
    epsilon: Annotated[Number, Field(gt=0)] = 0.2
    max_completion_length: Annotated[Whole, Field(ge=1)] = 512
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"] = (
        "grpo"  # those of TRL 1.16
    )
    scale_rewards: Literal["group", "batch", "none"] = "group"
    shared_prefix: Literal["auto", "on", "off"] = "auto"


def batch_problem(keys: dict[str, Any], max_steps: int, *, processes: int = 1) -> str | None:
    """Why a stage can't be cut into micro-batches or continued from its checkpoints; None if it can.

    Args:
        keys: the stage's merged keys, `prompts_per_step` among them.
    """
    trainer = GRPOKeys(**keys)
    responses = trainer.prompts_per_step * trainer.num_generations
    parts = trainer.gradient_accumulation_steps * processes
    if responses % parts:
        return (
            f"a step has {responses} responses ({trainer.prompts_per_step} prompts x "
            f"{trainer.num_generations}), which gradient_accumulation_steps x processes ({parts}) "
            "does not divide: change one of them, so that it does"
        )
    # TRL 1.16 generates once for `cycle` micro-batches and doesn't save what it generated: a run continued
    # from within a cycle generates anew, and departs from the run that was not interrupted.
    steps_per_generation = trainer.steps_per_generation or trainer.gradient_accumulation_steps
    micro_batch = responses // parts
    if micro_batch * processes * steps_per_generation % trainer.num_generations:
        return f"steps_per_generation ({steps_per_generation}) must generate whole groups of num_generations"
    if trainer.shared_prefix == "on" and micro_batch % trainer.num_generations:
        return (
            f"shared_prefix: on needs whole groups in a micro-batch: {micro_batch} responses "
            f"({responses} by gradient_accumulation_steps x processes, {parts}) are not a multiple of "
            f"num_generations ({trainer.num_generations})"
        )
    cycle = steps_per_generation * trainer.num_iterations
    if trainer.save_strategy == "no":
        return None
    every = trainer.save_steps
    # A save_steps below 1 is a share of max_steps (transformers rounds up).
    steps = -int(-every * max_steps // 1) if every < 1 else int(every)
    if steps * trainer.gradient_accumulation_steps % cycle:
        return (
            f"save_steps ({every:g}) would save within a generation cycle of steps_per_generation x "
            f"num_iterations ({cycle}) micro-steps, and a continued run would differ: make save_steps x "
            f"gradient_accumulation_steps ({trainer.gradient_accumulation_steps}) a multiple of {cycle}"
        )
    return None


def schedule_problem(keys: Mapping[str, Any]) -> str | None:
    """Why a learning rate that is to warm up would not; None if it would, or is not to.

    Args:
        keys: the merged keys of a trainer.
    """
    warmup = keys.get("warmup_steps")  # its type is checked later, where TRL's fields are known
    if isinstance(warmup, int | float) and warmup > 0 and keys.get("lr_scheduler_type") == "constant":
        return "lr_scheduler_type: constant leaves a warm-up out: make it constant_with_warmup, or linear"
    return None


def generated_prompts(keys: dict[str, Any], max_steps: int) -> int:
    """How many prompts a stage of `max_steps` generates responses for: each of its groups is one of them.

    With `num_iterations` n the responses of a prompt serve n times, so there are max_steps / n *
    prompts_per_step of them. The last generation may be used in part only, and counts whole.

    Args:
        keys: the stage's merged keys, `prompts_per_step` among them.
    """
    prompts, micro_steps, parts = _generation(keys)
    return -(-max_steps * parts // micro_steps) * prompts


def steps_for_prompts(keys: dict[str, Any], prompts: int) -> int:
    """The steps in which a stage with these keys generates for no fewer than `prompts` prompts, each as often
    trained on as `num_iterations` says: the reverse of `generated_prompts`."""
    at_once, micro_steps, parts = _generation(keys)
    generations = -(-prompts // at_once)
    return -(-generations * micro_steps // parts)


def _generation(keys: dict[str, Any]) -> tuple[int, int, int]:
    """The prompts of one generation, the micro-steps that it serves, and the micro-steps of a step. TRL 1.16:
    one generation serves steps_per_generation x num_iterations micro-steps."""
    trainer = GRPOKeys(**keys)
    parts = trainer.gradient_accumulation_steps
    at_once = trainer.steps_per_generation or parts
    return trainer.prompts_per_step * at_once // parts, at_once * trainer.num_iterations, parts


# ── against TRL's own configuration ──────────────────────────────────────────────────────────────────────


@cache
def _field_types(config_class: type) -> dict[str, Any]:
    """Field -> type, for what can be given to a TRL configuration."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class) if field.init}


def grpo_fields() -> dict[str, Any]:
    """The fields of RARLConfig, which is TRL's GRPOConfig and a few more, with their types."""
    from rarl.training.trainer import RARLConfig

    return _field_types(RARLConfig)


def sft_fields() -> dict[str, Any]:
    """The fields of TRL's SFTConfig, with their types."""
    from trl.trainer.sft_config import SFTConfig

    return _field_types(SFTConfig)


def _union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _type_problem(value: Any, annotation: Any) -> str | None:
    """Why `value` can't be a field of type `annotation`; None if it can."""
    options = _union_members(annotation)
    if isinstance(value, bool) and bool not in options and typing.Literal[False] not in options:
        return f"must be {_described(options)}, not {shown(value)}"
    for option in options:
        # `SchedulerType | str` takes any text to its type, but TRL only the words of the enumeration.
        if isinstance(option, type) and issubclass(option, Enum) and isinstance(value, str):
            words = [str(member.value) for member in option]
            if value in words:
                return None
            return f"must be one of {', '.join(words)}, not {shown(value)}{nearest_word(value, words)}"
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


def field_problems(path: str, section: SharedKeys, fields: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the keys of the section at `path`, by the fields of TRL's configuration."""
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
            near = nearest_word(key, own) or "; the keys are the fields of TRL's configuration"
            problems.append((joined(path, key), f"unknown key{near}"))
        elif problem := _type_problem(value, fields[key]):
            problems.append((joined(path, key), problem))
    return problems


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


def process_count() -> int:
    """How many processes train together, under torchrun or `accelerate launch`."""
    return int(os.environ.get("WORLD_SIZE", "1"))
