"""Dynamic sampling (DAPO, arXiv 2503.14476), the rival of RMO: a group whose responses all earn the same has
no advantage, so it is dropped and another prompt is drawn in its place, up to a bound of rounds. Groups that
are right throughout are dropped, too, as in DAPO. TRL 1.16 has no such thing. The paper does not use it."""

import random
from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages

from rarl.errors import ConfigError
from rarl.method.mutation import differ


def why_not_resampled(args: Any) -> str | None:
    """Why other prompts can't be drawn within a step; None if they can."""
    if args.use_vllm:
        return "vLLM generates for all processes at once, and they drop different numbers of groups"
    if args.deepspeed or args.fsdp:
        return "the model is spread over processes (FSDP, DeepSpeed), which drop different numbers of groups"
    return None


class DynamicSampling:
    """Goes before GRPOTrainer, and before `SharedPrefix`, among the bases of a class whose `_generate` calls
    `_resampled`. Other prompts are rows of the training data, drawn by the seed and the step alone: a run
    that goes on draws the same, and so do several processes. When the bound is reached, the groups without
    variance are kept, as TRL keeps them.

    Logged for every step: groups/no_variance, the share of the groups as first drawn whose responses all earn
    the same; TRL's frac_reward_zero_std is that of the groups that were trained on. With resampling also
    resample/rounds, and resample/replaced, the share of groups that are in place of another.
    """

    args: Any
    accelerator: Any
    state: Any
    train_dataset: Any
    num_generations: int
    _metrics: Any
    _inputs: list[dict[str, Any]]
    _place: str
    _responses: int

    def _start_resampling(self) -> None:
        """Checks that it is possible.

        Raises:
            ConfigError: if it is not.
        """
        if self.args.stagnant != "resample":
            return
        reason = why_not_resampled(self.args)
        for name in ("tools", "environment_factories", "rollout_func"):
            if getattr(self, name, None):
                reason = f"there is {name}, by which TRL generates on its own"
        if not hasattr(self.train_dataset, "__getitem__"):
            reason = "the training data can't be read by row"
        if reason:
            raise ConfigError(f"stagnant: 'resample' is not possible: {reason}")

    def _without_variance(self, rewards: Sequence[float]) -> list[int]:
        """The groups, among those of all processes, that TRL gives no advantage."""
        size = self.num_generations
        return [
            at
            for at in range(len(rewards) // size)
            if not differ(self._sums_of_group(rewards, at * size))  # type: ignore[attr-defined]
        ]

    def _resampled(
        self, prompts: list[Any], output: tuple[Any, ...], rewards: list[float]
    ) -> tuple[tuple[Any, ...], list[float]]:
        """What `_generate` returns, and the rewards of all processes, with other prompts in place of those
        that teach nothing. `prompts` and the rows of the dataset are replaced in place, where TRL reads them.
        """
        completion_ids, completions = list(output[1]), list(output[3])
        as_text = isinstance(completions[0], str)
        offset, size = self.accelerator.process_index * len(prompts), self.num_generations
        replaced: set[int] = set()
        rounds = 0
        dropped = self._without_variance(rewards)
        while dropped and rounds < self.args.resample_rounds:
            rounds += 1
            replaced.update(dropped)
            mine = []
            for group, row in zip(dropped, self._drawn(rounds, len(dropped)), strict=True):
                prompt = _prompt_of(row)  # one object for the whole group, as with shared prompts
                for at in range(group * size, (group + 1) * size):
                    if offset <= at < offset + len(prompts):
                        self._inputs[at - offset], prompts[at - offset] = dict(row), prompt
                        mine.append(at - offset)
            if mine:
                with self._rows_drawn([offset + at for at in mine], f"resample:{rounds}"):  # type: ignore[attr-defined]
                    ids = self._generated_for([prompts[at] for at in mine])
                for at, own in zip(mine, ids, strict=True):
                    completion_ids[at] = own
                    completions[at] = self._completion(own, as_text)  # type: ignore[attr-defined]
            self._count_globally(len(mine))
            rewards = self._score("resampled", prompts, completions, completion_ids)  # type: ignore[attr-defined]
            dropped = self._without_variance(rewards)
        self._metrics["train"]["resample/rounds"].append(rounds)
        self._metrics["train"]["resample/replaced"].append(len(replaced) * size / len(rewards))
        if not rounds:
            return output, rewards
        prompt_ids, images, _ = self._tokenize_prompts(prompts)  # type: ignore[attr-defined]
        images = None if output[6] is None else images
        return (prompt_ids, completion_ids, output[2], completions, *output[4:6], images, output[7]), rewards

    def _drawn(self, number: int, count: int) -> list[dict[str, Any]]:
        """So many rows of the training data, for round `number` of this step."""
        generator = random.Random(f"{self.args.seed}:{self._place}:resample:{number}")
        rows = len(self.train_dataset)
        return [self.train_dataset[generator.randrange(rows)] for _ in range(count)]

    def _generated_for(self, prompts: list[Any]) -> list[list[int]]:
        """The token ids of a response to each of these prompts."""
        prompt_ids, images, fields = self._tokenize_prompts(prompts)  # type: ignore[attr-defined]
        ids, _ = self._generate_single_turn(prompt_ids, images, fields, self.num_generations)  # type: ignore[attr-defined]
        return [list(map(int, each)) for each in ids]

    def _count_globally(self, local: int) -> None:
        self._responses += sum(gather_object([local]))


def _prompt_of(row: dict[str, Any]) -> Any:
    """The prompt of a row with its images in their places, as TRL makes it."""
    images = row.get("images")
    if images is None and row.get("image") is not None:
        images = [row["image"]]
    return prepare_multimodal_messages(row["prompt"], images=images) if images else row["prompt"]
