"""`groups.jsonl` says what was trained on. In a continued run no line is there twice and none is cut off."""

import json
import math
from types import SimpleNamespace

import pytest
from trl import GRPOTrainer

from helpers.training import quiet, run_config
from rarl.data.collection import load_collection
from rarl.training import arms
from rarl.training.callbacks import GROUPS_FILE, GroupLog, ProgressLines
from rarl.training.config import stage_groups

WEIGHTS = {"regression": 2, "ranking": 0.5, "format": 0.25}


@pytest.fixture
def small(few_digits):
    return few_digits(train=24, test=4)


@pytest.fixture
def config_of(small, tmp_path):
    """`config_of("run", stage={...}, trainer={...})`: one stage of four steps with mutation."""

    def make(name="run", stage=None, trainer=None, **changes):
        whole = {
            "name": "rarl",
            "images": [1, 2],
            "max_steps": 4,
            "weights": WEIGHTS,
            "mutation": {"k": 2, "probability": 0.7},
            **(stage or {}),
        }
        keys = {"beta": 0.0, "max_completion_length": 48} | (trainer or {})
        sections = {"data": small.root, "output": tmp_path / name, "stages": [whole], "trainer": keys}
        return run_config(**(sections | changes))

    return make


@pytest.fixture
def computed(monkeypatch):
    """For each step that generates, its first group: the prompt's images, what TRL scored and trained on, and
    the advantages. A response is mutated if its tokens are not the ones that were sampled."""
    fit, generate, found, sampled = arms._fit, GRPOTrainer._generate, {}, []

    def generated(trainer, prompts):
        output = generate(trainer, prompts)
        sampled.extend(list(map(int, ids)) for ids in output[1])  # before any of them is replaced
        return output

    def watched(trainer, *rest):
        original_score, original_rewards = trainer._generate_and_score_completions, trainer._calculate_rewards
        scored = []

        def rewards(inputs, prompts, completions, completion_ids):
            parts = original_rewards(inputs, prompts, completions, completion_ids)
            if trainer._scored == "group":
                scored.append((completions, parts))
            return parts

        def score(inputs):
            step = trainer.state.global_step + 1  # this is for the step to come
            sampled.clear()
            output = original_score(inputs)
            size = trainer.num_generations
            completions, parts = scored.pop()
            ids = [
                [int(token) for token, kept in zip(*row, strict=True) if kept]
                for row in zip(output["completion_ids"], output["completion_mask"], strict=True)
            ]
            found[step] = {
                "ids": inputs[0]["ids"],
                "text": [completion[0]["content"] for completion in completions[:size]],
                "parts": parts[:size].tolist(),
                "advantage": output["advantages"][:size].tolist(),
                "mutated": [ids[i] != sampled[i] for i in range(size)],
            }
            return output

        trainer._calculate_rewards, trainer._generate_and_score_completions = rewards, score
        fit(trainer, *rest)

    monkeypatch.setattr(GRPOTrainer, "_generate", generated)
    monkeypatch.setattr(arms, "_fit", watched)
    return found


def train(config):
    """Trains the arm, and returns its folder."""
    config.output.mkdir(parents=True, exist_ok=True)
    [stage] = config.stages
    groups = stage_groups(config, stage, load_collection(config.data).split("train"))
    folder = config.output / stage.name
    arms.train_stage(config, stage, "tiny", groups, folder, quiet())
    return folder


def lines_of(folder):
    return [json.loads(line) for line in (folder / GROUPS_FILE).read_text(encoding="utf-8").splitlines()]


def assert_as_computed(line, known, weights):
    """A line holds the first group of its step, as TRL had it; `weights` are those of the rewards, by
    name."""
    assert line["ids"] == known["ids"]
    responses = line["responses"]
    assert [response["text"] for response in responses] == known["text"]
    assert [response["mutated"] for response in responses] == known["mutated"]
    assert [response["advantage"] for response in responses] == pytest.approx(known["advantage"], abs=1e-6)
    for response, parts in zip(responses, known["parts"], strict=True):
        assert list(response) == ["text", "rewards", "reward", "advantage", "mutated"]
        by_name = dict(zip(weights, parts, strict=True))
        for name, part in by_name.items():
            given = response["rewards"][name]
            assert (given is None) == math.isnan(part)
            assert given is None or given == pytest.approx(part, abs=1e-6)
        total = sum(weights[name] * part for name, part in by_name.items() if not math.isnan(part))
        assert response["reward"] == pytest.approx(total, abs=1e-5)


