"""`RARLTrainer`: TRL's GRPOTrainer with the paper's rewards, settings and Response Mutation Operation (RMO,
section 3), and `RARLConfig`, its arguments (section 4.1). Responses are replaced at the end of `_generate`,
so everything after it is TRL's own: log-probs of policy and reference, rewards, the advantages of Eqs. 2 and
9, and the loss. What is replaced by what is decided in `rarl.method.mutation` and in the folder `mutation`.
The private methods of TRL that this file relies on are pinned to trl 1.16, each with a test."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Literal

import torch
from transformers import SchedulerType
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd

from rarl.errors import ConfigError, ModelError
from rarl.method.mutation import stagnant_switch
from rarl.method.replies import (
    opening_of,
)
from rarl.method.rewards import TERMS
from rarl.models.generation.replies import vision_tokens
from rarl.models.processor import reply_opening

# One prompt pass for a whole group makes a step cheaper and changes nothing else. To be rid of it, delete the
# folder `rarl/shared_prefix` and, in this file, every line that ends in "# shared prefix": training is then
# TRL's own, as it is with `shared_prefix: off`.
from rarl.shared_prefix.trainer import SharedPrefix, torn_groups  # shared prefix
from rarl.training.defaults import share_of_the_batch
from rarl.training.engines.sampling import Sampling
from rarl.training.engines.vllm import one_vllm
from rarl.training.keeping.resuming import Resuming
from rarl.training.mutation.choice import Choosing
from rarl.training.mutation.dynamic_sampling import DynamicSampling, why_not_resampled
from rarl.training.mutation.effort import KeepsState
from rarl.training.mutation.fields import MutationFields
from rarl.training.mutation.injection import Injecting, check_injection
from rarl.training.mutation.own_statistics import OwnStatistics
from rarl.training.mutation.references import References
from rarl.training.reference import OtherReference
from rarl.training.trainer_keys import process_count, schedule_problem

# ── arguments ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class RARLConfig(MutationFields, GRPOConfig):
    """`trl.GRPOConfig` with the paper's settings as defaults, and ours where it names none, as
    `rarl.training.defaults` lists them. A step has 64 responses over all processes and micro-batches, unless
    `per_device_train_batch_size` is given.

    Its own fields beside TRL's: those of `rarl.method.mutation.Mutation` carry the prefix `mutation_`; a
    `mutation_probability` of 0, the default, gives plain GRPO, as in stage 1. `stagnant` says what is done
    about groups that teach nothing (`rarl.method.mutation.stagnant_switch`). `shared_prefix` says whether a
    prompt is encoded once for its whole group (`rarl.shared_prefix`): `auto` does so where it can, and `on`
    makes it an error where it can't.

    Raises:
        ConfigError: for a mutation that is not possible, a `mutation_k` that is not below `num_generations`,
            another word for `shared_prefix`, `on` with micro-batches that can't hold whole groups, a warm-up
            that the schedule leaves out, or 64 responses that can't be divided.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "AdamW's learning rate."})
    beta: float = field(
        default=0.01, metadata={"help": "Weight of the KL divergence from the stage's start."}
    )
    loss_type: str = field(default="grpo", metadata={"help": "GRPO's loss, averaged by response."})
    use_bias_correction_kl: bool = field(default=True, metadata={"help": "The KL's gradient is Eq. 1's."})
    lr_scheduler_type: SchedulerType | str = field(default="constant", metadata={"help": "The schedule."})
    per_device_train_batch_size: int | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Responses in a micro-batch; not given: 64 in a step."}
    )
    shared_prefix: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "One prompt pass for the responses of a group: auto, on, or off."}
    )

    def __post_init__(self) -> None:
        if self.per_device_train_batch_size is None:
            parts = self.gradient_accumulation_steps * process_count()
            self.per_device_train_batch_size = share_of_the_batch(parts)
        if self.bf16 is None and not torch.accelerator.is_available():
            self.bf16 = False  # TRL 1.16 defaults to True, which it then refuses on a CPU
        super().__post_init__()
        if problem := schedule_problem(vars(self)):
            raise ConfigError(problem)
        if self.shared_prefix not in ("auto", "on", "off"):
            raise ConfigError(f"shared_prefix must be auto, on or off, not {self.shared_prefix!r}")
        if self.shared_prefix == "on" and (reason := torn_groups(self)):  # shared prefix
            raise ConfigError(f"shared_prefix: on is not possible: {reason}")  # shared prefix
        mutation = self.mutation
        if mutation.probability > 0 and mutation.k >= (self.num_generations or 0):
            raise ConfigError(
                f"mutation: k must be less than num_generations ({self.num_generations}), not {mutation.k}"
            )
        stagnant_switch(self.stagnant, mutation.probability)  # or an error
        if self.stagnant == "resample" and (reason := why_not_resampled(self)):
            raise ConfigError(f"stagnant: 'resample' is not possible: {reason}")
        if mutation.probability > 0:
            check_injection(self, mutation)


