"""For which models a token passes the layers one by one. That the passes are transformers' own is in
`test_replies.py`, `tests/models/test_families.py` and `tests/shared_prefix/test_packing.py`."""

import pytest
import torch
from transformers import DynamicCache

from rarl.models.generation.token_passes import Sequences, can_pass
from rarl.models.loading import load_model


@pytest.fixture
def model():
    return load_model("tiny")


def text_of(model):
    return model.model.language_model


def test_a_plain_model_is_passed_layer_by_layer(model):
    assert can_pass(model)


@pytest.mark.parametrize(
    "module",
    [
        lambda model: text_of(model),
        lambda model: text_of(model).layers[1],
        lambda model: text_of(model).layers[1].self_attn,
        lambda model: text_of(model).norm,
    ],
)
def test_what_waits_for_a_call_is_called(model, module):
    """As accelerate does where a model is on several devices, or in memory of another kind."""
    module(model).register_forward_pre_hook(lambda *call: None)
    assert not can_pass(model)


def test_a_pass_with_hidden_states_leaves_a_plain_model(model):
    """Transformers keeps its hooks in the layers, where they do nothing until the next such pass."""
    ids = torch.tensor([[1, 2, 3]])
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert can_pass(model)
    again = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(states, again, strict=True))
    text_of(model).layers[0].register_forward_hook(lambda *call: None)
    assert not can_pass(model)


def test_other_layers_are_called(model):
    class Other(type(text_of(model).layers[0])):
        """FSDP2 makes such classes."""

    text_of(model).layers[0].__class__ = Other
    assert not can_pass(model)


def test_frequencies_that_depend_on_the_length_are_left_to_transformers(model):
    text_of(model).config.rope_parameters["rope_type"] = "dynamic"
    assert not can_pass(model)


@pytest.mark.parametrize("padded", [False, True])
def test_the_room_for_tokens_grows_and_rows_are_forgotten(padded):
    """By hand, against attention over all that was said."""
    random = torch.Generator().manual_seed(0)
    rows, heads, key_heads, length, size = 3, 4, 2, 5, 8

    def numbers(*shape):
        return torch.randn(shape, generator=random)

    keys, values = numbers(rows, key_heads, length, size), numbers(rows, key_heads, length, size)
    cache = DynamicCache()
    cache.update(keys, values, 0)
    seen = torch.ones(rows, length, dtype=torch.bool)
    seen[1, :2] = not padded
    sequences = Sequences(cache, seen if padded else None)
    for place in range(70):
        if place == 40:
            kept = torch.tensor([1, 2])
            sequences.keep(kept)
            keys, values, seen = keys[kept], values[kept], seen[kept]
        query, key, value = (numbers(len(keys), n, size) for n in (heads, key_heads, key_heads))
        keys, values = (
            torch.cat([old, new[:, :, None]], dim=2) for old, new in ((keys, key), (values, value))
        )
        seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.bool)], dim=1)
        wide = [each.repeat_interleave(heads // key_heads, dim=1) for each in (keys, values)]
        scores = (query[:, :, None] @ wide[0].mT / size**0.5).masked_fill(~seen[:, None, None], -torch.inf)
        expected = (scores.softmax(dim=-1) @ wide[1])[:, :, 0]
        assert torch.allclose(sequences.attend(0, query, key, value), expected, atol=1e-5)
