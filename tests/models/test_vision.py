"""Images seen together have the numbers of images seen one by one, bit for bit; and patches read by a product
have those of the convolution, up to rounding."""

import pytest
import torch

from helpers.families import write_family
from rarl.models.loading import load_model
from rarl.models.positions import MODEL_TYPES, backbone_of
from rarl.models.vision import IMPLEMENTATION, read_by_product, see_together

SMALL, FLAT, LARGE = (1, 4, 4), (1, 2, 6), (1, 20, 14)


def features(model, pixels, grids):
    with torch.no_grad():
        return backbone_of(model).visual(pixels, grid_thw=torch.tensor(grids)).pooler_output


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("grids", [[SMALL] * 5, [SMALL, SMALL, FLAT, LARGE, LARGE, SMALL]])
def test_the_numbers_are_those_of_each_image_alone(kind, grids, tmp_path, monkeypatch):
    model = load_model(write_family(kind, tmp_path)).eval()
    visual = backbone_of(model).visual
    counted = []
    patches = sum(height * width for _, height, width in grids)
    config = visual.config
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.randn(patches, values, generator=torch.Generator().manual_seed(0))
    expected = features(model, pixels, grids)
    see_together(model)
    own = torch.nn.functional.scaled_dot_product_attention

    def counting(*given, **others):
        counted.append(1)
        return own(*given, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    assert torch.equal(features(model, pixels, grids), expected)
    if len(set(grids)) == 1:
        assert len(counted) == config.depth  # one call a layer, for all images


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_patches_read_by_a_product_have_the_numbers_of_the_convolution(kind, tmp_path, monkeypatch):
    model = load_model(write_family(kind, tmp_path))
    visual = backbone_of(model).visual
    config = visual.config
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.randn(16, values, generator=torch.Generator().manual_seed(0))

    def read():
        model.zero_grad()
        found = visual.patch_embed(pixels)
        found.square().sum().backward()
        return [found.detach(), *(each.grad for each in visual.patch_embed.parameters())]

    by_convolution = read()
    read_by_product(model)
    monkeypatch.setattr(torch.nn.functional, "conv3d", None)
    by_product = read()
    assert len(by_product) == (3 if kind == "qwen3_vl" else 2)  # Qwen3-VL's has a bias
    for found, expected in zip(by_product, by_convolution, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_a_model_of_another_family_or_attention_is_left_as_it_is(tmp_path):
    other = load_model(write_family("gemma3", tmp_path / "gemma3"))
    see_together(other)
    eager = load_model("tiny", attention="eager")
    see_together(eager)
    for model in (other, eager):
        assert all(
            getattr(getattr(module, "config", None), "_attn_implementation", None) != IMPLEMENTATION
            for module in model.modules()
        )
