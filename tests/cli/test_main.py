"""The command line: what it prints, its exit codes, and that a user's mistake is told at once, without a
traceback and without torch. The models behind it are stand-ins; the real ones are tested where they live."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from rarl.cli import main
from rarl.cli.arguments import parse_counts, parse_range, task_to_rank
from rarl.data.collection import load_collection
from rarl.errors import ConfigError, DataError
from rarl.method.tasks import AGE, DIGITS, Task
from rarl.ranking.measured import Measured
from rarl.ranking.table import Ranked, Ranking

SOURCES = ["digits", "utkface", "coco-rem", "coco", "ava", "folder"]
COMMANDS = ["demo", "train", "evaluate", "rank", "base", "plan", "data", "data prepare"]
COMMANDS += [f"data prepare {source}" for source in SOURCES]


def rarl(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return int(leaving.value.code or 0)


def stand_in(monkeypatch, name: str, **members: object) -> None:
    """A module in place of one that would import torch."""
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model's, of the task age."""
    folder = tmp_path / "rarl"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "task.yaml").write_text(json.dumps(AGE.to_dict()))
    return folder


@pytest.fixture
def ranker(monkeypatch):
    """Ranks by file name, backwards, and keeps what it was made with."""
    made = types.SimpleNamespace(read_leniently=0, problems={})

    class Ranker:
        def __init__(self, model, task, **options):
            made.model, made.task = model, task
            self.read_leniently = made.read_leniently
            print("a library's chatter on stdout")

        def rank(self, images, descending):
            names = sorted(map(str, images), reverse=True)
            return Ranking(
                made.task,
                [
                    Ranked(n, name, None if n in made.problems else n * 1.5, "listed", made.problems.get(n))
                    for n, name in enumerate(names, start=1)
                ],
            )

        def measure_each(self, images):
            for place, name in enumerate(images):
                problem = made.problems.get(Path(name).name)
                yield [(place, Measured(None if problem else 1.5, problem=problem))]

    stand_in(monkeypatch, "rarl.ranking.ranker", Ranker=Ranker)
    return made


# --- help and version ---


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_ends_with_an_example(capsys, command):
    assert rarl(*command.split(), "--help") == 0
    assert "Example: rarl" in capsys.readouterr().out


