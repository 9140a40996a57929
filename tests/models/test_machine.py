"""What a process takes of its machine for a small model, and for another; and a GPU whose memory is too
small, which every command tells in one sentence."""

import pytest
import torch

from helpers.training import run_config
from rarl.cli import main
from rarl.models.loading import use_one_thread_for

TOO_MANY = "error: the GPU's memory is too small for so many prompts at once: lower the batch size"
TOO_LARGE = "error: the GPU's memory is too small for the model tiny"
TRAINING = (
    "error: the GPU's memory is too small for a training with these settings: `rarl plan CONFIG.yaml` says "
    "what to change"
)


@pytest.mark.parametrize(("size", "threads"), [(2**20, 1), (2**23, 2)])
def test_commands_use_one_thread_for_a_model_so_small(tiny, tmp_path, size, threads):
    """With more threads sums of floats would depend on the number of cores. A larger model keeps all
    threads."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(size))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        use_one_thread_for(tmp_path)
        assert torch.get_num_threads() == threads
        use_one_thread_for("tiny")
        assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        use_one_thread_for("Qwen/Qwen2.5-VL-3B-Instruct")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ── the memory of a GPU ──────────────────────────────────────────────────────────────────────────────────


def out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it")


def said_by(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in command])
    assert end.value.code == 1
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("method", "place", "said"),
    [
        ("greedy", "rarl.models.generation.replies._replies_of", TOO_MANY),
        ("mean-fast", "rarl.scoring.expected._Batch.exact", TOO_MANY),
        ("greedy", "transformers.PreTrainedModel.to", TOO_LARGE),
    ],
)
def test_ranking(method, place, said, digits, monkeypatch, capsys):
    monkeypatch.setattr(place, out_of_memory)
    image = digits.split("test")[0].path
    assert said_by(["rank", "tiny", image, "--method", method], capsys)[-1] == said


@pytest.mark.parametrize("arm", ["rarl", "sft"])
def test_measuring_a_plan(arm, few_digits, tmp_path, monkeypatch, capsys):
    from rarl.training import arms

    fit = arms._fit

    def fit_unless(trainer, lines, start, folder, config):
        return out_of_memory() if folder.name == arm else fit(trainer, lines, start, folder, config)

    monkeypatch.setattr(arms, "_fit", fit_unless)
    data = few_digits(train=6, test=3).root
    stages = [{"name": "rarl", "images": [2], "max_steps": 1}]
    config = run_config(data, tmp_path / "run", stages=stages, sft={}, evaluation={"images": [1], "lists": 1})
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert said_by(["plan", tmp_path / "run.yaml", "--cpu", "--measure"], capsys)[-1] == TRAINING
