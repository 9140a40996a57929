"""The card of a trained model, `README.md` in its folder: what it measures, on which images it was trained
and how well it does on others, how it is asked without this library, and for what it is not. It has no path
of the machine that it was trained on."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from rarl.data.collection import Collection, load_collection
from rarl.files import write_text
from rarl.method.prompts import messages
from rarl.models.loading import EMBEDDED
from rarl.report.tables import headline_table
from rarl.training.config import RunConfig, reply_length, trained_arms
from rarl.yaml_files import yaml_text

CARD = "README.md"
TAGS = ("image-text-to-text", "ordinal-regression", "ranking", "grpo", "trl", "rarl")

_OF_PEOPLE = re.compile(
    r"\b(fac(e|es|ial)|age|ages|person|people|human|beaut|attractive|skin|body|gender)", re.IGNORECASE
)


def write_model_cards(config: RunConfig, metrics: Mapping[str, Any]) -> list[Path]:
    """Writes the card of each arm of a run that is trained and measured into its folder.

    Args:
        metrics: the run's `metrics.json`.
    """
    if not (arms := [arm for arm in trained_arms(config) if arm in metrics["arms"]]):
        return []
    collection = load_collection(config.output / "data" if config.data is None else config.data)
    written = []
    for arm in arms:
        path = config.output / arm / CARD
        write_text(path, model_card(config, arm, metrics, collection))
        written.append(path)
    return written


def model_card(config: RunConfig, arm: str, metrics: Mapping[str, Any], collection: Collection) -> str:
    """The card of one arm, with its metadata for the hub at its head."""
    task = config.task
    arms = {name: metrics["arms"][name] for name in ("base", arm) if name in metrics["arms"]}
    table = headline_table({**metrics, "arms": arms}, task, "the model it started from")
    base = None if config.model == EMBEDDED or Path(config.model).is_dir() else config.model
    system, user = messages(1, task.rule, task.value_range)
    head = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": list(TAGS),
        **({"base_model": base} if base else {}),
    }
    template = files("rarl.report").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return (
        Environment(
            undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
        )
        .from_string(template)
        .render(
            head=yaml_text(head),
            name=f"{config.output.resolve().name}-{arm}",
            task=task,
            base=base
            or ("the embedded model of rarl" if config.model == EMBEDDED else Path(config.model).name),
            steps=_steps(config, arm),
            lora=config.lora,
            seed=config.seed,
            version=version("rarl"),
            images={name: len({row.path for row in rows}) for name, rows in collection.splits.items()},
            split=metrics["split"],
            table=table.markdown(),
            notes=table.notes,
            lists=metrics["lists"],
            system=system["content"][0]["text"],
            instruct=user["content"][-1]["text"],
            tokens=reply_length(config),
            most=max(count for stage in config.stages for count in stage.images),
            of_people=bool(_OF_PEOPLE.search(task.rule)),
        )
    )


def _steps(config: RunConfig, arm: str) -> list[str]:
    """What was done from the run's model to the arm, a sentence each."""
    sft = "supervised fine-tuning on the true answers"
    if config.sft is not None and arm == config.sft.name:
        return [sft]
    done: list[str] = []
    for stage in config.stages:
        if stage.start == "sft":
            done = [sft]
        weights = ", ".join(f"{name} {weight:g}" for name, weight in stage.weights.model_dump().items())
        counts = ", ".join(map(str, sorted(set(stage.images))))
        mutation = stage.mutation
        edited = f"; response mutation, k {mutation.k}, p {mutation.probability:g}" if mutation else ""
        done.append(
            f"`{stage.name}`: GRPO, {stage.max_steps:,} steps; images in a prompt: {counts}; "
            f"rewards: {weights}{edited}"
        )
        if stage.name == arm:
            break
    return done
