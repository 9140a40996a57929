"""The shared prompt pass against the stock model on repeated prompts: log-probs, entropies, gradients and
rollouts of Qwen2-VL, Qwen2.5-VL and Qwen3-VL are the same up to rounding in float32. Prompts are made by hand
here, token by token, with images of few patches; the trainer's own are in `test_trainer.py`."""

import json
from functools import partial

import pytest
import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from trl.trainer.utils import add_fused_lm_head

from rarl.errors import ModelError
from rarl.models.loading import load_model
from rarl.shared_prefix.packing import Prompts, pack, rollouts, share, why_not

COUNT = 3  # responses to a prompt
LENGTH = 10  # tokens of the longest response
START, END, IMAGE, VIDEO = 3, 4, 5, 6  # of the tiny model: vision start and end, image and video
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "initializer_range": 0.15,
    "max_position_embeddings": 512,
    "vocab_size": 672,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {"depth": 2, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "initializer_range": 0.15}
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "tie_word_embeddings": False,
}


def random_model(kind):
    """A small model with fewer heads of keys than of queries, and weights drawn with a seed."""
    torch.manual_seed(0)
    if kind == "qwen2_vl":
        vision = {**VISION, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        return Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(text_config=TEXT, vision_config=vision, **TOKENS)
        ).eval()
    if kind == "qwen3_vl":
        rope = {**TEXT["rope_parameters"], "mrope_interleaved": True}
        vision = {**VISION, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
        text = {key: value for key, value in TEXT.items() if key != "bos_token_id"}
        text |= {"rope_parameters": rope, "head_dim": 16}
        return Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision, **TOKENS)
        ).eval()
    vision = {**VISION, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
    vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, **TOKENS)
    ).eval()


def with_lora(model, trained):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    if trained:
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
    return adapted


def checkpointed(model):
    model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


MODELS = {
    "tiny": lambda: load_model("tiny", training=True),
    "grouped_queries": partial(random_model, "qwen2_5_vl"),
    "qwen2_vl": partial(random_model, "qwen2_vl"),
    "qwen3_vl": partial(random_model, "qwen3_vl"),
}
WRAPPED = {
    "new_lora": partial(with_lora, trained=False),
    "lora": partial(with_lora, trained=True),
    "checkpointed": checkpointed,
}
# A prompt is the grids of its images, each height and width in patches; 2 x 2 patches are one token.
ONE = [[(2, 2), (4, 2)]]
SEVERAL = [[(4, 4)], [], [(2, 6), (2, 2), (4, 2)]]
BIG = [[(12, 20), (20, 4)], [(2, 2)]]
TEXTS = [[], []]


def prompts_of(*images, lengths=(7, 5, 12), seed=0):
    """Prompts with these images between random words, so many for each prompt."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for grids, words in zip(images, lengths, strict=False):
        texts = torch.randint(10, 600, (words,), generator=generator).tolist()
        row = texts[:2]
        for height, width in grids:
            row += [START, *[IMAGE] * (height * width // 4), END, texts[0]]
        rows.append(row + texts[2:])
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    grids = [(1, *grid) for of_prompt in images for grid in of_prompt]
    if not grids:
        return Prompts(ids, mask, {})
    patches = sum(height * width for _, height, width in grids)
    pixels = torch.randn(patches, 3 * 2 * 14 * 14, generator=generator)
    return Prompts(ids, mask, {"pixel_values": pixels, "image_grid_thw": torch.tensor(grids)})


def repeated(prompts, images, count):
    """The stock model's inputs: each prompt and its images `count` times."""
    inputs = {
        "input_ids": prompts.ids.repeat_interleave(count, dim=0),
        "attention_mask": prompts.mask.repeat_interleave(count, dim=0),
    }
    if not prompts.images:
        return inputs
    sizes = [sum(height * width for height, width in grids) for grids in images]
    pixels = prompts.images["pixel_values"].split(sizes)
    grids = prompts.images["image_grid_thw"].split([len(grids) for grids in images])
    return inputs | {
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
        "pixel_values": torch.cat([each for each in pixels for _ in range(count)]),
        "image_grid_thw": torch.cat([each for each in grids for _ in range(count)]),
    }


