"""Positions of prompts that are alike are counted once, and are those that the model counts for each."""

import pytest
import torch

from rarl.models.loading import load_model
from rarl.models.positions import backbone_of, image_places, positions_of

IMAGE, START, END = 5, 3, 4


def prompt(*counts):
    return [8] + [token for count in counts for token in (START, *[IMAGE] * count, END)] + [9]


@pytest.mark.parametrize(
    ("prompts", "grids", "counted"),
    [
        ([prompt(2, 4)] * 3, [(1, 2, 4), (1, 4, 4)] * 3, 1),
        ([prompt(4)] * 2, [(1, 2, 8), (1, 4, 4)], 2),
        ([[0, 0, *prompt(2)], prompt(4)], [(1, 2, 4), (1, 4, 4)], 2),
        ([[0, *prompt(1)], [9, *prompt(1)]], [(1, 2, 2)] * 2, 2),
        ([prompt(1, 4), prompt(5, 0)], [(1, 2, 2), (1, 4, 4), (1, 2, 10)], 2),
    ],
)
def test_positions_are_the_models(prompts, grids, counted, monkeypatch):
    model = load_model("tiny")
    ids, grids = torch.tensor(prompts), torch.tensor(grids)
    mask = (ids != 0).long()
    places = image_places(model, ids)
    backbone = backbone_of(model)
    expected, _ = backbone.get_rope_index(
        ids, mm_token_type_ids=places, image_grid_thw=grids, attention_mask=mask
    )
    own, rows = backbone.get_rope_index, []

    def counting(given, **others):
        rows.append(len(given))
        return own(given, **others)

    monkeypatch.setattr(backbone, "get_rope_index", counting)
    assert torch.equal(positions_of(model, ids, mask, grids), expected)
    assert rows == [counted]
