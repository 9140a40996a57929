"""Several batches at once: the same values, each row once, and nothing left behind."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from rarl.models.loading import load_model
from rarl.ranking import threads
from rarl.ranking.ranker import Ranker
from rarl.ranking.threads import Threads, number_of_threads


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    paths = [folder / f"{number:02}.png" for number in range(40)]
    for place, path in enumerate(paths):
        size = (28, 28, 3) if place % 3 else (56, 28, 3)
        Image.fromarray(generator.integers(0, 255, size, dtype=np.uint8)).save(path)
    paths[7].write_text("no image")
    return paths


def ranker_with(number, monkeypatch, method="greedy"):
    monkeypatch.setattr(threads, "number_of_threads", lambda model: number)
    return Ranker("tiny", method=method, batch_size=4)


@pytest.mark.parametrize("method", ["greedy", "mean"])
def test_values_are_those_of_one_thread(method, photos, monkeypatch):
    alone = ranker_with(1, monkeypatch, method).score(photos)
    ranker = ranker_with(3, monkeypatch, method)
    attention = ranker._model.config.get_text_config()._attn_implementation
    together = ranker.score(photos)
    assert [said.problem for said in together] == [said.problem for said in alone]
    assert [said.value is None for said in together] == [place == 7 for place in range(40)]
    for said, other in zip(together, alone, strict=True):
        assert said.value == pytest.approx(other.value, abs=1e-4)
    assert ranker._model.config.get_text_config()._attn_implementation == attention
    assert ranker.read_leniently == 0


def test_two_batches_are_measured_at_once_and_each_image_comes_once(photos, monkeypatch):
    ranker = ranker_with(2, monkeypatch)
    both = threading.Barrier(2, timeout=20)
    own, first = Ranker.measure, [1, 1]

    def measure(self, images, **others):
        if first:
            first.pop()
            both.wait()  # goes on when another thread is here, too
        return own(self, images, **others)

    monkeypatch.setattr(Ranker, "measure", measure)
    places = [place for batch in ranker.measure_each(photos) for place, _ in batch]
    assert sorted(places) == list(range(40))


def test_lenient_replies_of_all_threads_are_counted(photos, monkeypatch):
    monkeypatch.setattr("rarl.ranking.ranker.parse", lambda text: None)
    assert ranker_with(1, monkeypatch).score(photos[:1])
    ranker = ranker_with(2, monkeypatch)
    ranker.score(photos)
    assert ranker.read_leniently == 39


def test_an_error_in_a_thread_is_the_caller_s_and_no_thread_stays(photos, monkeypatch):
    ranker = ranker_with(2, monkeypatch)
    before = threading.active_count()

    def failing(*given, **others):
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Ranker, "measure", failing)
        with pytest.raises(RuntimeError, match="no"):
            ranker.score(photos)
    batches = ranker.measure_each(photos)
    next(batches)
    batches.close()  # left early
    time.sleep(0.1)
    assert threading.active_count() == before


def test_a_thread_for_each_core_that_torch_leaves(monkeypatch):
    model = load_model("tiny")
    monkeypatch.setattr(threads, "cores", lambda: 6)
    for by_torch, expected in ((1, 4), (2, 3), (4, 1), (8, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda by_torch=by_torch: by_torch)
        assert number_of_threads(model) == expected
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model.config.model_type = "gemma3"
    assert number_of_threads(model) == 1


@pytest.mark.parametrize(("images", "share"), [(208, 104), (256, 128), (300, 75), (1, 1), (0, 1)])
def test_the_last_batches_are_shared_out(images, share, photos, monkeypatch):
    ranker = ranker_with(2, monkeypatch)
    assert Threads(ranker, photos).share_of(images, 128) == share
