"""RMO and dynamic sampling as fields of `RARLConfig`: those of `rarl.method.mutation.Mutation` with the
prefix `mutation_`, and the switch of what is done about stagnant groups. What they mean is said there."""

from dataclasses import dataclass, field, fields

from rarl.method.mutation import Mutation


@dataclass
class MutationFields:
    """Goes before `trl.GRPOConfig` among the bases of a configuration."""

    stagnant: str | None = field(
        default=None,
        metadata={"help": "keep, mutate or resample; None: mutate with a mutation, keep without."},
    )
    resample_rounds: int = field(
        default=3, metadata={"help": "How often at most other prompts are drawn at a step, with resample."}
    )
    mutation_k: int = field(
        default=2, metadata={"help": "At most this many responses of a group are replaced."}
    )
    mutation_probability: float = field(
        default=0.0, metadata={"help": "Probability that a group is mutated at a step."}
    )
    mutation_when: str = field(default="always", metadata={"help": "always, or stagnant."})
    mutation_reference: str = field(
        default="ground_truth", metadata={"help": "ground_truth, best, or replay."}
    )
    mutation_reasoning: str = field(default="template", metadata={"help": "template, keep, or empty."})
    mutation_statistics: str = field(
        default="group", metadata={"help": "Mean and deviation of advantages: of the group, or the own ones."}
    )
    mutation_weight: str = field(
        default="one", metadata={"help": "Of injected tokens: one, or shaped as p / (p + gamma)."}
    )
    mutation_gamma: float = field(default=0.1, metadata={"help": "The gamma of the shaped weight."})
    mutation_kl: bool = field(default=True, metadata={"help": "Whether injected responses count in the KL."})
    mutation_decay: str = field(default="none", metadata={"help": "none, linear, or cosine, over the steps."})
    mutation_k_end: int = field(default=1, metadata={"help": "k at the last step, with a decay."})
    mutation_probability_end: float = field(
        default=0.0, metadata={"help": "The probability at the last step, with a decay."}
    )

    @property
    def mutation(self) -> Mutation:
        """The mutation fields as one value.

        Raises:
            ConfigError: if one is out of its range.
        """
        prefix = "mutation_"
        given = {
            entry.name.removeprefix(prefix): getattr(self, entry.name)
            for entry in fields(MutationFields)
            if entry.name.startswith(prefix)
        }
        return Mutation.of(**given)
