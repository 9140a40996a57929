"""The replay keeps the best reply of each prompt, and gives a checkpoint all it knows."""

import json

from rarl.method.replay import Replay


def test_the_best_reply_is_kept_and_the_first_of_equals():
    replay = Replay()
    assert replay.best("a") is None
    for reward, ids in ((2.0, [1]), (3.0, [2]), (3.0, [3]), (1.0, [4])):
        replay.see("a", reward, ids)
    assert replay.best("a") == (3.0, [2])
    assert replay.best("b") is None


def test_what_was_improved_the_longest_ago_is_forgotten_first():
    replay = Replay(capacity=2)
    for prompt, reward in (("a", 1.0), ("b", 1.0), ("a", 2.0), ("c", 1.0)):
        replay.see(prompt, reward, [1])
    assert [replay.best(prompt) is None for prompt in "abc"] == [False, True, False]


def test_a_restored_replay_is_the_same_and_forgets_in_the_same_order():
    replay, again = Replay(capacity=2), Replay(capacity=2)
    for prompt, reward in (("a", 0.1), ("b", 1.0), ("a", 2.5)):
        replay.see(prompt, reward, [1, 2])
    again.restore(json.loads(json.dumps(replay.state())))
    assert again.state() == replay.state()
    for memory in (replay, again):
        memory.see("c", 1.0, [3])
    assert again.state() == replay.state()
    assert again.best("b") is None