# ── the trainer ──────────────────────────────────────────────────────────────────────────────────────────

REWARDS: list[Callable[..., Any]] = [term.function for term in TERMS]


class RARLTrainer(
    Choosing,
    DynamicSampling,
    Injecting,
    OwnStatistics,
    References,
    KeepsState,
    OtherReference,
    Sampling,
    SharedPrefix,  # shared prefix
    Resuming,
    GRPOTrainer,
):
    """GRPO with ranking-aware rewards and RMO.

    It takes the arguments of `trl.GRPOTrainer`, and as `reference` another model for the KL to be measured
    from (`OtherReference`). The default `reward_funcs` are the regression, ranking and format rewards, in
    this order, weighted by `args.reward_weights` (the lambdas of Eq. 8). They need the columns `values`,
    `delta` and `range` beside `prompt` and `images`; mutation by the ground truth needs `values` and `step`.
    If only orders are known, there is a column `order` in place of `values`, the regression reward is left
    out, and its weight must be 0. `rarl.data.dataset.to_dataset` makes all of these columns.

    The responses of a group share one pass over their prompt if `args.shared_prefix` says so and the model
    can (`rarl.shared_prefix`). For that, the attention of the language model is replaced by one that computes
    "sdpa" wherever nothing is shared.

    What the prompt itself begins of a reply, such as `<think>` (`rarl.models.processor.reply_opening`), is
    part of each completion as rewards and logs have it, and no reference repeats it. No token that stands for
    an image or a video is sampled.

    Logged beside TRL's own metrics, each over all processes:
        policy/reward, policy/reward_std, policy/rewards/NAME, policy/r_len, policy/r_consis, policy/r_acc,
        policy/kl, policy/entropy: of the policy's own responses, without the injected ones;
        mutation/fraction: share of responses that were replaced;
        mutation/stagnant_before, mutation/stagnant_after: share of groups that are stagnant;
        groups/no_variance and resample/..., see `rarl.training.mutation.dynamic_sampling`;
        effort/..., see `rarl.training.mutation.effort`.
    The mutation metrics are left out if nothing is mutated and the dataset has no ground truth. For these
    metrics and for mutation, the reward functions are called three times a step: for the policy's own
    responses, for the references, and by TRL for the group as it is trained on.

    Raises:
        ModelError: if the chat template begins replies in a way that can't be read.
        ConfigError: if `args` is not a RARLConfig, prompts must be shared and can't be, or the regression
            reward has a weight and only orders are known; in training, if a column for mutation is missing,
            or a reference is longer than `max_completion_length`.
    """

    # The configuration always sets both; TRL's types also allow None.
    num_generations: int
    max_completion_length: int

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: RARLConfig | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or RARLConfig()
        if not isinstance(args, RARLConfig):
            raise ConfigError(
                f"args must be a RARLConfig, which takes the same fields, not a {type(args).__name__}"
            )
        if reward_funcs is None:
            reward_funcs = list(REWARDS)
            if _knows_orders_alone(train_dataset):
                reward_funcs, args = _without_values(args)
            elif args.reward_weights is None:
                args = copy.copy(args)
                args.reward_weights = [term.weight for term in TERMS]
        with one_vllm():
            super().__init__(model, reward_funcs, args, train_dataset=train_dataset, **kwargs)
        self._mutation = args.mutation
        self._special = frozenset(self._tokenizer.all_special_ids)
        self._inputs: list[dict[str, Any]] = []
        self._scored = "group"
        self._ban_vision_tokens()
        has_template = getattr(self.processing_class, "chat_template", None) is not None
        self._chat_opening = (
            reply_opening(self.processing_class, **(self.args.chat_template_kwargs or {}))
            if has_template
            else ""
        )
        if self._chat_opening and self.tools:
            raise ModelError(
                f"the chat template begins replies with {self._chat_opening!r}: with tools they can't be read"
            )
        self._opening = self._chat_opening
        self._parts: dict[
            str, list[list[float]]
        ] = {}  # of the responses of all processes, by what was scored
        self._start_resampling()
        self._start_sharing()  # shared prefix

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._inputs = inputs  # one row per response, with all columns of the dataset
        self._chosen = frozenset()
        return self._with_own_advantages(super()._generate_and_score_completions(inputs))

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(*arguments, **named)
        # PEFT's `generate` passes by the model that accelerate has prepared.
        with self.accelerator.autocast():
            return super()._generate_single_turn(*arguments, **named)

    def _ban_vision_tokens(self) -> None:
        """TRL 1.16 keeps only the image token out, and with vLLM none."""
        banned = vision_tokens(self.model, self.processing_class)
        if self.use_vllm:
            given = self.vllm_generation.generation_kwargs
            words = self._tokenizer.convert_ids_to_tokens(banned)
            words = [*dict.fromkeys([*(given.get("bad_words") or ()), *words])]
            # By name: `logit_bias` goes by ids, and a server gets JSON, whose keys are texts.
            self.vllm_generation.generation_kwargs = given | ({"bad_words": words} if words else {})
        else:
            every = sorted({*banned, *(self.generation_config.suppress_tokens or ())}) or None
            self.generation_config.suppress_tokens = self.generation_kwargs["suppress_tokens"] = every

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        output = self._with_opening(prompts, super()._generate(prompts))
        if not self.model.training:
            return output
        self._count_responses(len(prompts))
        own = self._score("policy", prompts, output[3], output[1])
        groups = len(own) // self.num_generations
        self._metrics["train"]["groups/no_variance"].append(len(self._without_variance(own)) / groups)
        first = None
        if self.args.stagnant == "resample":
            if self._has_references():
                first = self._stagnant_share(own, self._references(prompts, output, own)[2])
            output, own = self._resampled(prompts, output, own)
        if not self._has_references():
            return output
        prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest = output
        references, reference_completions, reference_rewards = self._references(prompts, output, own)
        self._remember(completion_ids, own)
        chosen = self._choose(own, reference_rewards)
        if first is not None:  # of the groups as they were first drawn
            self._metrics["train"]["mutation/stagnant_before"][-1] = first
        self._own_rewards, self._chosen = tuple(own), frozenset(chosen)
        after = [reference_rewards[at] if at in chosen else reward for at, reward in enumerate(own)]
        self._rewards_after = tuple(after)
        offset = self.accelerator.process_index * len(prompts)
        for index in range(len(prompts)):
            if offset + index in chosen:
                completion_ids[index] = references[index]
                completions[index] = reference_completions[index]
                if logprobs is not None:  # vLLM: not sampled, so TRL gives it an importance ratio of 1
                    logprobs[index] = [None] * len(references[index])
                if tool_mask is not None:
                    tool_mask[index] = [1] * len(references[index])
        self._injected = [offset + index in chosen for index in range(len(prompts))]
        self._log_completion_extra("mutated", self._injected)
        return prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest

    def _with_opening(self, prompts: list[Any], output: tuple[Any, ...]) -> tuple[Any, ...]:
        """TRL's output with completions that start where the reply does, which may be in the prompt."""
        as_text = isinstance(prompts[0], str)
        self._opening = opening_of(prompts[0]) if as_text else self._chat_opening
        if not self._opening:
            return output
        completions = [self._completion(ids, as_text) for ids in output[1]]
        return (*output[:3], completions, *output[4:])

    # ── the choice of responses ──────────────────────────────────────────────────────────────────────────

    def _references(self, prompts: list[Any], output: tuple[Any, ...], own: list[float]) -> tuple[Any, ...]:
        """What would replace each local response, as token ids and as completions, and the rewards of all."""
        ids = self._reference_ids(output[1], own)
        as_text = isinstance(output[3][0], str)  # as TRL has them if the prompts are texts
        completions = [self._completion(each, as_text) for each in ids]
        return ids, completions, self._score("reference", prompts, completions, ids)

    def _score(
        self, scored: str, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]]
    ) -> list[float]:
        """The total reward (Eq. 8) of each response of all processes, as TRL computes it."""
        self._scored = scored
        parts = self._calculate_rewards(self._inputs, prompts, completions, completion_ids)
        self._scored = "group"
        rewards = (parts * self.reward_weights.to(parts.device)).nansum(dim=1)
        rewards[parts.isnan().all(dim=1)] = torch.nan
        self._parts["policy" if scored == "resampled" else scored] = parts.tolist()
        if scored == "policy":
            metrics = self._metrics["train"]
            for name, values in zip(self.reward_func_names, parts.unbind(dim=1), strict=True):
                metrics[f"policy/rewards/{name}"].append(values.nanmean().item())
            metrics["policy/reward"].append(rewards.nanmean().item())
            metrics["policy/reward_std"].append(nanstd(rewards).item())
        return rewards.tolist()

    # ── metrics ──────────────────────────────────────────────────────────────────────────────────────────

    def _log_metric(self, name: str, value: float) -> None:
        """Keeps the rewards' own metrics apart by what is being scored."""
        if self._scored == "group":
            super()._log_metric(name, value)
        elif self._scored == "policy":
            super()._log_metric(f"policy/{name}", value)

    def _log_completion_extra(self, column: str, values: list[Any]) -> None:
        if self._scored == "group":
            super()._log_completion_extra(column, values)


def _knows_orders_alone(dataset: Any) -> bool:
    columns = getattr(dataset, "column_names", None) or ()
    return "order" in columns and "values" not in columns


def _without_values(args: RARLConfig) -> tuple[list[Callable[..., Any]], RARLConfig]:
    """The rewards that need no values, and their weights; `args` itself is not changed."""
    weights = args.reward_weights or [term.weight for term in TERMS]
    names = f"{', '.join(term.name for term in TERMS[:-1])} and {TERMS[-1].name}"
    zeros = [0 if term.needs_values else 1 for term in TERMS]
    if len(weights) != len(TERMS):
        raise ConfigError(
            f"reward_weights must be of {names}, not {len(weights)} numbers; where only orders are known, as "
            f"in this dataset, such as {zeros}"
        )
    for term, weight in zip(TERMS, weights, strict=True):
        if term.needs_values and weight != 0:
            raise ConfigError(
                f"the dataset knows orders alone (column 'order'), and the weight of the {term.name} "
                f"reward is {weight:g}: make it 0, as in reward_weights={zeros}"
            )
    known = [not term.needs_values for term in TERMS]
    args = copy.copy(args)
    args.reward_weights = [*compress(weights, known)]
    return [*compress(REWARDS, known)], args