def test_a_line_is_what_was_trained_on(config_of, small, computed):
    lines = lines_of(train(config_of()))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    values = {row.id: row.value for row in small.split("train")}
    for line in lines:
        assert list(line) == ["step", "ids", "truth", "rule", "responses"]
        assert line["truth"] == [values[name] for name in line["ids"]]
        assert line["rule"] == "handwritten digit"
        assert len(line["responses"]) == 4
        assert_as_computed(line, computed[line["step"]], WEIGHTS)
        # The advantages belong to this group: they sum to 0.
        assert sum(response["advantage"] for response in line["responses"]) == pytest.approx(0, abs=1e-4)
        for response in line["responses"]:
            assert (response["rewards"]["ranking"] is None) == (len(line["ids"]) == 1)
    assert {len(line["ids"]) for line in lines} == {1, 2}
    mutated = [response for line in lines for response in line["responses"] if response["mutated"]]
    own = [response for line in lines for response in line["responses"] if not response["mutated"]]
    assert mutated
    assert own
    for response in mutated:  # the reference reply: all of regression and format
        assert response["rewards"]["regression"] == response["rewards"]["format"] == 1


def test_a_group_in_micro_batches_is_whole(config_of, computed):
    """One generation serves two optimizer steps and four passes; a line holds the last generation."""
    keys = {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "logging_steps": 2, "save_steps": 4}
    lines = lines_of(train(config_of(trainer=keys)))
    assert [line["step"] for line in lines] == [2, 4]
    assert sorted(computed) == [1, 3]
    for line, generated in zip(lines, (1, 3), strict=True):
        assert_as_computed(line, computed[generated], WEIGHTS)


def test_without_mutation_no_response_is_marked(config_of, computed):
    lines = lines_of(train(config_of(stage={"mutation": None, "max_steps": 2})))
    assert len(lines) == 2
    for line in lines:
        assert [response["mutated"] for response in line["responses"]] == [False] * 4
        assert_as_computed(line, computed[line["step"]], WEIGHTS)


def test_where_only_orders_are_known(config_of, small, computed, tmp_path):
    """Places instead of values, and no regression."""
    from shutil import copytree

    root = tmp_path / "orders"
    copytree(small.root, root)
    file = root / "train/metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    values = {row["id"]: row.pop("value") for row in rows}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = sorted(values, key=values.__getitem__)
    (root / "train/orders.jsonl").write_text(json.dumps({"ids": ids}) + "\n")

    weights = {"regression": 0, "ranking": 0.5, "format": 2}
    stage = {"images": [3], "weights": weights, "max_steps": 3}
    lines = lines_of(train(config_of(stage=stage, data=str(root))))
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["truth"] is None
        places = sorted(line["ids"], key=ids.index)
        assert line["order"] == [places.index(name) for name in line["ids"]]
        for response in line["responses"]:
            assert response["rewards"].get("regression") is None
        assert_as_computed(line, computed[line["step"]], {"ranking": 0.5, "format": 2})
    assert any(response["mutated"] for line in lines for response in line["responses"])


# ── a run that goes on ───────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_goes_on_has_every_line_once(config_of, monkeypatch):
    """It is interrupted at a checkpoint."""
    whole, config, step = train(config_of("whole")), config_of(), 2

    def stop(lines, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GroupLog, "on_save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    checkpoints = config.output / "checkpoints/rarl"
    assert [line["step"] for line in lines_of(checkpoints)] == list(range(1, step + 1))
    # As if it had been killed later: a line of a step that no checkpoint has, and half of another line.
    with open(checkpoints / GROUPS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step + 1, "ids": ["of a step that is gone"], "responses": []}) + "\n")
        file.write(f'{{"step": {step + 2}, "ids": ["00')
    assert (train(config) / GROUPS_FILE).read_text() == (whole / GROUPS_FILE).read_text()


