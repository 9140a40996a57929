"""The settings of `RARLTrainer`: TRL's, with the paper's defaults, those of the Response Mutation Operation,
and whether prompts are shared."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from trl import GRPOConfig

from rarl.errors import ConfigError
from rarl.mutation import Mutation


@dataclass
class RARLConfig(GRPOConfig):
    """`trl.GRPOConfig` with the paper's settings as defaults (section 4.1) and the fields of
    `rarl.mutation.Mutation`, each with the prefix `mutation_`; `mutation_probability` 0, the default, gives
    plain GRPO. `shared_prefix` says whether a prompt is encoded once for its group (`rarl.training.sharing`):
    with `auto` where that is possible, and with `on` it is an error where it is not.

    Raises:
        ConfigError: for a mutation that is not possible, a `mutation_k` that is not below `num_generations`,
            another word for `shared_prefix`, or `on` with a batch that can't hold whole groups.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "AdamW's learning rate."})
    beta: float = field(
        default=0.01, metadata={"help": "Weight of the KL divergence from the stage's start."}
    )
    loss_type: str = field(default="grpo", metadata={"help": "The loss of Eq. 1, averaged by response."})
    shared_prefix: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "One prompt pass for the responses of a group: auto, on, or off."}
    )
    mutation_k: int = field(
        default=2, metadata={"help": "At most so many responses of a group are replaced."}
    )
    mutation_probability: float = field(default=0.0, metadata={"help": "That a group is mutated at a step."})
    mutation_when: str = field(default="always", metadata={"help": "always, or stagnant."})
    mutation_reference: str = field(default="ground_truth", metadata={"help": "ground_truth, or best."})
    mutation_reasoning: str = field(default="template", metadata={"help": "template, keep, or empty."})

    def __post_init__(self) -> None:
        if self.bf16 is None and not torch.accelerator.is_available():
            self.bf16 = False  # TRL 1.16 takes True where nothing is said, and refuses it on a CPU
        super().__post_init__()
        if self.shared_prefix not in ("auto", "on", "off"):
            raise ConfigError(f"shared_prefix must be auto, on or off, not {self.shared_prefix!r}")
        if self.shared_prefix == "on" and (reason := torn_groups(self)):
            raise ConfigError(f"shared_prefix: on is not possible: {reason}")
        mutation = self.mutation
        if mutation.probability > 0 and mutation.k >= (self.num_generations or 0):
            raise ConfigError(
                f"mutation: k must be less than num_generations ({self.num_generations}), not {mutation.k}"
            )

    @property
    def mutation(self) -> Mutation:
        """The mutation fields as one value."""
        return Mutation(
            self.mutation_k,
            self.mutation_probability,
            self.mutation_when,  # type: ignore[arg-type]
            self.mutation_reference,  # type: ignore[arg-type]
            self.mutation_reasoning,  # type: ignore[arg-type]
        )


def torn_groups(args: GRPOConfig) -> str | None:
    """Why a micro-batch can't hold whole groups, as shared prompts need; None where it can."""
    size, group = args.per_device_train_batch_size, args.num_generations or 1
    if size % group == 0:
        return None
    return (
        f"a micro-batch of {size} responses (per_device_train_batch_size) can't hold whole groups of {group} "
        "(num_generations): make it a multiple, or in a run lower gradient_accumulation_steps or the number "
        "of processes"
    )
