"""One prompt pass for G responses inside TRL's GRPOTrainer: a prompt's images are processed once, the prompt
is encoded once in generation, in the reference pass and in the update, and groups stay whole in
micro-batches. How that is computed is in packing.py and attention.py; this file only puts it in place of
private methods of trl 1.16, each with a test. The suffixes of tensors are explained in
`rarl.shared_prefix`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType, gather_object
from trl import GRPOConfig
from trl.data_utils import prepare_multimodal_messages

from rarl.errors import ConfigError
from rarl.models.generation.decoding import generating_by
from rarl.models.pixels import looking_up
from rarl.models.positions import backbone_of
from rarl.shared_prefix.attention import IMPLEMENTATION
from rarl.shared_prefix.packing import Prompts, pack, rollouts, see, share, why_not

logger = logging.getLogger(__name__)

Batch = dict[str, Any]


def torn_groups(args: GRPOConfig) -> str | None:
    """Says why a micro-batch can't hold whole groups, as shared prompts need; None if it can."""
    size, group = args.per_device_train_batch_size, args.num_generations or 1
    if size % group == 0:
        return None
    return (
        f"a micro-batch of {size} responses (per_device_train_batch_size) can't hold whole groups of {group} "
        "(num_generations): make it a multiple, or in a run lower gradient_accumulation_steps or the number "
        "of processes"
    )


