"""What a process takes of its machine for a small model, and for another."""

import pytest
import torch

from rarl.models.threads import use_one_thread_for


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
