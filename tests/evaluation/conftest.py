"""What the tests of evaluation share: a collection of greys, and a model that is a function."""

import pytest

import rarl.evaluation.evaluate
from helpers.asking import TASK, image
from rarl.data.writing import write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    values = {"test": [0, 1, 2, 3, 5, 8, 9, 10], "validation": [4, 6, 7, 7]}
    return write_collection(
        tmp_path_factory.mktemp("data") / "toy",
        TASK,
        {split: [(f"{split}{i}", v, image(v)) for i, v in enumerate(some)] for split, some in values.items()},
    )


@pytest.fixture
def script(monkeypatch):
    """Replies are a function of the images' own values, which the test gives. Returns what has been asked."""
    asked = []

    def use(answer):
        def scripted(model, processor, prompts, images, *, max_new_tokens, batch_size):
            assert len(prompts) == len(images) <= batch_size
            groups = [[round(picture.getpixel((0, 0))[0] / 20) for picture in group] for group in images]
            asked.extend(groups)
            return [answer(group) for group in groups]

        monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", scripted)
        # A function has no probabilities.
        monkeypatch.setattr(rarl.evaluation.evaluate, "has_grid", lambda task: False)
        return asked

    return use