class SharedPrefix:
    """Makes a GRPOTrainer share prompts. It goes before GRPOTrainer among the bases of a class whose
    `__init__` calls `_start_sharing` last. Until that call, in evaluation (which has other batches), and
    where prompts are not shared, every method here passes its call on to TRL unchanged."""

    args: Any
    model: Any
    accelerator: Any
    processing_class: Any
    num_generations: int
    _buffered_inputs: Any
    _step: int

    _shares = False  # whether prompts are shared in training

    # ── whether prompts are shared ───────────────────────────────────────────────────────────────────────

    def _start_sharing(self) -> None:
        """Decides by `args.shared_prefix` whether prompts are shared, and makes the models ready.

        Raises:
            ConfigError: if it is "on" and not possible.
        """
        wanted = self.args.shared_prefix
        if wanted == "off":
            return
        reason = self._why_not_shared()
        if reason and wanted == "on":
            raise ConfigError(f"shared_prefix: on is not possible: {reason}")
        if reason and self.accelerator.is_main_process:
            logger.warning("shared_prefix is off, each response has its own prompt pass: %s", reason)
        self._shares = reason is None
        self._whole_rows: list[Batch] = []
        self._images: Batch = {}
        self._seen: tuple[torch.Tensor, Batch] | None = None  # pixels, and what the policy sees in them
        if self._shares:
            self._warn_of_changes()
            for model in (self.model, getattr(self, "ref_model", None)):
                if model is not None:
                    share(self._unwrapped(model))

    @property
    def _sharing(self) -> bool:
        return self._shares and self.model.training

    def _why_not_shared(self) -> str | None:
        if reason := torn_groups(self.args):
            return reason
        if getattr(self, "tools", None) or getattr(self, "environment_factories", None) is not None:
            return "with tools or environments the responses to a prompt have different images"
        if getattr(self, "rollout_func", None) is not None:
            return "a rollout_func makes its own prompts"
        if getattr(self, "use_transformers_continuous_batching", False):
            return "continuous batching has a cache of its own"
        model = self._unwrapped(self.model)
        given = self.args.generation_kwargs or {}
        caches = [
            self.args.cache_implementation,
            given.get("cache_implementation"),
            getattr(model.generation_config, "cache_implementation", None),
        ]
        if any(caches) or given.get("num_beams", 1) != 1 or not given.get("use_cache", True):
            return "generation is given a cache or beams of its own"
        adapter = getattr(self.model, "active_peft_config", None)
        if adapter is not None and adapter.is_prompt_learning:
            return "an adapter that learns a prompt lengthens it"
        return why_not(model)

    def _warn_of_changes(self) -> None:
        if not self.accelerator.is_main_process:
            return
        if getattr(self, "use_vllm", False):
            logger.warning("shared_prefix: vLLM generates, so that only the log-probs share their prompt")
        attention = self._unwrapped(self.model).config.get_text_config()._attn_implementation
        if attention not in ("sdpa", IMPLEMENTATION):
            logger.warning("shared_prefix: the language model's attention is sdpa now, and not %s", attention)

    def _unwrapped(self, model: Any) -> Any:
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    # ── a generation batch: images read once, prompts encoded once ───────────────────────────────────────

    def _generate_and_score_completions(self, inputs: list[Batch]) -> Batch:
        """Gives TRL prompts with their images inside, one object for a whole group, and no column of images.
        So TRL reads no images for the log-probs; the micro-batches get the ones that were read for
        generation."""
        if not self._sharing:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        self._whole_rows = inputs
        prompts = [_prompt_with_images(row) for row in inputs[:: self.num_generations]]
        rows = [
            {key: value for key, value in row.items() if key not in ("image", "images")}
            | {"prompt": prompts[index // self.num_generations]}
            for index, row in enumerate(inputs)
        ]
        output: Batch = super()._generate_and_score_completions(rows)  # type: ignore[misc]
        images, self._images = self._images, {}  # from here on each micro-batch has its own
        if getattr(self, "log_multimodal", False) and {"image", "images"} & inputs[0].keys():
            self._log_images(inputs)
        return output | images

    def _log_images(self, inputs: list[Batch]) -> None:
        images = gather_object([_images_of(row) for row in inputs])
        if any(images):
            self._logs["images"].extend(images)  # type: ignore[attr-defined]

    def _calculate_rewards(self, inputs: list[Batch], *others: Any) -> Any:
        """Gives the rewards the dataset's columns as they are, with the images."""
        rows = self._whole_rows if self._sharing else inputs
        return super()._calculate_rewards(rows, *others)  # type: ignore[misc]

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, Batch]:
        if not self._sharing:
            return super()._tokenize_prompts(prompts)  # type: ignore[misc]
        with looking_up(self.processing_class):
            ids, images, fields = super()._tokenize_prompts(prompts[:: self.num_generations])  # type: ignore[misc]
        device = self.accelerator.device
        self._images = {
            key: torch.as_tensor(np.asarray(fields[key])).to(device)
            for key in ("pixel_values", "image_grid_thw")
            if key in fields
        }
        if self._images:
            self._images["num_images"] = [len(of_prompt or []) for of_prompt in images]
        return self._for_each(ids), None if images is None else self._for_each(images), {}

    def _for_each(self, of_prompts: list[Any]) -> list[Any]:
        """From one entry per prompt to one per response: B entries become N."""
        return [each for each in of_prompts for _ in range(self.num_generations)]

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        output = super()._generate(prompts)  # type: ignore[misc]
        # Without the images: TRL would process those of every response for the log-probs.
        return (*output[:6], None, output[7]) if self._sharing else output

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
        if not self._sharing:
            return super()._generate_single_turn(*arguments, **named)  # type: ignore[misc]
        with self._shared_generate():
            return super()._generate_single_turn(*arguments, **named)  # type: ignore[misc]

    @contextmanager
    def _shared_generate(self) -> Iterator[None]:
        """Inside, TRL generates as always, but the model's `generate` encodes each prompt once."""
        model = self.accelerator.unwrap_model(self.model)
        own = model.generate
        sees_once = self._sees_once()  # TRL turns off activation checkpointing inside

        def generate(input_ids: Any, attention_mask: Any, generation_config: Any) -> torch.Tensor:
            firsts = slice(None, None, self.num_generations)
            images = _image_tensors(self._images)
            if images and sees_once:
                pixels, images = images["pixel_values"], see(self._unwrapped(self.model), images)
                self._seen = pixels, images
            prompts = Prompts(input_ids[firsts], attention_mask[firsts], images)
            ids_NC = rollouts(model, prompts, self.num_generations, generation_config, own)
            return torch.cat([input_ids, ids_NC], dim=1)

        with generating_by(model, generate):
            yield

    def _sees_once(self) -> bool:
        """Whether the update can use what the vision tower saw in generation: it comes next, of the same
        images in the same order, and in one process that wraps nothing around the model. Only its memory is
        held meanwhile, and it is little beside the update's, unless that is saved by checkpointing."""
        visual = backbone_of(self.model).visual
        once = self.args.steps_per_generation * self.num_iterations == 1  # type: ignore[attr-defined]
        plain = self.accelerator.distributed_type == DistributedType.NO
        plain = plain and self.model_wrapped is self.model  # type: ignore[attr-defined]
        return (
            once
            and plain
            and not any(
                getattr(module, "gradient_checkpointing", False)
                or (isinstance(module, torch.nn.Dropout) and module.p > 0)  # no two passes are the same
                for module in visual.modules()
            )
        )

    # ── micro-batches of whole groups ────────────────────────────────────────────────────────────────────

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Does what TRL's method does, but shuffles whole groups, not rows."""
        if not self._sharing:
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:  # type: ignore[attr-defined]
            batch = self._generate_and_score_completions(generation_batch)
            # Drawn as TRL draws the order of the rows, so that a seed samples the same responses, shared or
            # not.
            order_N = torch.randperm(len(batch["completion_ids"]))
            groups = (order_N[order_N % self.num_generations == 0] // self.num_generations).tolist()
            groups = groups if steps > 1 else sorted(groups)  # one micro-batch needs no order, and no copies
            size = len(groups) // steps
            self._buffered_inputs = [
                self._micro_batch(batch, groups[at * size : (at + 1) * size]) for at in range(steps)
            ]
        return self._buffered_inputs[self._step % steps]

    def _micro_batch(self, batch: Batch, groups: list[int]) -> Batch:
        """The responses of these groups, with the images of their prompts."""
        size = self.num_generations
        rows = [group * size + index for group in groups for index in range(size)]
        micro_batch = {
            key: value[rows] if isinstance(value, torch.Tensor) and value.ndim else value
            for key, value in batch.items()
            if key not in IMAGE_FIELDS
        }
        return micro_batch | _images_of_prompts(batch, groups)

    # ── log-probs from packed rows ───────────────────────────────────────────────────────────────────────

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Log-probs [N, C] and, if wanted, entropies [N, C] of the responses in `input_ids` [N, P + C]."""
        if not self._sharing:
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **fields,
            )
        # While it generates TRL knows of no images; in the update it has those of the micro-batch.
        images = fields if fields.get("num_images") is not None else self._images
        count = self.num_generations
        size = batch_size or len(input_ids)
        logps, entropies = [], []
        for start in range(0, len(input_ids), size):
            ids_NL, mask_NL = input_ids[start : start + size], attention_mask[start : start + size]
            of_part = _images_of_prompts(images, range(start // count, (start + len(ids_NL)) // count))
            logps_NC, entropies_NC = self._score_packed(
                model, ids_NL, mask_NL, logits_to_keep, _image_tensors(of_part)
            )
            logps.append(logps_NC)
            entropies.append(entropies_NC)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _score_packed(
        self, model: Any, ids_NL: torch.Tensor, mask_NL: torch.Tensor, keep: int, images: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies [N, keep] of whole groups. Padding that all of them have is cut before the
        pass."""
        count = self.num_generations
        prompt_mask_BP, response_mask_NC = mask_NL[::count, :-keep], mask_NL[:, -keep:]
        begin = int((prompt_mask_BP.shape[1] - prompt_mask_BP.sum(dim=1)).min())
        length = max(1, int(response_mask_NC.sum(dim=1).max()))
        prompts = Prompts(ids_NL[::count, begin:-keep], prompt_mask_BP[:, begin:], images)
        own = self._unwrapped(model)
        if torch.is_grad_enabled() and self._seen is not None:
            (pixels, seen), self._seen = self._seen, None
            if images.get("pixel_values") is pixels:
                prompts = Prompts(prompts.ids, prompts.mask, seen)
        packed = pack(own, prompts, ids_NL[:, -keep:][:, :length], response_mask_NC[:, :length])
        with self.accelerator.autocast(), packed.scored_alone(own) as labels_BT:
            outputs = model(**packed.inputs, shift_labels=labels_BT, fused_lm_head=True)
        logps_BT = outputs.log_probs
        entropies_BT = torch.zeros_like(logps_BT) if outputs.entropy is None else outputs.entropy
        rest = (0, keep - length)
        pad = torch.nn.functional.pad
        return pad(packed.unpack(logps_BT), rest), pad(packed.unpack(entropies_BT), rest)


# ── images of prompts ────────────────────────────────────────────────────────────────────────────────────

IMAGE_FIELDS = ("pixel_values", "image_grid_thw", "num_images")  # of a batch


def _images_of(row: Batch) -> list[Any]:
    """The images of a dataset's row, from its column `images` or `image`."""
    if row.get("images") is not None:
        return list(row["images"])
    return [] if row.get("image") is None else [row["image"]]


def _prompt_with_images(row: Batch) -> Any:
    """The prompt of a dataset's row, with its images in their places."""
    images = _images_of(row)
    return prepare_multimodal_messages(row["prompt"], images=images) if images else row["prompt"]


def _image_tensors(fields: Batch) -> Batch:
    """The part of the image fields that the model is given."""
    return {key: fields[key] for key in IMAGE_FIELDS[:2] if key in fields}


def _images_of_prompts(fields: Batch, prompts: Sequence[int]) -> Batch:
    """The image fields of some of the prompts, in this order; without tensors if these prompts have no
    images."""
    if "num_images" not in fields:
        return {}
    counts = fields["num_images"]
    chosen: Batch = {"num_images": [counts[prompt] for prompt in prompts]}
    if not any(chosen["num_images"]):
        return chosen
    if list(prompts) == list(range(len(counts))):
        return chosen | _image_tensors(fields)
    grids_M3 = fields["image_grid_thw"].split(counts)  # one tensor per prompt, each image (1, height, width)
    patches = [int(grid_M3.prod(dim=-1).sum()) for grid_M3 in grids_M3]
    pixels = fields["pixel_values"].split(patches)
    return chosen | {
        "pixel_values": torch.cat([pixels[prompt] for prompt in prompts]),
        "image_grid_thw": torch.cat([grids_M3[prompt] for prompt in prompts]),
    }
