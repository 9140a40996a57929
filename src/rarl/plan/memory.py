"""The bytes on one card while a stage of GRPO trains, by what they are for, under DDP (each card has the
whole model) and FSDP (the cards share it). It counts tensors, with a line of arithmetic for each kind;
docs/plan.md has the list, and how near it is to what was measured. It runs nothing."""

from dataclasses import dataclass
from typing import Literal

from rarl.plan.architecture import Architecture, Blocks

Engine = Literal["ddp", "fsdp"]

FULL, HALF = 4, 2  # bytes of a number
ADAM = 8  # AdamW's two moments of a trained parameter
# TRL 1.16 reads log-probs off tiles of logits of so many tokens and words.
TILE_TOKENS, TILE_WORDS = 4096, 32768
TILE_COPIES = 2  # a tile and its gradient


@dataclass(frozen=True)
class Work:
    """What one card does in a step.

    Attributes:
        prompt: tokens of the longest prompt, those of its images among them.
        of_images: the tokens of its images.
        responses: G, the responses to a prompt.
        length: the most tokens of a response.
        at_once: responses in a micro-batch.
        generated: responses that are generated together, for one or several micro-batches.
        accumulates: whether a step has several micro-batches.
        shared: whether a group shares one prompt pass.
        adapters: the parameters of LoRA; 0: all weights are trained.
        reference: whether a second model is held for the KL.
        frozen_bytes: of a number of the weights that are not trained.
        checkpointing: whether only each layer's input is kept for the gradient.
        half: whether layers compute in bfloat16.
    """

    prompt: int
    of_images: int
    responses: int
    length: int
    at_once: int
    generated: int
    accumulates: bool
    shared: bool
    adapters: int = 0
    reference: bool = True
    frozen_bytes: int = FULL
    checkpointing: bool = True
    half: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes on one card.

    Attributes:
        weights, reference, gradients, optimizer: of the model's parameters.
        engine: DDP's buckets, or what FSDP has gathered at a time.
        images: the pixels of all prompts that were generated for.
        activations: what the update keeps of its forward pass.
        head: tiles of logits, and the gradient of the head.
        generation: the cache of keys and values, and the largest layer of the prompts' pass.
        accumulates: whether gradients of an earlier micro-batch are there when activations are at their most;
            otherwise the ones come as the others go.
    """

    weights: float
    reference: float
    gradients: float
    optimizer: float
    engine: float
    images: float
    activations: float
    head: float
    generation: float
    accumulates: bool

    @property
    def peak(self) -> float:
        """Held all the time, and the larger of what the update and the generation take beside it."""
        held = self.weights + self.reference + self.optimizer + self.engine + self.images
        both = self.gradients + self.activations
        update = both if self.accumulates else max(self.gradients, self.activations)
        return held + max(update + self.head, self.generation)


def memory(model: Architecture, work: Work, engine: Engine = "ddp", cards: int = 1) -> Memory:
    """The bytes on each of `cards` cards."""
    trained = work.adapters or model.parameters
    frozen_bytes = work.frozen_bytes if work.adapters else FULL
    share = cards if engine == "fsdp" else 1
    return Memory(
        weights=(model.parameters * frozen_bytes + work.adapters * FULL) / share,
        reference=model.parameters * frozen_bytes / share if work.reference else 0,
        gradients=trained * FULL / share,
        optimizer=trained * ADAM / share,
        engine=_engine(model, trained, engine, cards),
        images=_images(model, work),
        activations=_activations(model, work),
        head=_head(model, work),
        generation=_generation(model, work),
        accumulates=work.accumulates,
    )


def _engine(model: Architecture, trained: int, engine: Engine, cards: int) -> float:
    if cards == 1:
        return 0
    if engine == "ddp":
        return trained * FULL  # its buckets are a second copy of the gradients
    # The head or the embeddings, and two layers, the one at work and the one that is fetched; each as weights
    # and as gradients.
    words = model.vocabulary * model.text.hidden
    return 2 * (words + 2 * model.layer_parameters) * HALF


def _tokens(work: Work) -> int:
    """Tokens of a micro-batch in the language model."""
    if work.shared:
        groups = work.at_once // work.responses
        return groups * (work.prompt - 1 + work.responses * work.length)
    return work.at_once * (work.prompt + work.length)


def _prompts(work: Work, responses: int) -> int:
    """The prompts whose images are encoded for so many responses."""
    return responses // work.responses if work.shared else responses


def _images(model: Architecture, work: Work) -> float:
    patches = _prompts(work, work.generated) * work.of_images * model.patches
    return patches * model.patch_values * FULL


def _layer(blocks: Blocks, tokens: float, keys: float, half: bool) -> float:
    """What the gradient of one layer needs: of two norms the input, the normed and the scaled; the queries,
    what attention makes of them and a copy of it; four times the inner width; keys and values as attention
    has them.

    Args:
        keys: the keys that attention reads, as many times as it reads them, each as wide as the queries.
    """
    if half:  # norms are in float32, what linear layers are given is not
        width = 2 * blocks.hidden * (2 * FULL + HALF) + 3 * blocks.queries * HALF + 4 * blocks.inner * HALF
    else:
        width = (6 * blocks.hidden + 3 * blocks.queries + 4 * blocks.inner) * FULL
    return tokens * width + 2 * keys * blocks.queries * (HALF if half else FULL)


def _activations(model: Architecture, work: Work) -> float:
    tokens, text, vision = _tokens(work), model.text, model.vision
    patches = _prompts(work, work.at_once) * work.of_images * model.patches
    each = work.prompt + work.length
    keys = work.at_once * each + (work.at_once // work.responses * work.prompt if work.shared else 0)
    of_text = _layer(text, tokens, keys, work.half)
    # The tower has queries, keys and values in one tensor, and those that were turned beside it.
    of_vision = _layer(vision, patches, 2 * patches, work.half)
    if not work.checkpointing:
        return text.number * of_text + vision.number * of_vision
    kept = text.number * tokens * text.hidden * FULL + vision.number * patches * vision.hidden * FULL
    # One layer at a time is computed again, and its gradients are made beside it.
    size = HALF if work.half else FULL
    again = max(
        of_text + tokens * (2 * text.inner + text.hidden) * size,
        of_vision + patches * (2 * vision.inner + vision.hidden) * size,
    )
    return kept + again


def _head(model: Architecture, work: Work) -> float:
    tile = min(_tokens(work), TILE_TOKENS) * min(model.vocabulary, TILE_WORDS) * FULL * TILE_COPIES
    of_weights = 0 if work.adapters else model.vocabulary * model.text.hidden * FULL
    return tile + of_weights


def _generation(model: Architecture, work: Work) -> float:
    prompts = _prompts(work, work.generated)
    cached = prompts * work.prompt + work.generated * work.length
    cache = model.text.number * 2 * model.text.keys * cached * FULL
    pass_of_prompts = max(
        prompts * work.prompt * (3 * model.text.inner + 2 * model.text.hidden),
        prompts * work.of_images * model.patches * (3 * model.vision.inner + 2 * model.vision.hidden),
    )
    choice = 4 * work.generated * model.vocabulary  # logits, their copies and probabilities
    return cache + max(pass_of_prompts, choice) * FULL
