"""Lists in every rotation of their pictures: which are asked, and that no other number sees them."""

import pytest

import rarl.evaluation.evaluate
from helpers.asking import MEASURED, ROTATED, as_shown, read, right, rotated, run


def test_the_first_lists_are_asked_in_every_rotation(collection, tmp_path, script):
    asked = script(right)
    run(collection, tmp_path, images=(2, 4), position_lists=2)
    lines = read(tmp_path)[1]
    drawn = asked[:6]
    a, b, c, d = drawn[4]
    assert asked[6:8] == [drawn[0][::-1], drawn[1][::-1]]
    assert asked[8:11] == [[b, c, d, a], [c, d, a, b], [d, a, b, c]]
    assert len(asked) == 6 + 2 * 1 + 2 * 3
    keys = [(line["images"], line["list"], line["rotation"]) for line in rotated(lines)]
    assert keys == [(count, number, turn) for count in (2, 4) for number in (0, 1) for turn in range(count)]
    # Every image of a list once at every place.
    for line in rotated(lines):
        ids = lines[4 * (line["images"] == 4) + line["list"]]["ids"]
        turn = line["rotation"]
        assert line["ids"] == ids[turn:] + ids[:turn]
    for count in (2, 4):
        for number in (0, 1):
            of_list = [x["ids"] for x in rotated(lines) if (x["images"], x["list"]) == (count, number)]
            assert all(len({ids[place] for ids in of_list}) == count for place in range(count))


def test_a_list_as_it_was_drawn_is_not_asked_again(collection, tmp_path, script):
    replies = iter(range(1000))
    script(lambda values: f"reply {next(replies)}")
    run(collection, tmp_path, images=[2], lists=3, position_lists=2)
    lines = read(tmp_path)[1]
    assert [line["reply"] for line in lines] == [f"reply {n}" for n in (0, 1, 2, 0, 3, 1, 4)]
    for plain, again in ((lines[0], lines[3]), (lines[1], lines[5])):
        assert {**plain, "list": again["list"], "rotation": 0} == again


def test_who_lists_the_pictures_as_shown_is_found_out(collection, tmp_path, script):
    script(as_shown)
    metrics = run(collection, tmp_path, position_lists=25)
    found = {key: metrics[key]["value"] for key in ROTATED}
    expected = {"agreement2": -1, "position_bias2": 1, "agreement4": -1 / 9, "position_bias4": 1}
    assert found == pytest.approx(expected)
    assert all(metrics[key]["n"] == {"2": 4, "4": 2}[key[-1]] for key in ROTATED)


def test_without_a_valid_reply_there_is_no_position_bias(collection, tmp_path, script):
    script(lambda values: "nothing")
    metrics = run(collection, tmp_path, position_lists=25)
    assert set(metrics) == MEASURED | {"agreement2", "agreement4"}
    assert metrics["agreement4"] == {"value": 0, "low": 0, "high": 0, "n": 2}


def test_rotations_change_no_other_number(collection, tmp_path, script):
    """Valid as drawn, and nothing in any other rotation: no other number sees it."""
    drawn = script(right)
    plain = run(collection, tmp_path / "a")
    known = [tuple(values) for values in drawn]
    script(lambda values: right(values) if tuple(values) in known else "nothing")
    with_rotations = run(collection, tmp_path / "b", position_lists=3)
    assert {key: with_rotations[key] for key in plain} == plain
    assert set(with_rotations) - set(plain) <= ROTATED
    first, second = read(tmp_path / "a"), read(tmp_path / "b")
    assert second[0]["lists"] == first[0]["lists"]
    assert second[1][:14] == first[1]
    assert all("rotation" in line for line in second[1][14:])


def test_no_batch_holds_both_lists_and_rotations(collection, tmp_path, script, monkeypatch):
    """A reply may depend on what stands beside it in a batch; that of a list does not on rotations."""
    script(right)
    scripted, sizes = rarl.evaluation.evaluate.greedy_replies, []

    def counted(model, processor, prompts, images, **options):
        sizes.append(len(prompts))
        return scripted(model, processor, prompts, images, **options)

    monkeypatch.setattr(rarl.evaluation.evaluate, "greedy_replies", counted)
    run(collection, tmp_path, images=[2], position_lists=6, batch_size=3)
    assert sizes == [3, 1, 3, 1]


def test_progress_counts_rotations_too(collection, tmp_path, script):
    script(right)
    seen = []
    run(collection, tmp_path, position_lists=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 22) for done in range(1, 23)]  # 14, and 2 * 1 + 2 * 3