def test_a_run_interrupted_before_its_first_checkpoint_begins_the_file_again(config_of, monkeypatch):
    keys = {"save_steps": 4}
    whole, config = train(config_of("whole", trainer=keys)), config_of(trainer=keys)

    def stop(lines, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLines, "on_log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert (train(config) / GROUPS_FILE).read_text() == (whole / GROUPS_FILE).read_text()


LINE = '{"step": %d, "ids": ["a"], "responses": [{"text": "]}", "mutated": false}]}'


@pytest.mark.parametrize(
    ("text", "step", "kept"),
    [
        ("", 2, []),
        (f"{LINE % 1}\n{LINE % 2}\n{LINE % 3}\n", 2, [1, 2]),
        (f"{LINE % 1}\n{LINE % 2}\n{LINE % 3}\n", 0, []),
        (f"{LINE % 1}\n{LINE % 2}", 2, [1, 2]),  # whole but for its end: kept, and ended
        (f"{LINE % 1}\n{(LINE % 2)[:-1]}", 2, [1]),
        (f"{LINE % 1}\n{(LINE % 2)[:9]}", 2, [1]),
    ],
)
def test_what_is_kept_of_the_file(tmp_path, text, step, kept):
    path = tmp_path / GROUPS_FILE
    path.write_text(text, encoding="utf-8")
    GroupLog(None, path).on_train_begin(
        None, SimpleNamespace(is_world_process_zero=True, global_step=step), None
    )
    read = path.read_text(encoding="utf-8")
    assert read == "".join(f"{LINE % number}\n" for number in kept)


def test_a_line_cut_off_anywhere_is_left_out(tmp_path):
    """A reply can contain what looks like the end of a line."""
    path, line = tmp_path / GROUPS_FILE, LINE % 2
    state = SimpleNamespace(is_world_process_zero=True, global_step=9)
    for cut in range(len(line)):
        path.write_text(f"{LINE % 1}\n{line[:cut]}", encoding="utf-8")
        GroupLog(None, path).on_train_begin(None, state, None)
        assert path.read_text(encoding="utf-8") == f"{LINE % 1}\n", line[:cut]


def test_marks_that_end_lines_elsewhere_do_not_end_one_here(tmp_path):
    path = tmp_path / GROUPS_FILE
    line = json.dumps(
        {"step": 1, "responses": [{"text": "a\u2028b\x85c\nd", "mutated": False}]}, ensure_ascii=False
    )
    path.write_text(line + "\n", encoding="utf-8")
    GroupLog(None, path).on_train_begin(
        None, SimpleNamespace(is_world_process_zero=True, global_step=1), None
    )
    assert path.read_text(encoding="utf-8") == line + "\n"


def test_only_the_first_process_writes(tmp_path):
    path = tmp_path / GROUPS_FILE
    log, state = GroupLog(None, path), SimpleNamespace(is_world_process_zero=False, global_step=0)
    log.on_train_begin(None, state, None)
    log.on_log(None, state, None, logs={"reward": 1.0})
    assert not path.exists()


@pytest.mark.parametrize("logs", [{"validation/score": 1.0}, {"train_runtime": 2.0}, {"loss": 1.0}])
def test_lines_that_are_of_no_group_write_nothing(tmp_path, logs):
    path = tmp_path / GROUPS_FILE
    state = SimpleNamespace(is_world_process_zero=True, global_step=1)
    GroupLog(None, path).on_log(None, state, None, logs=logs)
    assert not path.exists()


def test_a_log_for_which_nothing_was_generated_has_no_group(tmp_path):
    """Such as the last one of a run that was killed between its last step and its end."""
    state = SimpleNamespace(is_world_process_zero=True, global_step=4)
    GroupLog(SimpleNamespace(_inputs=[]), tmp_path / GROUPS_FILE).on_log(
        None, state, None, logs={"reward": 1.0}
    )
    assert not (tmp_path / GROUPS_FILE).exists()
