"""Images seen together have the numbers of images seen one by one, bit for bit."""

import pytest
import torch

from helpers.families import write_family
from rarl.models.loading import load_model
from rarl.models.positions import MODEL_TYPES, backbone_of
from rarl.models.vision import IMPLEMENTATION, see_together

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