def test_help_loads_no_torch():
    """That would take seconds."""
    code = (
        "import sys, rarl.cli\n"
        "try: rarl.cli.main(['--help'])\n"
        "finally: assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version(capsys):
    assert rarl("--version") == 0
    assert capsys.readouterr().out.startswith("rarl 0.")


def test_no_command_is_wrong_usage(capsys):
    assert rarl() == 2
    assert rarl("trian") == 2
    assert "trian" in capsys.readouterr().err


# --- mistakes ---


def error_of(capsys, *arguments: object) -> tuple[int, str]:
    """Exit code and message; nothing may stand on stdout."""
    code = rarl(*arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return code, captured.err


def test_rank_mistakes(capsys, tmp_path, model, image):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    cases = [
        ((model, tmp_path / "none.png"), 1, "none.png"),
        ((model, tmp_path / "text.png"), 1, "text.png"),
        ((model, tmp_path / "empty"), 1, "no images in it"),
        ((model, image, "--out", "scores.txt"), 2, ".csv, .parquet, .json"),
        ((model, image, "--sheet", "sheet.gif"), 2, ".png or .jpg"),
        ((model, image, "--shard", "1/2"), 2, "give --out"),
        ((model, image, "--out", "scores.csv", "--shard", "3/2"), 2, "i from 1 to n"),
        ((tmp_path / "empty", image), 1, "no config.json"),
        ((tmp_path / "nothing", image), 1, "neither a folder nor a hub name"),
        ((image, image), 1, "is a file"),
        ((model, image, "--task", "agee"), 2, "did you mean 'age'"),
        ((model, image, "--rule", "age", "--task", "age"), 2, "give one of them"),
        ((model, image, "--rule", "age"), 2, "needs --range"),
        ((model, image, "--rule", "age", "--range", "many"), 2, "two numbers such as 0-116"),
        ((model, image, "--rule", "age", "--range", "9-1"), 2, "must be less than"),
        ((model, image, "--rule", "age", "--range", "0-9", "--step", "0"), 2, "step must be greater than 0"),
        ((model, image, "--range", "0-9"), 2, "belongs to --rule"),
    ]
    for arguments, code, message in cases:
        found, text = error_of(capsys, "rank", *arguments)
        assert found == code, arguments
        assert message in text, arguments


def test_a_model_that_says_no_task_needs_one(capsys, model, image):
    (model / "task.yaml").unlink()
    code, text = error_of(capsys, "rank", model, image)
    assert code == 2
    assert "give --task age, or --rule" in text


def test_a_model_s_task_file_that_is_wrong_is_named(capsys, model, image):
    (model / "task.yaml").write_text("name: age\nrulle: x\n")
    code, text = error_of(capsys, "rank", model, image)
    assert code == 2
    assert "task.yaml: unknown key 'rulle'; did you mean 'rule'?" in text


RUN = """\
task: digits
output: {output}
stages: [{{name: one, images: [2], max_steps: 1}}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(output=tmp_path / "out"))
    return path


def test_train_mistakes(capsys, tmp_path, config):
    cases = [
        ((tmp_path / "none.yaml",), "none.yaml: no such file"),
        (
            (config, "--set", "stages.0.max_stepps=3"),
            "stages[0].max_stepps: unknown key; did you mean 'max_steps'?",
        ),
        ((config, "--set", "seed"), "must look like key=value"),
    ]
    for arguments, message in cases:
        code, text = error_of(capsys, "train", *arguments)
        assert code == 2, arguments
        assert message in text, arguments
    code, text = error_of(capsys, "train", config, "--set", f"model={tmp_path}")
    assert code == 1
    assert "no config.json" in text
    code, text = error_of(capsys, "train", config, "--set", f"data={tmp_path / 'none'}")
    assert code == 1
    assert "no such folder" in text


def test_train_does_not_write_over_a_run(capsys, tmp_path, config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.yaml").write_text("seed: 0\n")
    code, text = error_of(capsys, "train", config)
    assert code == 2
    assert "--resume" in text
    code, text = error_of(capsys, "train", config, "--resume")
    assert "another configuration" in text
    # What is wrong in the file comes first.
    code, text = error_of(capsys, "train", config, "--set", "trainer.learning_rat=1")
    assert code == 2
    assert "trainer.learning_rat: unknown key; did you mean 'learning_rate'?" in text


def test_evaluate_mistakes(capsys, tmp_path, model):
    data = digits(tmp_path)
    cases = [
        ((model, data, "--images", "1,x"), 2, "whole numbers from 1 to 16"),
        ((model, data, "--images", "1,9"), 2, "test has 8 images, and no list of 9; give smaller numbers"),
        ((model, data, "--split", "tset"), 1, "no split 'tset'; there are"),
        ((model, data, "--by", "gender"), 1, "metadata.jsonl: no column 'gender'; there are rule, camera"),
        ((model, data, "--by", "camera", "--images", "2,4"), 2, "--by camera: divides single images"),
        ((model, data, "--by", " , "), 2, "--by ' , ': must be one name or more"),
        ((model, tmp_path / "none"), 1, "no such folder"),
        ((tmp_path / "none", data), 1, "neither a folder nor a hub name"),
        ((model, data, "--arm", ""), 2, "--arm '': must be a name without '/'"),
        ((model, data, "--arm", "a/b"), 2, "--arm 'a/b': must be a name"),
        ((model, data, "--images", ""), 2, "--images '': must be whole numbers"),
    ]
    for arguments, code, message in cases:
        found, text = error_of(capsys, "evaluate", *arguments)
        assert found == code, arguments
        assert message in text, arguments


def test_evaluate_says_what_it_replaces_only_if_it_does(capsys, tmp_path, model):
    """Fewer images than before would drop an arm's tau, and other lists are refused."""
    data, out = digits(tmp_path), tmp_path / "results"
    out.mkdir()
    ids = [row.id for row in load_collection(data).split("test")]
    (out / "lists-test-0.json").write_text(json.dumps([ids[:2]]))
    arms = {"rarl": dict.fromkeys(("mae", "tau2", "tau2_values", "tau4"), entry(0.5))}
    saved = json.dumps({**HEAD, "arms": arms})
    (out / "metrics.json").write_text(saved)
    where = ("evaluate", model, data, "--out", out, "--lists")
    code, text = error_of(capsys, *where, 1, "--images", "1")
    assert code == 2
    assert "results of 'rarl' for 2, 4 images, which would be lost: give --images 1,2,4, or keep both" in text
    code, text = error_of(capsys, *where, 7, "--images", "1,2,4")
    assert code == 2
    assert "holds 1 lists of 2 images" in text
    assert "replaced" not in text
    assert (out / "metrics.json").read_text() == saved


def test_other_mistakes(capsys, tmp_path, image):
    assert rarl("data", "prepare", "digit", tmp_path / "out") == 2
    assert "Did you mean 'digits'?" in capsys.readouterr().err
    code, text = error_of(capsys, "base", tmp_path)
    assert (code, "is there already" in text) == (2, True)
    assert rarl("base", "--seed", 2**32, tmp_path / "out") == 2


@pytest.mark.parametrize("command", [["demo", "--out"], ["evaluate", "MODEL", "DATA", "--out"]])
def test_a_folder_that_cannot_be_written_is_named(capsys, monkeypatch, tmp_path, image, model, command):
    def write(folder):
        (folder / "new").mkdir(parents=True)

    stand_in(monkeypatch, "rarl.demo", run_demo=lambda out, seed: write(out))
    stand_in(
        monkeypatch, "rarl.evaluation.evaluate", evaluate=lambda m, p, data, folder, **options: write(folder)
    )
    monkeypatch.setattr("rarl.models.loading.load_model", lambda name, **options: None)
    monkeypatch.setattr("rarl.models.loading.load_processor", lambda name, **options: None)
    places = {"MODEL": model, "DATA": digits(tmp_path)}
    code, text = error_of(capsys, *(places.get(word, word) for word in command), image / "out")
    assert code == 1
    assert str(image / "out") in text


def test_a_mistake_in_a_process_of_its_own_has_no_traceback():
    result = subprocess.run(
        [sys.executable, "-m", "rarl", "rank", "tiny", "no.png"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_an_error_that_is_not_the_user_s_keeps_its_traceback(monkeypatch, model, image):
    class Ranker:
        def __init__(self, model, task, **options):
            raise ZeroDivisionError

    stand_in(monkeypatch, "rarl.ranking.ranker", Ranker=Ranker)
    with pytest.raises(ZeroDivisionError):
        main(["rank", str(model), str(image)])


# --- what the commands do ---


def test_rank_prints_a_table(capsys, model, image, ranker):
    assert rarl("rank", model, image) == 0
    out = capsys.readouterr().out
    assert "facial age" in out
    assert "1.5" in out
    assert "chatter" not in out
    assert ranker.task == AGE


@pytest.mark.parametrize("number", [0, 3])
def test_rank_says_how_many_replies_it_read_leniently(capsys, model, image, ranker, number):
    ranker.read_leniently = number
    assert rarl("rank", model, image, "--json") == 0
    out, err = capsys.readouterr()
    assert "lenient" not in out
    said = "replies in another format than was asked for, and read leniently: 3\n"
    assert (said in err, "lenient" in err) == ((True, True) if number else (False, False))


def test_rank_prints_one_json_document(capsys, tmp_path, model, image, ranker):
    other = tmp_path / "b.png"
    other.write_bytes(image.read_bytes())
    assert (
        rarl("rank", model, image, other, "--rule", "size", "--range", "0-1", "--step", "0.5", "--json") == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in document["ranking"]] == [str(other), str(image)]
    how = {"low": None, "high": None, "method": "listed", "problem": None}
    assert document["ranking"][0] == {"rank": 1, "file": str(other), "value": 1.5, "mean": 1.5} | how
    assert (document["task"]["rule"], document["task"]["high"], document["task"]["step"]) == ("size", 1, 0.5)


@pytest.mark.parametrize("as_json", [True, False])
def test_rank_says_which_images_got_no_value_and_ends_with_1(capsys, model, image, ranker, as_json):
    ranker.problems = {1: "the image is damaged [/]"}
    (image.parent / "z.png").write_text("no image")
    assert rarl("rank", model, image, image.parent / "z.png", *["--json"] * as_json) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 images got no value" in err
    if as_json:
        assert [row["problem"] for row in json.loads(out)["ranking"]] == ["the image is damaged [/]", None]
    assert "the image is damaged [/]" in " ".join(out.split())


def test_strict_rank_refuses_before_the_model_is_loaded(capsys, model, image, ranker):
    (image.parent / "z.png").write_text("no image")
    code, text = error_of(capsys, "rank", model, image, image.parent / "z.png", "--strict")
    assert code == 1
    assert "z.png: not a readable" in text
    assert not hasattr(ranker, "model")
    assert rarl("rank", model, image, "--strict") == 0


def digits(folder: Path) -> Path:
    """A collection of eight images."""
    data = folder / "digits"
    (data / "test").mkdir(parents=True)
    (data / "task.yaml").write_text(json.dumps(DIGITS.to_dict()))
    rows = []
    for value in range(8):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(data / f"test/{value}.png")
        rows.append({"file_name": f"{value}.png", "value": value, "rule": "number", "camera": "[a]"})
    (data / "test/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


@pytest.mark.parametrize("as_json", [True, False])
def test_evaluate_prints_what_it_wrote(capsys, monkeypatch, tmp_path, model, as_json):
    entry = {"value": 0.25, "low": 0.125, "high": 0.5, "n": 1}
    metrics = {"task": "digits", "split": "test", "seed": 0, "lists": {}, "arms": {}}
    asked = {}

    def evaluate(model, processor, collection, out, *, arm, **options):
        asked.update(options, arm=arm)
        Path(out).mkdir(exist_ok=True)
        arms = {arm: dict.fromkeys(("mae", "tau2", "parsed", "valid"), entry)}
        (Path(out) / "metrics.json").write_text(json.dumps({**metrics, "arms": arms}))
        print("chatter")

    stand_in(monkeypatch, "rarl.evaluation.evaluate", evaluate=evaluate)
    monkeypatch.setattr("rarl.models.loading.load_model", lambda name, **options: None)
    monkeypatch.setattr("rarl.models.loading.load_processor", lambda name, **options: None)
    flags = ["--json"] if as_json else []
    out = tmp_path / "results"
    assert (
        rarl("evaluate", model, digits(tmp_path), "--images", "2,1", "--lists", "5", "--out", out, *flags)
        == 0
    )
    del asked["progress"]
    assert asked == {"arm": "rarl", "images": (1, 2), "split": "test", "lists": 5, "batch_size": 16} | {
        "position_lists": 25,
        "by": None,
        "scoring": None,
    }
    printed, said = capsys.readouterr()
    assert "replaced" not in said
    if as_json:
        assert json.loads(printed)["arms"]["rarl"]["mae"] == entry
    else:
        assert "0.25" in printed
        assert "chatter" not in printed
    # Another model of that name would take the place of the first.
    assert rarl("evaluate", model, tmp_path / "digits", "--out", out, "--json") == 0
    assert "the results of 'rarl'" in capsys.readouterr().err


def evaluated(monkeypatch, tmp_path, model, metrics, *flags):
    """What `rarl evaluate` asks for, where these metrics are what is found."""
    asked = {}

    def evaluate(model, processor, collection, out, **options):
        asked.update(options)
        Path(out).mkdir()
        (Path(out) / "metrics.json").write_text(json.dumps(metrics))

    stand_in(monkeypatch, "rarl.evaluation.evaluate", evaluate=evaluate)
    monkeypatch.setattr("rarl.models.loading.load_model", lambda name, **options: None)
    monkeypatch.setattr("rarl.models.loading.load_processor", lambda name, **options: None)
    assert rarl("evaluate", model, digits(tmp_path), "--out", tmp_path / "out", *flags) == 0
    return asked


def entry(value):
    return {"value": value, "low": value - 0.125, "high": value + 0.125, "n": 7}


SHARES = {"parsed": entry(1), "valid": entry(1)}
HEAD = {"task": "digits", "split": "test", "seed": 0, "lists": {}}


def test_evaluate_prints_what_columns_and_rotations_tell(capsys, monkeypatch, tmp_path, model):
    means = {"mae_median": entry(0.5), "srcc_mean": entry(0.875), "tau2_mean": entry(0.75)}
    turned = {"agreement2": entry(0.5), "position_bias2": entry(0.25), "agreement4": entry(-0.0625)}
    values = {"[a]": {"mae": entry(0.75)}, "(none)": {"mae": entry(0.0625) | {"n": 3}}}
    arms = {"rarl": {**SHARES, **turned, **means}, "other": {**SHARES, "agreement8": entry(0.875)}}
    groups = {"rarl": {"camera": values}, "other": {"skin": values}}
    metrics = {**HEAD, "arms": arms, "subgroups": groups}
    flags = ("--position-lists", 3, "--by", "rule, camera,")
    asked = evaluated(monkeypatch, tmp_path, model, metrics, *flags)
    assert (asked["position_lists"], asked["by"]) == (3, ["rule", "camera"])
    out = capsys.readouterr().out
    assert "rotated lists of 2/4: agreement 0.50/-0.06, position bias 0.25/-\n" in out
    assert "expected values: MAE 0.50, SRCC 0.875, τ of 2 images 0.75\n" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["camera", "[a]", "7", "0.75", "0.62–0.88"] in rows
    assert ["(none)", "3", "0.06", "-0.06", "–", "0.19"] in rows
    # The other model's were printed when it was evaluated.
    assert "skin" not in out
    assert "0.88," not in out


def test_evaluate_prints_one_table_where_there_is_no_more(capsys, monkeypatch, tmp_path, model):
    evaluated(monkeypatch, tmp_path, model, {**HEAD, "arms": {"rarl": SHARES}}, "--position-lists", 0)
    out = capsys.readouterr().out
    assert "parsed" in out
    assert "agreement" not in out
    assert "column" not in out


def test_train_hands_over_the_configuration(capsys, monkeypatch, config):
    seen = {}

    def run_stages(run, *, resume, console):
        seen.update(run=run, resume=resume)
        return {"task": "digits", "split": "test", "seed": 3, "arms": {}}

    stand_in(monkeypatch, "rarl.training.run", train_and_evaluate=run_stages)
    assert rarl("train", config, "--set", "seed=3", "--set", "stages[0].max_steps=7", "--resume") == 0
    assert (seen["run"].seed, seen["run"].stages[0].max_steps, seen["resume"]) == (3, 7, True)
    assert "holds no run to continue: a new one begins" in capsys.readouterr().err


def test_demo_hands_over_folder_and_seed(monkeypatch, tmp_path):
    seen = []
    stand_in(monkeypatch, "rarl.demo", run_demo=lambda out, seed: seen.append((out, seed)))
    assert rarl("demo", "--out", tmp_path / "d", "--seed", 2) == 0
    assert seen == [(tmp_path / "d", 2)]


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch, config):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    stand_in(monkeypatch, "rarl.training.run", train_and_evaluate=interrupted)
    assert rarl("train", config, "--set", "stages.0.images=[2, 4]") == 130
    assert (
        f"continue with: rarl train {config} --set 'stages.0.images=[2, 4]' --resume"
        in capsys.readouterr().err
    )
    stand_in(monkeypatch, "rarl.demo", run_demo=interrupted)
    assert rarl("demo") == 130
    assert "continue with: rarl demo --out runs/demo --seed 0" in capsys.readouterr().err


def test_base_hands_over_folder_and_seed(capsys, monkeypatch, tmp_path):
    seen = []
    made = {"make_base": lambda out, seed, console, data, **_: seen.append((out, seed))}
    stand_in(monkeypatch, "rarl.models.pretraining", **made)
    assert rarl("base", "--seed", 4, tmp_path / "base") == 0
    assert seen == [(tmp_path / "base", 4)]
    assert capsys.readouterr().out.startswith("wrote ")


def test_data_prepare_digits(capsys, tmp_path):
    assert rarl("data", "prepare", "digits", tmp_path / "digits") == 0
    out = capsys.readouterr().out
    assert "test 400" in out
    assert (tmp_path / "digits/task.yaml").is_file()


# --- words ---


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("0-116", (0, 116)),
        ("-5--1", (-5, -1)),
        ("-5:5", (-5, 5)),
        ("0.5 to 2", (0.5, 2)),
        ("1e-3-1", (0.001, 1)),
    ],
)
def test_value_range(text, ends):
    assert parse_range(text) == ends


@pytest.mark.parametrize("text", ["", "5", "a-b", "1-2-3", "0,116", "nan-1"])
def test_no_value_range(text):
    with pytest.raises(ConfigError, match="two numbers"):
        parse_range(text)


@pytest.mark.parametrize(("text", "numbers"), [("1", (1,)), ("8, 2,2", (2, 8)), ("16", (16,))])
def test_counts(text, numbers):
    assert parse_counts(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "17", "1,,2", "-1", "1.5", "²"])
def test_no_counts(text):
    with pytest.raises(ConfigError, match="from 1 to 16"):
        parse_counts(text)


def test_the_embedded_model_reads_digits():
    assert task_to_rank("tiny", None, None, None, None) == DIGITS
    assert task_to_rank("tiny", "age", None, None, None) == AGE
    assert task_to_rank("tiny", None, "x", parse_range("0-1"), None) == Task(
        "custom", "x", low=0, high=1, step=1, delta=1
    )


def test_errors_are_drawn_as_a_tree():
    assert not issubclass(DataError, ConfigError)
