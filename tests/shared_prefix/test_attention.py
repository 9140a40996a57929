"""The attention of responses that share their prompt's keys and values, against `sdpa` for each sequence by
itself: whole passes with their gradients, and single steps of generation. The masks are tables by hand. Whole
models are in `test_packing.py`."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rarl.models.loading import load_model
from rarl.shared_prefix.attention import (
    IMPLEMENTATION,
    Packing,
    SharedPrefixCache,
    set_shared_attention,
    sharing,
)

HEADS, WIDTH = 4, 8
SCALING = 0.3  # not the default of sdpa


class Layer(torch.nn.Module):
    """What an attention function knows about its layer."""

    def __init__(self, key_heads):
        super().__init__()
        self.is_causal = True
        self.num_key_value_groups = HEADS // key_heads
        self.layer_idx = 0


@pytest.fixture(scope="module", autouse=True)
def model():
    model = load_model("tiny")
    set_shared_attention(model)
    return model


def attention(key_heads, query, key, value, mask, **given):
    output, weights = ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION](
        Layer(key_heads), query, key, value, mask, scaling=SCALING, dropout=0.0, **given
    )
    assert weights is None
    return output


def softmax_attention(query, key, value, seen):
    """Attention of one sequence [H, L, D] by its definition; `seen` is bool[queries, keys]."""
    share = query.shape[0] // key.shape[0]
    outputs = []
    for head in range(query.shape[0]):
        scores = query[head] @ key[head // share].T * SCALING
        weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        outputs.append(weights @ value[head // share])
    return torch.stack(outputs, dim=1)  # [tokens, heads, size]


def states(rows, tokens, key_heads, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, heads, tokens, WIDTH, generator=generator, requires_grad=True)
        for heads in (HEADS, key_heads, key_heads)
    ]


def causal(tokens):
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────


def test_masks_without_padding_by_hand():
    packing = Packing.of(torch.ones(2, 2, dtype=torch.bool), responses=3, length=2)
    assert (packing.prompt, packing.responses, packing.prompt_mask) == (2, 3, None)
    assert packing.response_mask.int().tolist() == [[[[1, 1, 1, 0], [1, 1, 1, 1]]]]


def test_masks_with_padding_by_hand():
    """Two prompts of three places, the second padded by one. Padding sees only itself."""
    mask = torch.tensor([[True, True, True], [False, True, True]])
    packing = Packing.of(mask, responses=2, length=2)
    assert packing.prompt_mask.int().tolist() == [
        [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]],
        [[[1, 0, 0], [0, 1, 0], [0, 1, 1]]],
    ]
    whole, padded = [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]], [[[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]]
    assert packing.response_mask.int().tolist() == [whole, whole, padded, padded]


# ── a prompt and its responses in one row ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize(
    ("paddings", "prompt", "count", "length"),
    [((0, 0), 5, 3, 4), ((2, 0, 4), 5, 3, 4), ((0,), 1, 2, 1), ((3, 3), 4, 1, 2), ((0, 0), 0, 2, 3)],
)
def test_each_response_attends_to_its_prompt_and_itself(paddings, prompt, count, length, key_heads):
    """Outputs and gradients are compared with those of each sequence by itself."""
    mask = torch.arange(prompt) >= torch.tensor(paddings)[:, None]
    packing = Packing.of(mask, count, length)
    query, key, value = states(len(paddings), prompt + count * length, key_heads)
    output = attention(key_heads, query, key, value, None, shared_prefix=packing)
    assert output.shape == (len(paddings), prompt + count * length, HEADS, WIDTH)
    own, theirs = [], []
    for row, padding in enumerate(paddings):
        whole = list(range(padding, prompt))
        for response in range(count):
            start = prompt + response * length
            places = whole + list(range(start, start + length))
            expected = softmax_attention(
                query[row][:, places], key[row][:, places], value[row][:, places], causal(len(places))
            )
            own.append(output[row, places])
            theirs.append(expected)
    own, theirs = torch.cat(own), torch.cat(theirs)
    assert torch.allclose(own, theirs, rtol=0, atol=1e-5)
    weights = torch.randn(own.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((own * weights).sum(), (query, key, value))
    expected = torch.autograd.grad((theirs * weights).sum(), (query, key, value))
    for gradient, other in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-5, atol=1e-5)


def changed_by(place, padding=1, prompt=4, count=2, length=3):
    """The places of a row whose output changes with the token at `place`."""
    mask = torch.arange(prompt)[None] >= padding
    packing = Packing.of(mask, count, length)
    query, key, value = (each.detach() for each in states(1, prompt + count * length, 2))
    before = attention(2, query, key, value, None, shared_prefix=packing)
    key[:, :, place] += 1
    value[:, :, place] += 1
    after = attention(2, query, key, value, None, shared_prefix=packing)
    return [at for at in range(after.shape[1]) if not torch.equal(before[0, at], after[0, at])]


def test_no_token_is_seen_by_another_that_must_not_see_it():
    """One padding, three tokens of the prompt, then two responses of three tokens."""
    assert changed_by(0) == [0]
    assert changed_by(1) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert changed_by(3) == [3, 4, 5, 6, 7, 8, 9]
    assert changed_by(4) == [4, 5, 6]
    assert changed_by(5) == [5, 6]
    assert changed_by(6) == [6]
    assert changed_by(7) == [7, 8, 9]
    assert changed_by(9) == [9]


def test_padding_gives_numbers():
    """A prompt is all padding except its last token, which is not in the row."""
    packing = Packing.of(torch.zeros(1, 3, dtype=torch.bool), 2, 2)
    query, key, value = states(1, 7, 2)
    output = attention(2, query, key, value, None, shared_prefix=packing)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(each.grad.isfinite().all() for each in (query, key, value))


# ── one token after the other ────────────────────────────────────────────────────────────────────────────


def prompts_cache(key, value):
    cache = DynamicCache()
    cache.update(key, value, 0)
    return cache


def cache_of(key, value):
    """Of prompts without padding."""
    mask = torch.ones(len(key), key.shape[2], dtype=torch.bool)
    return SharedPrefixCache(prompts_cache(key, value), mask)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("paddings", [(0, 0), (0, 3), (1,)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_step_of_generation_is_that_of_the_whole_sequence(paddings, count, key_heads):
    """In three steps the cache grows, and every response has its own prompt and tokens."""
    prompts, length = len(paddings), 5
    _, prompt_key, prompt_value = (each.detach() for each in states(prompts, length, key_heads))
    query, key, value = (each.detach() for each in states(prompts * count, 3, key_heads, seed=1))
    prompt_mask = torch.arange(length) >= torch.tensor(paddings)[:, None]
    cache = SharedPrefixCache(prompts_cache(prompt_key, prompt_value), prompt_mask)
    for step in range(3):
        now = slice(step, step + 1)
        assert cache.get_seq_length() == length + step
        own_key, own_value = cache.update(key[:, :, now], value[:, :, now], 0)
        assert own_key.shape[3] == own_value.shape[3] == step + 1
        mask = torch.arange(length + step + 1) >= torch.tensor(paddings)[:, None]
        mask = mask.repeat_interleave(count, dim=0)[:, None, None]
        with sharing(cache):
            output = attention(key_heads, query[:, :, now], own_key, own_value, None)
        assert output.shape == (prompts * count, 1, HEADS, WIDTH)
        for row in range(prompts * count):
            whole_key = torch.cat([prompt_key[row // count], key[row, :, : step + 1]], dim=1)
            whole_value = torch.cat([prompt_value[row // count], value[row, :, : step + 1]], dim=1)
            expected = softmax_attention(query[row, :, now], whole_key, whole_value, mask[row, 0])
            assert torch.allclose(output[row], expected, rtol=0, atol=1e-5)


def test_the_prompts_keys_are_not_copied():
    _, key, value = (each.detach() for each in states(2, 5, 2))
    prompts = prompts_cache(key, value)
    shared = SharedPrefixCache(prompts, torch.ones(2, 5, dtype=torch.bool))
    _, more_key, more_value = (each.detach() for each in states(6, 1, 2))
    shared.update(more_key, more_value, 0)
    assert prompts.get_seq_length() == 5
    assert shared.layers[0].prompt.keys is prompts.layers[0].keys
    assert shared.layers[0].prompt.values is prompts.layers[0].values


def test_a_step_in_half_precision_gives_half_precision():
    halves = [each.detach().bfloat16() for each in states(1, 4, 2)]
    cache = cache_of(*halves[1:])
    query, key, value = (each.detach().bfloat16() for each in states(3, 1, 2, seed=1))
    kept = cache.update(key, value, 0)
    with sharing(cache):
        output = attention(2, query, *kept, None)
    assert output.dtype == torch.bfloat16
    for row in range(3):
        whole = [
            torch.cat([of_prompt[0], own[row]], dim=1).float()
            for of_prompt, own in zip(halves[1:], (key, value), strict=True)
        ]
        expected = softmax_attention(query[row].float(), *whole, torch.ones(1, 5, dtype=torch.bool))
        assert torch.allclose(output[row].float(), expected, atol=0.05)


# ── where nothing is shared ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_without_a_shared_prompt_it_is_sdpa(key_heads, masked):
    query, key, value = (each.detach() for each in states(2, 6, key_heads))
    mask = (causal(6) & (torch.arange(6) > 0)) | torch.eye(6, dtype=torch.bool) if masked else None
    mask = None if mask is None else mask.expand(2, 1, 6, 6)
    expected, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
        Layer(key_heads), query, key, value, mask, scaling=SCALING, dropout=0.0
    )
    assert torch.equal(attention(key_heads, query, key, value, mask), expected)


def test_a_cache_is_shared_inside_alone_and_after_an_error_too():
    query, key, value = (each.detach() for each in states(2, 1, 2))
    plain = attention(2, query, key, value, None)
    own = [each.transpose(0, 1)[None].contiguous() for each in (key, value)]  # as a cache has them

    def cache(seed):
        return cache_of(*(each.detach() for each in states(1, 3, 2, seed=seed)[1:]))

    def stopped():
        with sharing(cache(1)):
            outer = attention(2, query, *own, None)
            assert not torch.equal(outer, plain)
            with sharing(cache(2)):
                assert not torch.equal(attention(2, query, *own, None), outer)
            assert torch.equal(attention(2, query, *own, None), outer)
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert torch.equal(attention(2, query, key, value, None), plain)


def test_the_text_part_alone_is_given_it(model):
    assert model.config.text_config._attn_implementation == IMPLEMENTATION
    assert model.config.vision_config._attn_implementation == "sdpa"
    languages = [module for name, module in model.named_modules() if name.endswith("self_attn")]
    assert len(languages) == 4
    assert all(module.config._attn_implementation == IMPLEMENTATION for module in languages)
    visions = [module for name, module in model.model.visual.named_modules() if name.endswith("attn")]
    assert len(visions) == 2
    assert all(module.config._attn_implementation == "sdpa" for module in visions)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_step_in_half_precision_is_rounded_once(dtype, autocast):
    """The keys have a large constant part, as those of Qwen2.5-VL have from its biases."""
    stored = torch.float32 if autocast else dtype
    _, prompt_key, prompt_value = (each.detach().to(stored) for each in states(1, 40, 2))
    query, key, value = (each.detach().to(stored) for each in states(3, 1, 2, seed=1))
    prompt_key, query, key = prompt_key + 10, query + 10, key + 10
    cache = cache_of(prompt_key, prompt_value)
    kept = cache.update(key, value, 0)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast), sharing(cache):
        output = attention(2, query, *kept, None)
    assert output.dtype == stored
    half_a_unit = torch.finfo(stored).eps / 2
    for row in range(3):
        whole = [
            torch.cat([of_prompt[0], own[row]], dim=1).double()
            for of_prompt, own in ((prompt_key, key), (prompt_value, value))
        ]
        seen = torch.ones(1, 41, dtype=torch.bool)
        exact = softmax_attention(query[row].double(), *whole, seen).view(output[row].shape)
        rounding = half_a_unit * exact.abs() + 1e-5  # of float32, where large scores cancel
        assert ((output[row].double() - exact).abs() <= rounding).all()


class Largest(TorchDispatchMode):
    """The most numbers that a tensor has which is made inside."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and not output._is_view():
            self.numbers = max(self.numbers, output.numel())
        return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prompts_keys_are_read_once_for_all_responses(dtype):
    _, prompt_key, prompt_value = (each.detach().to(dtype) for each in states(2, 300, 2))
    query, key, value = (each.detach().to(dtype) for each in states(12, 1, 2, seed=1))
    cache = cache_of(prompt_key, prompt_value)
    key, value = cache.update(key, value, 0)
    with sharing(cache), Largest() as largest:
        attention(2, query, key, value, None)
    scores = 12 * HEADS * 301
    assert scores < 6 * prompt_key.numel() / 2  # so it would be seen
    assert largest.numbers <= max(scores, prompt_key.numel())