def responses_to(prompts, count=COUNT, length=LENGTH):
    """Responses of all lengths: of the full length, of one token, and one that is masked completely."""
    generator = torch.Generator().manual_seed(7)
    rows = len(prompts.ids) * count
    lengths = [length, 0, *torch.randint(1, length + 1, (rows,), generator=generator).tolist()][:rows]
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(10, 600, (rows, length), generator=generator) * mask, mask


def pair(kind, wrapped=None):
    """The same model twice, with TRL's head: one shares prompts, the other is as it was."""
    models = []
    for shared in (True, False):
        model = MODELS[kind]()
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        if shared:
            share(model)
        models.append(WRAPPED[wrapped](model) if wrapped else model)
    return models


def shared_scores(model, prompts, ids, mask):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    packed = pack(base, prompts, ids, mask)
    with packed.scored_alone(base) as labels:
        output = model(**packed.inputs, shift_labels=labels, fused_lm_head=True)
    assert output.log_probs.shape == (len(prompts.ids), ids.numel() // len(prompts.ids))
    return packed.unpack(output.log_probs), packed.unpack(output.entropy)


def stock_scores(model, prompts, images, ids, mask):
    inputs = repeated(prompts, images, len(ids) // len(prompts.ids))
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(ids.shape)], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], mask], dim=1)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, : -ids.shape[1]] = -100
    output = model(**inputs, labels=labels, fused_lm_head=True)
    return output.log_probs[:, -ids.shape[1] :], output.entropy[:, -ids.shape[1] :]


def assert_same_scores(models, images, prompts=None, **responses):
    """Log-probs, entropies, and every parameter's gradient of a weighted sum."""
    prompts = prompts or prompts_of(*images)
    ids, mask = responses_to(prompts, **responses)
    shared, stock = models
    own = shared_scores(shared, prompts, ids, mask)
    theirs = stock_scores(stock, prompts, images, ids, mask)
    for ours, expected in zip(own, theirs, strict=True):
        assert ours.shape == expected.shape == ids.shape
        assert not ours[mask == 0].any()
        assert torch.allclose(ours, expected, rtol=2e-6, atol=1e-5)  # float32 keeps 1e-7 of a number
    assert own[0][mask == 1].std() > 0.1  # the comparison says something
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) * mask
    (own[0] * weights).sum().backward()
    (theirs[0] * weights).sum().backward()
    expected = {name: weight.grad for name, weight in stock.named_parameters()}
    floor = 1e-6 * max(float(grad.norm()) for grad in expected.values() if grad is not None)
    for name, weight in shared.named_parameters():
        if expected[name] is None:
            assert weight.grad is None, name
        else:
            difference = float((weight.grad - expected[name]).norm())
            assert difference <= max(1e-5 * float(expected[name].norm()), floor), name


# ── log-probs, entropies and gradients ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("images", [ONE, SEVERAL, BIG, TEXTS], ids=["one", "several", "big", "texts"])
@pytest.mark.parametrize("kind", MODELS)
def test_scores_and_gradients_are_the_stock_models(kind, images):
    assert_same_scores(pair(kind), images)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_scores_and_gradients_of_a_wrapped_model_are_the_stock_models(wrapped):
    assert_same_scores(pair("tiny", wrapped), SEVERAL)


@pytest.mark.parametrize(("count", "length"), [(1, LENGTH), (5, 1), (2, 2)])
def test_any_number_of_responses_of_any_length(count, length):
    assert_same_scores(pair("grouped_queries"), SEVERAL, count=count, length=length)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 4)])
def test_prompts_of_one_token(lengths):
    assert_same_scores(pair("grouped_queries"), TEXTS, prompts_of(*TEXTS, lengths=lengths))


def test_what_an_earlier_generation_left_is_no_part_of_the_scores():
    shared, stock = pair("tiny")
    shared.model.rope_deltas = torch.full((9, 1), 50)
    assert_same_scores((shared, stock), SEVERAL)


