"""One run as one YAML: the task, the model, the stages, the SFT baseline and the trainer's keys. The whole is
checked before anything runs, and without torch but for `check_trainer_fields`, which asks TRL."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rarl.data.collection import Row
from rarl.data.groups import Group, training_groups
from rarl.errors import ConfigError, Problem, Section, problems_of, refuse
from rarl.method.tasks import TASKS, Task, task_named
from rarl.training.defaults import RUN_DEFAULTS
from rarl.training.sections import SFT, Evaluation, FolderPath, GRPOSection, LoRA, Stage, Validation
from rarl.training.trackers import tracker_problem
from rarl.training.trainer_keys import (
    UNREFERENCED,
    GRPOKeys,
    SharedKeys,
    batch_problem,
    field_problems,
    generated_prompts,
    grpo_fields,
    machine_defaults,
    process_count,
    schedule_problem,
    sft_fields,
)
from rarl.yaml_files import parse_yaml, read_yaml_mapping, yaml_text

SFT_RATE, SFT_RATE_LORA = 2e-5, 1e-4
"""SFT's learning rate unless `sft.trainer` gives one, for all weights and for LoRA: usual rates for SFT of
Qwen2.5-VL. GRPO's (1e-6, and 1e-5 with LoRA) are as low as they are because its gradient is of sampled
responses. Imitation has no such noise, and as few steps at that rate would leave the model where it began."""


def _task(given: Any) -> Task:
    """A built-in task by its name, or a task of one's own: the path of a task.yaml, or a mapping."""
    if isinstance(given, Task):
        return given
    try:
        if isinstance(given, str) and given.endswith((".yaml", ".yml")):
            return Task.from_dict(read_yaml_mapping(Path(given)), given)
        if isinstance(given, str):
            return task_named(given)
        if isinstance(given, dict):
            return Task.from_dict(given, "a task of your own")
    except ConfigError as error:
        raise PydanticCustomError("said", "{text}", {"text": str(error)}) from error
    raise PydanticCustomError(
        "said",
        "must be a task's name or a mapping of name, rule, low, high, step, delta, or a task.yaml's path",
    )


def _plain_task(task: Task) -> str | dict[str, Any]:
    return task.name if TASKS.get(task.name) == task else task.to_dict()


