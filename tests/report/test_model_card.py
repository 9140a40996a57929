"""A model's card: its numbers are the run's, its code runs as it stands and gets the reply that evaluation
gets, and nothing in it says where it was trained."""

import re
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from helpers.runs import SHADES, config_of, make_collection, numbers
from rarl.data.collection import Collection
from rarl.method.prompts import messages
from rarl.method.tasks import AGE, Task
from rarl.models.generation.replies import greedy_replies
from rarl.models.loading import BASE_FOLDER, load_model, load_processor
from rarl.report.model_card import model_card, write_model_cards
from rarl.training.config import RunConfig

METRICS = {
    "task": "shades",
    "split": "test",
    "seed": 0,
    "lists": {"2": {"n": 8, "tie_rate": 0.0}, "4": {"n": 4, "tie_rate": 0.0}},
    "arms": {"base": numbers(3.0), "sft": numbers(2.0), "regression": numbers(1.5), "rarl": numbers(1.25)},
}


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return make_collection(tmp_path_factory.mktemp("shades") / "data")


def card(run: RunConfig, shades: Collection, arm: str = "rarl", task: Task | None = None) -> str:
    run = run if task is None else run.model_copy(update={"task": task})
    return model_card(run, arm, METRICS, shades)


def test_the_numbers_are_those_of_the_arm_beside_the_base(tmp_path: Path, shades: Collection) -> None:
    text = card(config_of(tmp_path / "run"), shades)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4  # head, rule, base, arm
    assert re.search(r"\| 3\.00<br>2\.75–3\.25 \| 0\.500<br>", rows[2])
    assert re.search(r"\| 1\.25<br>1\.00–1\.50 \| 0\.500<br>", rows[3])
    assert "over 8 lists of 2, 4 lists of 4." in text
    assert "16 in train, 16 in test." in text


def test_the_metadata_for_the_hub(tmp_path: Path, shades: Collection) -> None:
    run = config_of(tmp_path / "run")
    for model, base in (("Qwen/Qwen2.5-VL-3B-Instruct",) * 2, ("tiny", None), (str(tmp_path), None)):
        text = card(run.model_copy(update={"model": model}), shades)
        _, head, rest = text.split("---\n", 2)
        found = YAML(typ="safe").load(head)
        assert (found["library_name"], found.get("base_model")) == ("transformers", base)
        assert str(tmp_path) not in text
        assert rest.startswith("\n# run-rarl\n")


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("sft", ["supervised"]),
        ("regression", ["`regression`: GRPO"]),
        ("rarl", ["`regression`", "`rarl`: GRPO"]),
    ],
)
def test_what_was_done_to_get_there(tmp_path: Path, shades: Collection, arm: str, said: list[str]) -> None:
    steps = re.findall(r"^\d+\. (.*)$", card(config_of(tmp_path / "run"), shades, arm), re.MULTILINE)
    assert len(steps) == len(said)
    assert all(step.startswith(begin) for step, begin in zip(steps, said, strict=True))


@pytest.mark.parametrize(("task", "warned"), [(AGE, True), (SHADES, False)])
def test_pictures_of_people_have_a_warning(
    tmp_path: Path, shades: Collection, task: Task, warned: bool
) -> None:
    assert (
        "Not for decisions about a person" in card(config_of(tmp_path / "run"), shades, task=task)
    ) is warned


def test_the_code_gets_the_reply_that_evaluation_gets(
    tmp_path: Path, shades: Collection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processor is loaded as this library does it: AutoProcessor would need torchvision for it."""
    pictures = [Image.new("RGB", (32, 32), (grey,) * 3) for grey in (200, 50)]
    for name, picture in zip("ab", pictures, strict=True):
        picture.save(tmp_path / f"{name}.png")
    run = config_of(tmp_path / "run", trainer={"max_completion_length": 40})
    [code] = re.findall(r"```python\n(.*?)```", card(run, shades), re.DOTALL)
    code = code.replace('"run-rarl"', repr(str(BASE_FOLDER))).replace('.jpg"', '.png"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", load_processor)
    exec(compile(code, "card", "exec"), {})
    [reply] = greedy_replies(
        load_model("tiny"),
        load_processor("tiny"),
        [messages(2, run.task.rule, run.task.value_range)],
        [pictures],
        max_new_tokens=40,
        batch_size=1,
    )
    assert capsys.readouterr().out == f"{reply}\n"


def test_each_trained_arm_gets_one(tmp_path: Path, shades: Collection) -> None:
    run = config_of(tmp_path / "run").model_copy(update={"data": shades.root})
    written = write_model_cards(run, METRICS)
    assert [path.relative_to(tmp_path) for path in written] == [
        Path(f"run/{arm}/README.md") for arm in ("sft", "regression", "rarl")
    ]
    assert all(path.read_text(encoding="utf-8").startswith("---\n") for path in written)


def test_an_arm_without_results_has_none(tmp_path: Path, shades: Collection) -> None:
    run = config_of(tmp_path / "run").model_copy(update={"data": shades.root})
    metrics = {**METRICS, "arms": {"base": numbers(1.0), "sft": numbers(1.0)}}
    assert [path.parent.name for path in write_model_cards(run, metrics)] == ["sft"]
    assert not (tmp_path / "run" / "rarl").exists()
