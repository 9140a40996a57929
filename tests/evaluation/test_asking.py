"""How processes share what is asked, and what a killed evaluation still has. Two real processes are in
tests/training/test_fsdp.py."""

import os

import pytest
import torch

from helpers.asking import read, right, run
from rarl.evaluation.asking import in_shares, key_of, share

SHARES = [  # batches, processes, together -> of each process
    (range(0, 5), 1, False, [[0, 1, 2, 3, 4]]),
    (range(0, 5), 2, False, [[0, 2, 4], [1, 3]]),
    (range(8, 10), 4, False, [[8], [9], [], []]),
    (range(0, 5), 2, True, [[0, 2, 4], [1, 3, 4]]),
    (range(8, 10), 4, True, [[8], [9], [9], [9]]),
]


@pytest.mark.parametrize(("numbers", "processes", "together", "shares"), SHARES)
def test_every_batch_has_a_process(numbers, processes, together, shares):
    assert [share(numbers, rank, processes, together) for rank in range(processes)] == shares


def test_one_process_asks_a_batch_when_it_is_wanted():
    asked = []
    answers = in_shares(["ab", "c"], lambda batch: asked.append(batch) or list(batch.upper()))
    assert (next(answers), asked) == (["A", "B"], ["ab"])
    assert (next(answers), asked) == (["C"], ["ab", "c"])


def test_a_killed_evaluation_goes_on_where_it_was(collection, tmp_path, script):
    asked = script(right)
    run(collection, tmp_path / "whole", batch_size=2, position_lists=2)
    everything = list(asked)
    asked.clear()

    def dies(values):
        if len(asked) > 15:  # within the rotations, in the first batch of four images
            raise KeyboardInterrupt
        return right(values)

    script(dies)
    with pytest.raises(KeyboardInterrupt):
        run(collection, tmp_path / "killed", batch_size=2, position_lists=2)
    asked.clear()
    script(right)
    run(collection, tmp_path / "killed", batch_size=2, position_lists=2)
    assert 0 < len(asked) < len(everything) / 2
    assert asked == everything[-len(asked) :]
    assert read(tmp_path / "killed") == read(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed").glob(".replies*")] == []


def test_what_another_model_said_is_not_kept(collection, tmp_path, script):

    def dies(values):
        raise KeyboardInterrupt

    asked = script(dies)
    with pytest.raises(KeyboardInterrupt):
        run(collection, tmp_path, batch_size=8)
    kept = tmp_path / ".replies-base"
    (kept / "lists").mkdir()
    (kept / "lists/0.json").write_text('["' + "x" * 9 + '"]')  # as if it had got so far
    asked.clear()
    script(right)
    run(collection, tmp_path, batch_size=2)  # in other batches
    assert len(asked) == 8 + 4 + 2


def test_the_key_tells_models_and_images_apart(collection):
    from rarl.data.groups import Group

    rows = collection.split("test")
    groups = [Group((row,)) for row in rows]
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    first = key_of(model, None, groups, 16)
    assert key_of(model, None, groups, 16) == first
    with torch.no_grad():
        model.weight[1, 2] *= 1 + 1e-6
    second = key_of(model, None, groups, 16)
    others = [key_of(model, None, groups, 32), key_of(model, None, groups[1:], 16)]
    others.append(key_of(model.to(torch.bfloat16), None, groups, 16))
    status = os.stat(rows[0].path)
    os.utime(rows[0].path, ns=(status.st_atime_ns, status.st_mtime_ns + 10))
    others.append(key_of(model, None, groups, 16))
    os.utime(rows[0].path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len({first, second, *others}) == 6
