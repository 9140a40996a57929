"""`rarl reproduce` as a whole, on few digits and with two steps a stage: what it leaves, that nothing is run
twice, that whatever kills it changes nothing, that machines can share it, and what it says to mistakes."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from rarl.cli import main
from rarl.files import read_yaml_mapping

SHOWN = ["base", "regression", "rarl_no_mutation", "rarl"]  # by Table 6
TRAINED = SHOWN[1:]
RECIPE = {
    "task": "digits",
    "model": "tiny",
    "stages": [
        {"name": "regression", "images": [1], "weights": {"ranking": 0}, "max_steps": 2},
        {"name": "rarl", "images": [1, 2], "max_steps": 2, "mutation": {"k": 2, "probability": 0.8}},
    ],
    "trainer": {
        **{"prompts_per_step": 1, "num_generations": 4, "learning_rate": 1e-3, "save_steps": 1},
        **{"logging_steps": 1, "max_completion_length": 48, "beta": 0.0},
    },
    "validation": {"every": 2, "prompts": 1, "images": [2]},
    "evaluation": {"images": [1, 2], "lists": 3, "position_lists": 1},
}


@pytest.fixture(scope="module")
def small(few_digits):
    """Few digits, and none to train a base on."""
    return few_digits(train=16, validation=6, test=6).root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "short.yaml"
    file.write_text(yaml.safe_dump(RECIPE | {"output": "unused"}))
    return file


def command(*arguments):
    """Its exit code, and what it prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in ("reproduce", *arguments)])
    return int(left.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def run(small, recipe):
    """`run("table6", out, "--seeds", "0,1")`: what the command prints; it must end well."""

    def call(table, out, *further):
        code, text, err = command(table, "--config", recipe, "--data", small, "--out", out, *further)
        assert code == 0, err
        return text

    return call


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A grid of two seeds that was not interrupted, and what was printed."""
    out = tmp_path_factory.mktemp("grids") / "whole"
    run("table6", out, "--seeds", "0")
    shutil.copytree(out / "table6", out.with_name("of-one-seed"))
    return out, run("table6", out, "--seeds", "0,1")


@pytest.fixture
def of_one_seed(whole):
    """`table6` as it is with seed 0 alone."""
    return whole[0].with_name("of-one-seed")


@pytest.fixture
def nothing_runs(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("something ran")

    for name in ("train_stage", "train_sft"):
        monkeypatch.setattr(f"rarl.paper.grid.{name}", refuse)
    for name in ("evaluate", "load_model"):
        monkeypatch.setattr(f"rarl.training.run.{name}", refuse)
    monkeypatch.setattr("rarl.paper.reproduce.make_base", refuse)


RESULTS = "table6/results.json"


def contents(out, *patterns):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in sorted(out.glob(pattern))
    }


# Times stand in the logs and in training.json, and nowhere else.
CELLS = ("seed-*/*/*/model.safetensors", "seed-*/*/metrics.json", "seed-*/*/predictions.jsonl")
CELLS += ("seed-*/*/*/groups.jsonl", "seed-*/*/lists-*.json")


def first_seed_of(out):
    return {name: data for name, data in contents(out, *CELLS).items() if name.startswith("seed-0/")}


# ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────


def test_results_json_is_what_the_cells_measured(whole):
    out, _ = whole
    results = json.loads((out / RESULTS).read_text())
    assert results.keys() == {
        *("table", "task", "split", "model", "seeds", "lists", "steps", "arms", "differences", "missing")
    }
    assert (results["table"], results["task"], results["split"]) == ("table6", "digits", "test")
    assert (results["model"], results["seeds"], results["missing"]) == ("embedded base", [0, 1], [])
    assert results["steps"] == {"base": 0, "regression": 2, "rarl_no_mutation": 4, "rarl": 4}
    assert results["lists"]["2"]["n"] == 3
    assert list(results["arms"]) == SHOWN
    for arm, entries in results["arms"].items():
        of_seeds = [
            json.loads((out / f"seed-{seed}/{arm}/metrics.json").read_text())["arms"][arm] for seed in (0, 1)
        ]
        for name in ("mae", "tau2", "parsed", "valid", "agreement2"):
            assert entries[name]["seeds"] == [metrics[name]["value"] for metrics in of_seeds]
            assert entries[name]["value"] == pytest.approx(sum(entries[name]["seeds"]) / 2)
            assert entries[name]["low"] <= entries[name]["value"] <= entries[name]["high"]
    assert list(results["differences"]) == SHOWN[:-1]
    for arm, entries in results["differences"].items():
        ours, theirs = (results["arms"][name]["mae"]["seeds"] for name in ("rarl", arm))
        assert entries["mae"]["seeds"] == [a - b for a, b in zip(ours, theirs, strict=True)]


def test_a_cell_is_a_run_of_one_arm(whole):
    out, _ = whole
    for seed in (0, 1):
        assert sorted(path.name for path in (out / f"seed-{seed}").iterdir()) == sorted(SHOWN)
        for arm in SHOWN:
            cell = out / f"seed-{seed}/{arm}"
            assert list(json.loads((cell / "metrics.json").read_text())["arms"]) == [arm]
            config = read_yaml_mapping(cell / "config.yaml")
            assert (config["seed"], config["model"]) == (seed, str(out / f"bases/{seed}"))
            models = [path.name for path in cell.iterdir() if path.is_dir()]
            assert models == ([] if arm == "base" else [arm])
    first, second = (contents(out / f"seed-{seed}", "*/*/model.safetensors") for seed in (0, 1))
    assert all(first[name] != second[name] for name in first)
    assert len(set(first.values())) == len(TRAINED)
    made = sorted(path.name for path in out.iterdir() if path.suffix != ".lock")
    assert made == ["bases", "seed-0", "seed-1", "table6"]
    assert not list(out.rglob(".*.unfinished"))


def test_the_report_and_the_terminal_show_measured_and_published(whole):
    out, text = whole
    report = (out / "table6/report.md").read_text()
    assert (out / "table6/report.html").stat().st_size > 1000
    for shown in (report, text):
        for words in ("Measured: digits, test split", "embedded base", "+ RARL, no RMO", "minus each of"):
            assert words in " ".join(shown.split())
        assert shown.index("Measured") < shown.index("Published")
        for number in ("6.95", "4.34", "4.17", "4.02", "0.806"):
            assert number in shown[shown.index("Published") :]
    assert "[1/8] seed 0, base" in text
    assert "seed 1, base" in text
    assert "[8/8] seed 1, rarl" in text


def test_what_is_finished_is_not_run_again_and_the_files_are_the_same(whole, run, nothing_runs):
    out, _ = whole
    before = contents(out, "**/*.json*", "**/*.safetensors", "table6/*", "**/config.yaml")
    text = run("table6", out, "--seeds", "0,1")
    assert contents(out, "**/*.json*", "**/*.safetensors", "table6/*", "**/config.yaml") == before
    assert "s/step" not in text
    assert "Measured: digits" in text


def test_json_is_one_document_on_stdout_and_nothing_else(whole, small, recipe, nothing_runs):
    out, _ = whole
    options = ["--config", recipe, "--data", small, "--out", out, "--seeds", "0,1"]
    code, text, err = command("table6", *options, "--json")
    assert code == 0
    assert json.loads(text) == json.loads((out / RESULTS).read_text())
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert "seed 0, base" in err


def test_one_seed_has_intervals_of_replies(whole, of_one_seed):
    results = json.loads((of_one_seed / "results.json").read_text())
    metrics = json.loads((whole[0] / "seed-0/rarl/metrics.json").read_text())["arms"]["rarl"]
    assert results["seeds"] == [0]
    assert results["arms"]["rarl"].keys() == metrics.keys()
    for name, entry in results["arms"]["rarl"].items():
        assert entry == metrics[name] | {"seeds": [metrics[name]["value"]]}
    assert results["differences"]["base"].keys() == {"mae", "tau2"}


@contextlib.contextmanager
def at(folder, kept):
    """`folder` is as it was afterwards: its cells know their paths, so that a copy elsewhere would not do."""
    shutil.copytree(folder, kept)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


def test_another_table_takes_the_cells_that_are_there(whole, run, tmp_path, monkeypatch):
    out, _ = whole
    from rarl.paper import grid as experiments

    trained, train = [], experiments.train_stage

    def watched(config, stage, start, groups, folder, console, held_out=()):
        trained.append((config.seed, folder.name))
        train(config, stage, start, groups, folder, console, held_out)

    monkeypatch.setattr(experiments, "train_stage", watched)
    with at(out, tmp_path / "kept"):
        before = contents(out, *CELLS, "table6/*")
        run("table3", out, "--seeds", "0")
        after = contents(out, *CELLS, "table6/*")
        assert {name: after[name] for name in before} == before
        assert trained == [(0, "ranking"), (0, "joint")]
        results = json.loads((out / "table3/results.json").read_text())
        assert list(results["arms"]) == ["base", "regression", "ranking", "joint", "rarl"]
        assert list(results["differences"]) == ["base", "regression", "ranking", "joint"]
        assert "COCO-ReM" in (out / "table3/report.md").read_text()


def test_another_recipe_is_refused_and_nothing_is_lost(whole, small, recipe, nothing_runs):
    out, _ = whole
    before = contents(out, "**/*.*")
    options = ["--config", recipe, "--data", small, "--out", out, "--seeds", "0,1"]
    for override, words in [
        ("trainer.learning_rate=2e-3", "trainer.learning_rate: 0.001 before, 0.002 now"),
        ("evaluation.images=[1,2,4]", "evaluation was"),
    ]:
        code, text, err = command("table6", *options, "--set", override)
        assert (code, text) == (2, "")
        assert words in err
        assert "Traceback" not in err
        assert contents(out, "**/*.*") == before


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────


def test_killed_at_any_moment_it_ends_with_the_same_results(whole, of_one_seed, small, recipe, tmp_path):
    """SIGKILL while the base is copied, within its evaluation, between its two files, within training and
    within a checkpoint, when a model takes its name, between cells, before the results, and at any time."""
    out, marks = tmp_path / "killed", tmp_path / "marks.json"
    script = [sys.executable, __file__, small, recipe, out, marks]
    done = subprocess.run([str(word) for word in script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    killed = json.loads(marks.read_text())
    assert killed == dict.fromkeys(MOMENTS, -signal.SIGKILL) | {"at any time": killed["at any time"], "": 0}
    assert len(contents(out, *CELLS)) > 4 * len(TRAINED)
    assert contents(out, *CELLS) == first_seed_of(whole[0])
    assert not list(out.rglob("checkpoints"))
    assert not list(out.rglob(".*unfinished*"))
    for name in ("results.json", "report.md"):
        assert (out / "table6" / name).read_bytes() == (of_one_seed / name).read_bytes()


MOMENTS = (
    "the base is copied",
    "the base is asked",
    "its replies are written",
    "a step is trained",
    "a checkpoint is written",
    "a model takes its name",
    "its checkpoints go",
    "a cell is trained and not evaluated",
    "the results are written",
)


def kill_at(moment):
    """Arranges for this process to be killed then."""
    from transformers import Trainer

    import rarl.evaluation.evaluate
    import rarl.models.pretraining
    import rarl.paper.grid
    import rarl.paper.reproduce
    from rarl.training import arms
    from rarl.training.callbacks import ProgressLines

    def kill(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    calls = []
    evaluate_arm, greedy_replies = rarl.paper.grid.evaluate_arm, rarl.evaluation.evaluate.greedy_replies
    save = Trainer._save_optimizer_and_scheduler

    def second(*args, **kwargs):
        calls.append(args)
        return kill() if len(calls) == 2 else greedy_replies(*args, **kwargs)

    def last_checkpoint(trainer, folder):
        save(trainer, folder)
        if trainer.state.global_step == 2:
            (Path(folder) / "optimizer.pt").write_bytes(b"half")
            kill()

    def step_2(lines, args, state, control, **kwargs):
        if state.global_step == 1:  # the second begins
            kill()

    def of_arm(config, collection, arm, *rest):
        return kill() if arm == "rarl" else evaluate_arm(config, collection, arm, *rest)

    def removing(path, ignore_errors=False, remove=shutil.rmtree):
        if Path(path).parent.name == "checkpoints":  # those of the arm that is finished
            kill()
        remove(path, ignore_errors=ignore_errors)

    place, name, value = {
        "the base is copied": (rarl.models.pretraining, "finish", kill),
        "the base is asked": (rarl.evaluation.evaluate, "greedy_replies", second),
        "its replies are written": (rarl.evaluation.evaluate, "write_metrics", kill),
        "a step is trained": (ProgressLines, "on_step_begin", step_2),
        "a checkpoint is written": (Trainer, "_save_optimizer_and_scheduler", last_checkpoint),
        "a model takes its name": (arms, "finish", kill),
        "its checkpoints go": (shutil, "rmtree", removing),
        "a cell is trained and not evaluated": (rarl.paper.grid, "evaluate_arm", of_arm),
        "the results are written": (rarl.paper.reproduce, "write_text", kill),
    }[moment]
    setattr(place, name, value)


def be_killed(small, recipe, out, marks):
    """Runs the grid again and again, each time in a process that is killed at another moment; in the end
    whole. The exit codes go into the file `marks`."""
    import rarl.paper.reproduce
    import rarl.training.trainer  # once, for all that are forked

    def forked(moment):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if moment in MOMENTS:
                    kill_at(moment)
                mapping = read_yaml_mapping(Path(recipe)) | {"data": small, "task": None}
                planned = rarl.paper.reproduce.plan("table6", mapping, "test", out=Path(out), seeds=[0])
                rarl.paper.reproduce.reproduce(planned, Console(file=io.StringIO()))
                code = 0
            finally:
                os._exit(code)
        return child

    def code_of(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    codes = {}
    for number, moment in enumerate(MOMENTS):
        codes[moment] = code_of(forked(moment))
        if number in (3, 7):  # with cells half done; so short that the moments to come are still to come
            child = forked("")
            time.sleep(random.uniform(0.1, 0.6))
            os.kill(child, signal.SIGKILL)
            codes["at any time"] = code_of(child)
    codes[""] = code_of(forked(""))
    Path(marks).write_text(json.dumps(codes))


# ── several machines ─────────────────────────────────────────────────────────────────────────────────────


def test_two_machines_make_the_table_of_one(whole, of_one_seed, run, tmp_path, monkeypatch, request):
    """Each in a folder of its own, by the same relative path; then one's cells are copied to the other's."""
    machines = [tmp_path / "one", tmp_path / "two"]
    for number, machine in enumerate(machines, 1):
        machine.mkdir()
        monkeypatch.chdir(machine)
        text = run("table6", "runs/grid", "--seeds", "0", "--shard", f"{number}/2")
        results = json.loads((machine / "runs/grid" / RESULTS).read_text())
        made = {path.parent.relative_to(machine / "runs/grid") for path in machine.rglob("metrics.json")}
        named = {Path(*missing.replace("seed ", "seed-").split()) for missing in results["missing"]}
        assert made
        assert named
        assert made | named == {Path("seed-0", arm) for arm in SHOWN}
        assert not made & named
        assert "Not finished yet" in " ".join(text.split())
    for cells in (machines[1] / "runs/grid").glob("seed-*"):
        shutil.copytree(cells, machines[0] / "runs/grid" / cells.name, dirs_exist_ok=True)
    monkeypatch.chdir(machines[0])
    request.getfixturevalue("nothing_runs")
    run("table6", "runs/grid", "--seeds", "0")
    assert Path("runs/grid", RESULTS).read_bytes() == (of_one_seed / "results.json").read_bytes()
    assert contents(Path("runs/grid"), *CELLS) == first_seed_of(whole[0])


def test_a_machine_without_a_share_ends_well(run, tmp_path):
    out = tmp_path / "grid"
    run("table6", out, "--seeds", "0", "--shard", "9/9")
    results = json.loads((out / RESULTS).read_text())
    assert results["missing"] == [f"seed 0 {arm}" for arm in SHOWN]
    assert results["arms"] == {}


def test_a_cell_that_another_command_trains_is_left_to_it(whole, small, recipe, other_command, nothing_runs):
    """Who asks for all cells is told; who asks for those of the other seed is not kept out."""
    out, before = whole[0], contents(whole[0], *CELLS)
    other_command(out / "seed-0/rarl", "training")
    given = ["table6", "--config", recipe, "--data", small, "--out", out, "--seeds"]
    code, _, err = command(*given, "0,1")
    assert code == 2
    assert f"error: {out / 'seed-0/rarl'}: another command is at work here (training)" in err
    assert command(*given, "1")[0] == 0
    assert contents(out, *CELLS) == before


def test_a_base_that_has_to_be_built_is_built_once_for_its_seed(digits, tmp_path, monkeypatch):
    """The digits have a part for it; seed 0 is shipped. The building itself is `pretraining`'s."""
    import rarl.paper.reproduce
    from rarl.demo import CONFIG
    from rarl.models.pretraining import copy_base

    asked = []

    def build(out, seed, console, collection=None):
        asked.append((out, seed, collection.root))
        copy_base(out)

    monkeypatch.setattr(rarl.paper.reproduce, "make_base", build)
    monkeypatch.setattr(
        rarl.paper.reproduce, "prepare_digits", lambda out: shutil.copytree(digits.root, out) and digits
    )
    monkeypatch.setattr(rarl.paper.reproduce, "prepare_cells", lambda grid: [])
    out = tmp_path / "grid"
    mapping = read_yaml_mapping(CONFIG)
    planned = rarl.paper.reproduce.plan("table2", mapping, "test", out=out, seeds=[2, 0, 1])
    quiet = Console(file=io.StringIO())
    grid, mine, _ = rarl.paper.reproduce._prepared(planned, quiet)
    assert asked == [(out / f"bases/{seed}", seed, digits.root) for seed in (2, 1)]
    assert {cell.config.model for cell in grid} == {str(out / f"bases/{seed}") for seed in (0, 1, 2)}
    assert grid == mine
    shutil.rmtree(out / "data")
    rarl.paper.reproduce._prepared(planned, quiet)
    assert len(asked) == 2  # they are there


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────────────────

MISTAKES = [
    (["table7"], "unknown table 'table7': the paper's are table2, table3, table4, table5, table6; did you"),
    (["Table6"], "unknown table 'Table6'"),
    (["results"], "unknown table 'results'"),
    (["table6", "--seeds", "one"], "--seeds one: must be whole numbers from 0"),
    (["table6", "--seeds", "0,"], "--seeds 0,: must be whole numbers"),
    (["table6", "--seeds", ""], "--seeds : must be whole numbers"),
    (["table6", "--seeds", "-1"], "--seeds -1: must be whole numbers"),
    (["table6", "--seeds", "0.5"], "--seeds 0.5"),
    (["table6", "--seeds", "4294967296"], "--seeds 4294967296: must be whole numbers from 0 to 4294967295"),
    (["table6", "--shard", "0/2"], "--shard 0/2: must be i/n with i from 1 to n"),
    (["table6", "--shard", "3/2"], "--shard 3/2"),
    (["table6", "--shard", "2"], "--shard 2:"),
    (["table6", "--shard", "1/0"], "--shard 1/0"),
    (["table6", "--arms", "rlhf"], "unknown arm 'rlhf': the arms are base, sft"),
    (["table6", "--arms", ","], "--arms ',': must be one name or more"),
    (
        ["table6", "--model", "Qwen/Qwen2.5-VL-3B-Instruct"],
        "--config: which stages and trainer's settings has",
    ),
    (["table6", "--task", "years"], "unknown task 'years'"),
    (["table6", "--task", "age"], "task 'age' needs a collection's folder"),
    (["table6", "--config", "nowhere.yaml"], "nowhere.yaml"),
    (["table6", "--set", "stages.1.mutation=null"], "stages[1].mutation: missing; the arm rarl needs it"),
    (["table6", "--set", "trainer.learning_rat=1"], "did you mean 'learning_rate'?"),
    (["table6", "--set", "evaluation.split=held-out"], "held-out"),
    (["table6", "--set", "validation.split=held-out"], "held-out"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(given) for given, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, words, tmp_path, monkeypatch, nothing_runs):
    monkeypatch.chdir(tmp_path)
    code, text, err = command(*arguments)
    assert (code, text) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert words in err
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_collection_of_another_task_is_one_line(small, tmp_path, nothing_runs):
    code, text, err = command("table6", "--task", "age", "--data", small, "--out", tmp_path / "grid")
    assert (code, text, len(err.splitlines())) == (2, "", 1)
    assert "is of 'digits', not 'age'" in err
    assert "--task" in err
    assert not (tmp_path / "grid").exists()


def test_a_collection_that_is_none_is_one_line(tmp_path):
    code, text, err = command("table6", "--data", tmp_path / "nowhere", "--out", tmp_path / "grid")
    assert (text, len(err.splitlines())) == ("", 1)
    assert code in (1, 2)
    assert f"{tmp_path / 'nowhere'}: no such folder" in err


def test_an_out_that_is_a_file_is_one_line(recipe, small, tmp_path, nothing_runs):
    out = tmp_path / "grid"
    out.write_text("mine")
    for data in ([], ["--data", small]):
        code, text, err = command("table6", "--config", recipe, *data, "--out", out)
        assert (code, text, len(err.splitlines())) == (2, "", 1), err
        assert str(out) in err
        assert out.read_text() == "mine"


def test_interrupted_it_says_how_to_go_on(recipe, small, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("rarl.paper.reproduce.train_cell", stop)
    out = tmp_path / "my grid"
    options = ["--seeds", "0", "--data", str(small), "--config", str(recipe), "--out", str(out)]
    code, _, err = command("table6", *options, "--set", "trainer.save_steps=2", "--shard", "1/2")
    assert code == 130
    [again] = [line for line in err.splitlines() if "continue with: " in line]
    import shlex

    words = shlex.split(again.partition("continue with: ")[2])
    assert words[:3] == ["rarl", "reproduce", "table6"]
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert pairs == dict(zip(options[::2], options[1::2], strict=True)) | {
        "--shard": "1/2",
        "--set": "trainer.save_steps=2",
    }


if __name__ == "__main__":
    be_killed(*sys.argv[1:])
