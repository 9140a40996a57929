"""A large photo comes to the model with the same pixels wherever it is opened: in training, SFT, evaluation
and ranking."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import rarl.evaluation.evaluate
import rarl.evaluation.expected
from helpers.training import quiet, run_config
from rarl.data.collection import load_collection
from rarl.data.groups import Group
from rarl.data.images import open_image
from rarl.data.writing import write_collection
from rarl.method.tasks import DIGITS
from rarl.models.processor import resizing_of
from rarl.ranking.measured import Measured
from rarl.ranking.ranker import Ranker
from rarl.scoring.scoring import Scoring
from rarl.training import arms


class Seen(Exception):
    """Raised in place of what a model would do with the images."""


def photo():
    grain = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    data = BytesIO()
    Image.fromarray(grain).resize((1200, 900), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
    return data.getvalue()


@pytest.fixture
def collection(tmp_path):
    splits = {split: [(split, 3.0, photo())] for split in ("train", "test")}
    write_collection(tmp_path / "data", DIGITS, splits)
    return load_collection(tmp_path / "data")


def test_training_evaluation_and_ranking_see_the_same_pixels(
    collection, tmp_path, monkeypatch, tiny_processor
):
    [row] = collection.split("test")
    seen = {}

    def fit(trainer, lines, start, folder, config):
        seen[folder.name] = trainer.train_dataset[0]["images"][0]

    def replies(model, processor, prompts, pictures, **options):
        seen["evaluation"] = pictures[0][0]
        return [""]

    def values(model, processor, pictures, *others, **options):
        seen["distributions"] = pictures[0]
        raise Seen

    def measure(ranker, pictures, hasty=False):
        seen["ranking"] = pictures[0]
        return [Measured(3.0)]

    monkeypatch.setattr(arms, "_fit", fit)
    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", replies)
    monkeypatch.setattr(rarl.evaluation.expected, "values_of", values)
    monkeypatch.setattr(Ranker, "measure", measure)

    weights = {"regression": 1, "ranking": 0, "format": 1}
    stage = {"name": "rarl", "images": [1], "weights": weights, "max_steps": 1}
    config = run_config(collection.root, tmp_path / "run", [stage], sft={})
    groups = [Group((row,))] * 2
    arms.train_stage(config, config.stages[0], "tiny", groups, tmp_path / "rarl", quiet())
    arms.train_sft(config, groups, tmp_path / "sft", quiet())
    list(rarl.evaluation.evaluate.ask(None, tiny_processor, groups[:1], DIGITS, 1, 16))
    with pytest.raises(Seen):
        rarl.evaluation.expected.distributions_of(
            None, tiny_processor, [row], DIGITS, Scoring("mean"), {}, 16
        )
    Ranker("tiny", DIGITS).score([row.path])

    assert set(seen) == {"rarl", "sft", "evaluation", "distributions", "ranking"}
    resizing = resizing_of(tiny_processor)
    assert {image.size for image in seen.values()} == {resizing.size_of((1200, 900))}
    assert len({image.tobytes() for image in seen.values()}) == 1
    # It was decoded at a part of its size, and the processor leaves it as it is.
    assert seen["rarl"].tobytes() != resizing(open_image(row.path)).tobytes()
    assert resizing.size_of(seen["rarl"].size) == seen["rarl"].size
