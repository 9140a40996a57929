"""The plan of one run: what its model is, how long its prompts are, the memory of a card under each engine,
its steps, and what to change where it doesn't fit. Hours need the seconds of a step, measured or given."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rarl.data.images import Size
from rarl.plan.architecture import Architecture, architecture_of
from rarl.plan.memory import FULL, HALF, Engine, Memory, Work, memory
from rarl.plan.tokens import Lengths, reading_of, stage_lengths
from rarl.training.config import RunConfig, completion_length
from rarl.training.sections import LoRA, Stage
from rarl.training.trainer_keys import GRPOKeys

HEADROOM = 0.9
"""The share of a card that a plan may fill: the driver and memory that is free in pieces take the rest."""
FURTHER_CARDS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        steps: of the optimizer.
        prompts, responses: that are generated in all.
        lengths: of its prompts, by the number of images.
        memory: of a card, by engine.
    """

    name: str
    steps: int
    prompts: int
    responses: int
    lengths: list[Lengths]
    memory: dict[str, Memory]

    def fits(self, engine: str, card: float) -> bool:
        """Whether it fits on cards of `card` bytes with this engine."""
        return self.memory[engine].peak <= HEADROOM * card


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
        parameters, trained: of the model, and those that the optimizer changes.
        card: bytes of a card.
        stages: in order.
        sft_steps: None without SFT.
        advice: what to change, where no engine fits.
        notes: what was estimated, and what could not be known.
    """

    model: str
    family: str
    parameters: int
    trained: int
    cards: int
    card: float
    stages: list[StagePlan]
    sft_steps: int | None
    advice: list[str]
    notes: list[str]

    def fits(self, engine: str) -> bool:
        """Whether every stage fits on the cards with this engine."""
        return all(stage.fits(engine, self.card) for stage in self.stages)

    def hours(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Hours of each arm that `seconds` has the seconds of a step of."""
        steps = {stage.name: stage.steps for stage in self.stages}
        if self.sft_steps is not None:
            steps |= {"sft": self.sft_steps, "sft_answer_only": self.sft_steps}
        return {arm: steps[arm] * each / 3600 for arm, each in seconds.items() if arm in steps}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the peak of each memory."""
        plain = asdict(self)
        for stage, made in zip(self.stages, plain["stages"], strict=True):
            for engine, parts in stage.memory.items():
                made["memory"][engine]["peak"] = parts.peak
                made["memory"][engine]["fits"] = stage.fits(engine, self.card)
        return plain


def plan_run(config: RunConfig, *, cards: int, card: float, size: Size | None, gpu: bool = True) -> Plan:
    """Plans a run on `cards` cards.

    Args:
        card: bytes of memory of one card.
        size: of every image, in place of the collection's; None: the collection's.
        gpu: whether it trains on GPUs, in bfloat16 and with activation checkpointing unless the run says
            otherwise, or on a CPU.

    Raises:
        ConfigError: if the run can't be divided among so many cards, or nothing says how large images are.
        DataError, ModelError: if the collection, or the model's config or processor, can't be read.
    """
    model, reading = architecture_of(config.model), reading_of(config)
    trained = _trained(model, config.lora)
    notes, stages = list(reading.notes), []
    for stage in config.stages:
        config.grpo_arguments(stage, processes=cards)  # or an error that says how it can't be divided
        lengths, said = stage_lengths(config, stage, reading, size)
        notes += [note for note in said if note not in notes]
        work = work_of(config, stage, lengths, model, cards=cards, gpu=gpu)
        engines: list[Engine] = ["ddp"] if cards == 1 else ["ddp", "fsdp"]
        stages.append(
            StagePlan(
                stage.name,
                stage.max_steps,
                prompts := config.prompts_of(stage),
                prompts * work.responses,
                lengths,
                {engine: memory(model, work, engine, cards) for engine in engines},
            )
        )
    sft = None if config.sft is None else int(config.sft_arguments(processes=cards)["max_steps"])
    plan = Plan(config.model, model.family, model.parameters, trained, cards, card, stages, sft, [], notes)
    if any(plan.fits(engine) for engine in plan.stages[0].memory):
        return plan
    plan.advice.extend(_advice(config, plan, model, gpu))
    return plan


def work_of(
    config: RunConfig,
    stage: Stage,
    lengths: list[Lengths],
    model: Architecture,
    *,
    cards: int,
    gpu: bool,
    groups: int | None = None,
) -> Work:
    """What one card does in a step of the stage, with its longest prompt.

    Args:
        groups: prompts in a micro-batch; None: as the run has it.
    """
    given = config.trainer_for(stage)
    keys = GRPOKeys(**given)
    longest = max(lengths, key=lambda each: each.most)
    parts = keys.gradient_accumulation_steps * cards
    whole = keys.prompts_per_step * keys.num_generations
    at_once = whole // parts if groups is None else groups * keys.num_generations
    micro_batches = (keys.steps_per_generation or keys.gradient_accumulation_steps) if groups is None else 1
    generated = at_once * micro_batches if groups is None else whole // cards
    shared = model.shares_prompts and keys.shared_prefix != "off" and at_once % keys.num_generations == 0
    other_reference = stage.reference == "base" and stage is not config.stages[0]
    # The base of adapters may be in half precision, where the run has such a key.
    frozen = HALF if config.dtype == "bfloat16" else FULL
    return Work(
        prompt=longest.most,
        of_images=longest.of_images,
        responses=keys.num_generations,
        length=completion_length(config, stage),
        at_once=at_once,
        generated=generated,
        accumulates=whole // cards > at_once,
        shared=shared,
        adapters=0
        if config.lora is None
        else model.adapter_parameters(config.lora.r, config.lora.target_modules),
        reference=keys.beta > 0 and (config.lora is None or other_reference),
        frozen_bytes=frozen,
        checkpointing=bool(given.get("activation_checkpointing", gpu)),
        half=bool(given.get("bf16", gpu)),
    )


def _trained(model: Architecture, lora: LoRA | None) -> int:
    return model.parameters if lora is None else model.adapter_parameters(lora.r, lora.target_modules)


# ── what to change ───────────────────────────────────────────────────────────────────────────────────────


def _advice(config: RunConfig, plan: Plan, model: Architecture, gpu: bool) -> list[str]:
    """Changes of which each makes every stage fit, with one group in a micro-batch."""

    def peak(cards: int, engine: Engine, changed: RunConfig, part: float = 1.0) -> float:
        """Bytes of the largest stage, with prompts of `part` of their length."""
        found = 0.0
        for stage, planned in zip(changed.stages, plan.stages, strict=True):
            lengths = [
                replace(each, most=int(each.most * part), of_images=int(each.of_images * part))
                for each in planned.lengths
            ]
            work = work_of(changed, stage, lengths, model, cards=cards, gpu=gpu, groups=1)
            found = max(found, memory(model, work, engine, cards).peak)
        return found

    found: list[str] = []

    def offer(change: str, size: float) -> bool:
        if fits := size <= HEADROOM * plan.card:
            found.append(f"{change}: {size / 1e9:.2g} GB a card")
        return fits

    cards, prompts = plan.cards, config.trainer.prompts_per_step
    engine: Engine = "ddp" if cards == 1 else "fsdp"
    sharded = " with FSDP" if engine == "fsdp" else ""
    one_group = "one group at a time (trainer.gradient_accumulation_steps: {})"
    if prompts % cards == 0:
        offer(one_group.format(prompts // cards) + sharded, peak(cards, engine, config))
        if config.lora is None:
            adapted = config.model_copy(update={"lora": LoRA(r=64, alpha=128)})
            change = "lora: {r: 64, alpha: 128} in place of all weights, and " + one_group
            offer(change.replace("{}", str(prompts // cards)), peak(cards, "ddp", adapted))
        change = f"prompts of half the length (lower `pixels`, fewer images), and {one_group}{sharded}"
        offer(change.format(prompts // cards), peak(cards, engine, config, 0.5))
    for more in FURTHER_CARDS:
        if more > cards and prompts % more == 0:
            change = f"{more} cards with FSDP, and {one_group.format(prompts // more)}"
            if gpu and offer(change, peak(more, "fsdp", config)):
                break
    return found or ["a smaller model: no change that can be computed here makes this one fit"]