class RunConfig(Section):
    """A run. Relative folders are relative to the working directory, `output` and `data` alike."""

    task: Annotated[Task, PlainValidator(_task), PlainSerializer(_plain_task)]
    model: Annotated[str, Field(min_length=1)] = "tiny"
    data: FolderPath | None = None  # a collection; None: the digits of scikit-learn
    output: FolderPath
    pixels: Annotated[int, Field(ge=1)] | None = (
        None  # the most of an image in a prompt; None: the model's own
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    stages: Annotated[list[Stage], Field(min_length=1)]
    sft: SFT | None = None
    trainer: GRPOSection = Field(default_factory=lambda: GRPOKeys(**RUN_DEFAULTS))
    lora: LoRA | None = None
    # Of the weights in training. bfloat16 is for LoRA, whose base is frozen, or for DeepSpeed.
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    validation: Validation | None = None
    evaluation: Evaluation = Evaluation()

    @field_validator("trainer", mode="before")
    @classmethod
    def _defaults_where_silent(cls, given: Any) -> Any:
        return {**RUN_DEFAULTS, **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems: list[Problem] = []
        if self.data is None and self.task != TASKS["digits"]:
            problems.append(("data", f"missing; task '{self.task.name}' needs a collection's folder"))
        names: dict[str, int] = {}
        for number, stage in enumerate(self.stages):
            where = f"stages[{number}]"
            # Not every file system tells `RARL` from `rarl`.
            first = names.setdefault(stage.name.lower(), number)
            if first != number:
                problems.append((f"{where}.name", f"'{stage.name}' is the name of stages[{first}] already"))
            if stage.start == "sft" and self.sft is None:
                problems.append(
                    (
                        f"{where}.start",
                        "'sft' is the model of SFT, and this run has none: add a section `sft`",
                    )
                )
            keys = self.trainer_for(stage)
            generations = keys["num_generations"]
            if stage.mutation and stage.mutation.k >= generations:
                problems.append((f"{where}.mutation.k", f"must be less than num_generations ({generations})"))
            for problem in (batch_problem(keys, stage.max_steps), schedule_problem(keys)):
                problems += [(f"{where}.trainer", problem)] if problem else []
            if stage.reference == "base" and (given := [key for key in UNREFERENCED if keys.get(key)]):
                problems.append((f"{where}.reference", f"'base' is not possible with {' and '.join(given)}"))
        if problems:
            refuse(problems)
        return self

    def trainer_for(self, stage: Stage) -> dict[str, Any]:
        """The trainer's keys of one stage, `prompts_per_step` among them: defaults, then run, then stage."""
        return {**RUN_DEFAULTS, **self.trainer.given(), **stage.trainer.given()}

    def grpo_arguments(self, stage: Stage, *, processes: int = 1) -> dict[str, Any]:
        """What RARLConfig is to be made with for `stage`, but for `output_dir`."""
        keys = self.trainer_for(stage)
        if problem := batch_problem(keys, stage.max_steps, processes=processes):
            raise ConfigError(f"stage '{stage.name}': {problem}")
        responses = keys.pop("prompts_per_step") * keys["num_generations"]
        parts = keys.get("gradient_accumulation_steps", 1) * processes
        mutation = stage.mutation.model_dump() if stage.mutation else {}
        return keys | {
            "per_device_train_batch_size": responses // parts,
            "max_steps": stage.max_steps,
            "reward_weights": stage.weights.in_order,
            "seed": self.seed,
            "shuffle_dataset": False,
            "stagnant": stage.stagnant,
            "resample_rounds": stage.resample_rounds,
            **{f"mutation_{key}": value for key, value in mutation.items()},
        }

    def sft_arguments(self, *, processes: int = 1) -> dict[str, Any]:
        """What SFTConfig is to be made with, but for `output_dir`.

        What `trainer` gives holds for SFT as well, where SFTConfig has such a field, unless `sft.trainer`
        differs: the baseline sees as many prompts a step, with the same optimizer. The learning rate alone is
        never that of GRPO, see `SFT_RATE`.
        """
        if self.sft is None:
            raise ConfigError("sft: this run has no such section")
        # `loss_type` is a field of both, and means something else there.
        of_grpo = GRPOKeys.model_fields.keys() - SharedKeys.model_fields.keys()
        fields = sft_fields().keys() - of_grpo
        shared = {key: value for key, value in self.trainer.given().items() if key in fields}
        own = {
            "prompts_per_step": self.trainer.prompts_per_step,
            "learning_rate": SFT_RATE if self.lora is None else SFT_RATE_LORA,
        }
        keys = {**shared, **own, **self.sft.trainer.given()}
        examples, parts = keys.pop("prompts_per_step"), keys.get("gradient_accumulation_steps", 1) * processes
        if examples % parts:
            raise ConfigError(
                f"sft.trainer: prompts_per_step ({examples}) must be a multiple of "
                f"gradient_accumulation_steps x processes ({parts})"
            )
        if problem := schedule_problem(keys):
            raise ConfigError(f"sft.trainer: {problem}")
        return keys | {
            "per_device_train_batch_size": examples // parts,
            "max_steps": self.sft.max_steps or -(-sum(map(self.prompts_of, self.stages)) // examples),
            "seed": self.seed,
            # In the order of the stages, whose batches have one number of images each.
            "train_sampling_strategy": "sequential",
            # Prompt and images are made of other columns when a row is read.
            "remove_unused_columns": False,
        }

    def prompts_of(self, stage: Stage) -> int:
        """How many prompts a stage generates responses for, see `generated_prompts`."""
        return generated_prompts(self.trainer_for(stage), stage.max_steps)

    def steps_before(self, stage: Stage) -> int:
        """The steps of training between the run's model and the one that `stage` starts from."""
        if stage.start == "sft":
            return int(self.sft_arguments()["max_steps"])
        place = self.stages.index(stage)
        return self.steps_before(before := self.stages[place - 1]) + before.max_steps if place else 0

    def to_dict(self) -> dict[str, Any]:
        """The configuration as resolved, of plain values only."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The configuration as resolved; `load_config` of it gives the same configuration."""
        return yaml_text(self.to_dict())


def config_from(mapping: dict[str, Any], where: str) -> RunConfig:
    """A configuration from plain values.

    Raises:
        ConfigError: with one line, which begins with `where`, for each mistake.
    """
    try:
        return RunConfig.model_validate(mapping)
    except ValidationError as error:
        lines = [f"{where}: {key + ': ' if key else ''}{text}" for key, text in problems_of(error, RunConfig)]
        raise ConfigError("\n".join(lines)) from error


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file, after `overrides` such as `stages.0.max_steps=10`.

    Raises:
        ConfigError: if the file is missing or is no YAML, or with one line for each mistake in it.
    """
    mapping = read_yaml_mapping(Path(path))
    for override in overrides:
        apply_override(mapping, override)
    return config_from(mapping, str(path))


def check_trainer_fields(config: RunConfig) -> None:
    """Checks `trainer`, `stages[].trainer` and `sft.trainer` whole, before anything runs.

    Raises:
        ConfigError: for what this machine can't do (`check_machine`); with one line for each unknown key and
            wrong type;
            then for what TRL refuses together.
    """
    from rarl.training.engines.machine import check_machine

    check_machine(config)
    problems = field_problems("trainer", config.trainer, grpo_fields())
    for number, stage in enumerate(config.stages):
        problems += field_problems(f"stages[{number}].trainer", stage.trainer, grpo_fields())
    if config.sft:
        problems += field_problems("sft.trainer", config.sft.trainer, sft_fields())
    if not problems:
        problems = _untracked(config) or _refused_by_trl(config)
    if problems:
        raise ConfigError("\n".join(f"{key}: {message}" for key, message in problems))


def _untracked(config: RunConfig) -> list[Problem]:
    """Trackers that are named and can't be had."""
    sections: list[tuple[str, SharedKeys]] = [("trainer", config.trainer)]
    sections += [(f"stages[{n}].trainer", stage.trainer) for n, stage in enumerate(config.stages)]
    sections += [("sft.trainer", config.sft.trainer)] if config.sft else []
    found = ((path, tracker_problem(section.given().get("report_to"))) for path, section in sections)
    return [(f"{path}.report_to", problem) for path, problem in found if problem]


def _refused_by_trl(config: RunConfig) -> list[Problem]:
    """What the configurations of TRL say when they are made. Making one writes nothing."""
    from trl.trainer.sft_config import SFTConfig

    from rarl.training.trainer import RARLConfig

    processes = process_count()
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


def trained_arms(config: RunConfig) -> list[str]:
    """The names of the arms that are trained, which are their folders: SFT, then the stages."""
    baseline = [] if config.sft is None else [config.sft.name]
    return baseline + [stage.name for stage in config.stages]


def lengths_of(config: RunConfig, arm: str) -> list[int]:
    """The lists that an arm was trained on, by their numbers of images, ascending: those of its stage and of
    the stages before. An arm that no stage names, and one that starts from SFT, has seen those of all."""
    names = [stage.name for stage in config.stages]
    seen = config.stages[: names.index(arm) + 1] if arm in names else config.stages
    if any(stage.start == "sft" for stage in seen):
        seen = config.stages
    return sorted({count for stage in seen for count in stage.images if count > 1})


def stage_groups(config: RunConfig, stage: Stage, rows: Sequence[Row]) -> list[Group]:
    """The prompts that a stage generates responses for, in order. The same seed and stage name give the same
    prompts."""
    at_once, prompts = config.trainer_for(stage)["prompts_per_step"], config.prompts_of(stage)
    seed = f"{config.seed}:{stage.name}"
    return training_groups(rows, stage.images, at_once, -(-prompts // at_once), seed)[:prompts]


def completion_length(config: RunConfig, stage: Stage) -> int:
    """How many tokens a response of the stage may have. TRL's own default is that of `GRPOKeys`."""
    return GRPOKeys(**config.trainer_for(stage)).max_completion_length


def reply_length(config: RunConfig) -> int:
    """Where the replies of all arms alike are cut in evaluation, in tokens: an arm that was trained with
    shorter responses is not cut shorter than the others."""
    lengths = [completion_length(config, stage) for stage in config.stages]
    return config.evaluation.max_new_tokens or max(lengths)


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
