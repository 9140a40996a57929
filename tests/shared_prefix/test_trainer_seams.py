"""What the shared prompt pass relies on in TRL 1.16's private methods, one contract test for each seam that
`tests/training/test_trainer_seams.py` doesn't have, so that an upgrade fails here and says so."""

import inspect

import pytest
import torch
from trl import GRPOTrainer

from helpers.sharing import (
    patches_of,
    stock_of,
)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        (
            "_get_per_token_logps_and_entropies",
            [
                *("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
                *("compute_entropy", "compute_aux_loss", "pixel_values", "image_grid_thw", "num_images"),
                *("pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes", "token_type_ids"),
                *("mm_token_type_ids", "image_position_ids"),
            ],
        ),
    ],
)
def test_seam_names_and_parameters(method, parameters):
    """Those that `tests/training/test_trainer_seams.py` doesn't have."""
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == parameters


@pytest.fixture
def stock(dataset, tmp_path):
    """TRL's own trainer, ready for a step."""
    trainer = stock_of(dataset, tmp_path)
    trainer.model.train()
    return trainer


def test_seam_prompts_that_have_their_images_within(stock, dataset):
    """Each prompt has one list of ids and one of images; the fields are those of all images together."""
    from trl.data_utils import prepare_multimodal_messages

    rows = [dataset[at] for at in (0, 1)]
    prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
    ids, images, fields = stock._tokenize_prompts(prompts)
    assert [len(each) for each in images] == [2, 1]
    assert len(ids[0]) > len(ids[1])
    assert {"pixel_values", "image_grid_thw"} <= fields.keys()
    assert len(fields["image_grid_thw"]) == 3
    assert len(fields["pixel_values"]) == patches_of(dataset, (0, 1))


def test_seam_generation_without_fields_calls_generate_with_three_arguments(stock):
    calls = []

    def generate(**kwargs):
        calls.append(kwargs)
        return torch.cat([kwargs["input_ids"], torch.full((2, 3), 7)], dim=1)

    stock.model.generate = generate
    assert stock._generate_single_turn([[5, 6], [5]], None, {}, 4) == ([[7, 7, 7]] * 2, None)
    [arguments] = calls
    assert arguments.keys() == {"input_ids", "attention_mask", "generation_config"}
    assert arguments["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert arguments["input_ids"][:, 1].tolist() == [6, 5]


def test_seam_a_step_counts_and_buffers(stock, dataset):
    assert (stock._step, stock._buffered_inputs, stock.num_iterations) == (0, None, 1)
    batch = next(iter(stock.get_train_dataloader()))
    inputs = stock._prepare_inputs(batch)
    assert len(stock._buffered_inputs) == stock.args.steps_per_generation == 1
    assert inputs is stock._buffered_inputs[0]
    assert {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"} <= inputs.keys()
    assert inputs["num_items_in_batch"].ndim == 0
    assert sum(inputs["num_images"]) == 4 * 3
    assert (stock.aux_loss_enabled, stock.rollout_func, stock.environment_factories) == (False, None, None)
    assert (stock.use_vllm, bool(stock.tools), stock.log_multimodal) == (False, False, True)