def test_a_packed_row_by_hand():
    """The prompt 11 12 13, and a padded one; two responses each, the second of one token."""
    model = pair("tiny")[0]
    ids, mask = torch.tensor([[11, 12, 13], [0, 21, 22]]), torch.tensor([[1, 1, 1], [0, 1, 1]])
    responses = torch.tensor([[31, 32, 33], [41, 0, 0], [51, 52, 0], [61, 0, 0]])
    scored = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    packed = pack(model, Prompts(ids, mask, {}), responses, scored)
    nothing = -100
    assert packed.inputs["input_ids"].tolist() == [
        [11, 12, 13, 31, 32, 13, 41, 0],
        [0, 21, 22, 51, 52, 22, 61, 0],
    ]
    assert packed.labels.tolist() == [
        [nothing, nothing, 31, 32, 33, 41, nothing, nothing],
        [nothing, nothing, 51, 52, nothing, nothing, nothing, nothing],
    ]
    positions = packed.inputs["position_ids"]
    assert positions.shape == (3, 2, 8)
    assert positions[:, 0].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]] * 3
    assert positions[:, 1, 1:].tolist() == [[0, 1, 2, 3, 1, 2, 3]] * 3
    assert packed.unpack(packed.labels).tolist() == [
        [31, 32, 33],
        [41, nothing, nothing],
        [51, 52, nothing],
        [nothing] * 3,
    ]


def test_positions_by_hand():
    """An image of two tokens beside one another, in a prompt that is padded by one: they have one temporal
    and one height position, 2, and what follows begins after the image's longer side."""
    ids = torch.tensor([[0, 11, START, IMAGE, IMAGE, END, 12]])
    images = {"pixel_values": torch.zeros(8, 1176), "image_grid_thw": torch.tensor([[1, 2, 4]])}
    prompts = Prompts(ids, (ids > 0).long(), images)
    temporal, height, width = prompts.positions(load_model("tiny"))[:, 0, 1:].tolist()
    assert temporal == height == [0, 1, 2, 2, 4, 5]
    assert width == [0, 1, 2, 3, 4, 5]


def test_responses_must_be_equally_many():
    prompts = prompts_of(*TEXTS)
    ids = torch.ones(5, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="5 responses to 2 prompts: not equally many for each"):
        pack(pair("tiny")[0], prompts, ids, ids)


# ── rollouts ─────────────────────────────────────────────────────────────────────────────────────────────


def generation(**given):
    fields = {"max_new_tokens": LENGTH, "do_sample": False, "suppress_tokens": [IMAGE]}
    fields |= {"pad_token_id": 0, "eos_token_id": 2, "disable_compile": True}
    return GenerationConfig(**fields | given)


def generated(model, call):
    """The tokens, and the logits from which each was chosen."""
    logits = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(
        lambda module, args, output: logits.append(output if output.ndim == 2 else output[:, -1])
    )
    tokens = call(model)
    hook.remove()
    return tokens, torch.stack(logits[-tokens.shape[1] :], dim=1)


def assert_same_rollouts(models, images, prompts=None, count=COUNT, config=None):
    prompts, config = prompts or prompts_of(*images), config or generation()
    inputs = repeated(prompts, images, count)
    torch.manual_seed(5)
    own, logits = generated(models[0], lambda model: rollouts(model, prompts, count, config))
    torch.manual_seed(5)
    theirs, stock_logits = generated(
        models[1], lambda model: model.generate(**inputs, generation_config=config)
    )
    theirs = theirs[:, prompts.ids.shape[1] :]
    assert torch.equal(own, theirs)
    assert torch.allclose(logits, stock_logits, rtol=1e-5, atol=1e-4)
    return own


@pytest.mark.parametrize("images", [ONE, SEVERAL, BIG, TEXTS], ids=["one", "several", "big", "texts"])
@pytest.mark.parametrize("kind", MODELS)
def test_greedy_rollouts_are_the_stock_models(kind, images):
    tokens = assert_same_rollouts(pair(kind), images)
    assert tokens.shape[0] == COUNT * len(images)


@pytest.mark.parametrize("penalty", [1.0, 1.1])  # the second is left to generate
@pytest.mark.parametrize("kind", ["tiny", "grouped_queries", "qwen3_vl"])
def test_sampled_rollouts_are_the_stock_models_with_the_same_seed(kind, penalty):
    config = generation(do_sample=True, temperature=1.2, top_k=0, repetition_penalty=penalty)
    tokens = assert_same_rollouts(pair(kind), SEVERAL, config=config)
    assert len({tuple(row) for row in tokens.tolist()}) > len(SEVERAL)


