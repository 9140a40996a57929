"""By which numbers a trainer draws the tokens of responses: those of a response depend on the seed, the step
and its row among the rows of all processes, and not on what stands beside it. So one process and several draw
the same texts, up to rounding, and a run that goes on draws what the whole one would have. What is done with
the numbers is in `rarl.models.generation.decoding`. vLLM and continuous batching draw by themselves, and
so do evaluations of TRL."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from rarl.models.generation.decoding import Drawn, draws_of, generating_by


class Sampling:
    """Goes before GRPOTrainer, and before `SharedPrefix`, among the bases of a class."""

    args: Any
    model: Any
    accelerator: Any
    state: Any
    max_completion_length: int
    generation_config: Any
    _step: int

    _turn = 0  # how often there was generated for this batch, as with tools
    _count = 0  # this process's rows of the batch
    _given: tuple[Sequence[int], str] | None = None

    @property
    def _place(self) -> str:
        """Which batch of the run this is."""
        return f"{self.state.global_step}:{self._step % self.args.gradient_accumulation_steps}"

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        self._turn, self._count = 0, len(prompts)
        return super()._generate(prompts)  # type: ignore[misc]

    def _generate_single_turn(self, prompt_ids: list[Any], *arguments: Any, **named: Any) -> Any:
        if not self.model.training or getattr(self, "use_vllm", False):
            return super()._generate_single_turn(prompt_ids, *arguments, **named)  # type: ignore[misc]
        first = self.accelerator.process_index * self._count
        rows, what = self._given or (range(first, first + len(prompt_ids)), str(self._turn))
        self._turn += 1
        draws_NC = torch.stack([self._numbers(row, what) for row in rows]).to(self.accelerator.device)
        model = self.accelerator.unwrap_model(self.model)
        with generating_by(model, Drawn(model.generate, draws_NC)):
            return super()._generate_single_turn(prompt_ids, *arguments, **named)  # type: ignore[misc]

    @contextmanager
    def _rows_drawn(self, rows: Sequence[int], what: str) -> Iterator[None]:
        """Inside, responses are generated for these of all processes' rows.

        Args:
            what: why, in a word that no other generation for them in this batch has.
        """
        self._given = (rows, what)
        try:
            yield
        finally:
            self._given = None

    def _numbers(self, row: int, what: str) -> torch.Tensor:
        seed = random.Random(f"{self.args.seed}:{self._place}:{what}:{row}").getrandbits(32)
        most = max(self.max_completion_length, self.generation_config.max_new_tokens or 0)
        return draws_of(seed, most)