def test_rollouts_of_a_model_with_an_adapter_are_the_stock_models():
    assert_same_rollouts(pair("tiny", "lora"), SEVERAL)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 4)])
def test_rollouts_of_prompts_of_one_token(lengths):
    assert_same_rollouts(pair("grouped_queries"), TEXTS, prompts_of(*TEXTS, lengths=lengths))


@pytest.mark.parametrize("least", [0, 4])
@pytest.mark.parametrize("top_k", [0, 50])  # the second is left to generate
def test_responses_that_end_early_are_padded(top_k, least):
    """Each prompt's favourite first token, after a few samples, ends a response here."""
    models = pair("grouped_queries")
    config = generation(
        do_sample=True,
        temperature=3.0,
        top_k=top_k,
        min_new_tokens=least,
        eos_token_id=list(range(2, 672, 3)),
    )
    tokens = assert_same_rollouts(models, SEVERAL, config=config)
    assert len(set((tokens != 0).sum(dim=1).tolist())) > 2


def test_nothing_is_left_of_a_rollout():
    shared, stock = pair("tiny")
    for images in (SEVERAL, BIG, TEXTS):
        shared.model.rope_deltas = torch.full((1, 1), 50)  # of a generation that was not shared
        assert_same_rollouts((shared, stock), images)
        assert shared.model.rope_deltas is None
    assert_same_scores((shared, stock), SEVERAL)


def test_an_image_token_is_kept_out_where_it_is_suppressed():
    """Without that, this model would say nothing else."""
    shared = pair("grouped_queries")[0]
    prompts = prompts_of(*TEXTS)
    favourite = rollouts(shared, prompts, 1, generation())[0, 0]
    with torch.no_grad():
        shared.lm_head.weight[IMAGE] = 2 * shared.lm_head.weight[favourite]
    assert (rollouts(shared, prompts, COUNT, generation(suppress_tokens=None))[0] == IMAGE).any()
    assert not (rollouts(shared, prompts, COUNT, generation()) == IMAGE).any()


# ── a model that was made ready ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", MODELS)
def test_other_passes_are_the_stock_models_bit_for_bit(kind):
    shared, stock = pair(kind)
    inputs = repeated(prompts_of(*SEVERAL), SEVERAL, 2)
    assert torch.equal(shared(**inputs).logits, stock(**inputs).logits)
    config = generation()
    tokens = [model.generate(**inputs, generation_config=config) for model in (shared, stock)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("kind", ["tiny", "qwen3_vl"])
def test_a_saved_model_says_nothing_of_it(kind, tmp_path):
    shared, stock = pair(kind)
    inputs = repeated(prompts_of(*SEVERAL), SEVERAL, 1)
    shared.save_pretrained(tmp_path)
    assert "shared_prefix" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == shared.config.model_type
    again = type(shared).from_pretrained(tmp_path).eval()
    assert again.config.get_text_config()._attn_implementation == "sdpa"
    assert torch.equal(again(**inputs).logits, stock(**inputs).logits)


def test_which_models_can_share():
    for kind in MODELS:
        assert why_not(MODELS[kind]()) is None
    text = Qwen2Config(**{key: value for key, value in TEXT.items() if key != "rope_parameters"})
    assert why_not(Qwen2ForCausalLM(text)) == (
        "the model is a qwen2, and only qwen2_vl, qwen2_5_vl, qwen3_vl are known"
    )


def test_a_window_of_attention_can_not_be_shared():
    model = random_model("qwen2_5_vl")
    model.config.text_config.layer_types[1] = "sliding_attention"
    assert why_not(model) == "the model has layers of sliding-window attention"


def test_a_model_whose_attention_was_changed_is_refused():
    """It would ignore what is shared, and give other numbers."""
    model, _ = pair("tiny")
    prompts = prompts_of(*ONE)
    ids, mask = responses_to(prompts)
    model.set_attn_implementation("sdpa")
    for call in (
        lambda: pack(model, prompts, ids, mask),
        lambda: rollouts(model, prompts, COUNT, generation()),
    ):
        with pytest.raises(ModelError, match="attention was changed to 'sdpa' after it was made ready"):
            call()


def test_a_model_that_generates_without_a_cache_by_itself():
    own, stock = pair("tiny")
    for model in (own, stock):
        model.generation_config.use_cache = False
    assert_same_rollouts((own, stock), ONE)
