"""What decides the method where nobody says it: the list of `rarl.training.defaults` is what `RARLConfig`, a
run and RMO really have, and what the documents and the shipped configurations say of it."""

import re
from collections import Counter

import pytest
import torch
import yaml

from helpers import ROOT
from helpers.grpo import ours
from helpers.training import cpu_arguments, run_config
from rarl.errors import ConfigError
from rarl.method.mutation import Mutation
from rarl.models.loading import load_model, load_processor
from rarl.training.config import load_config
from rarl.training.defaults import DEFAULTS, MUTATION_DEFAULTS
from rarl.training.keeping.checkpoints import check_output
from rarl.training.trainer import RARLConfig, RARLTrainer

ROWS = (*DEFAULTS, *MUTATION_DEFAULTS)
CONFIGS = [ROOT / "src/rarl/demo.yaml", ROOT / "configs/sign_digits.yaml"]
"""Those of the embedded model. The others say it line by line (test_config.py)."""
STAGE = {"name": "only", "images": [2], "max_steps": 2}


# ── what is really so ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("row", DEFAULTS, ids=lambda row: row.key)
def test_the_trainer_s_arguments_have_the_values_of_the_list(tmp_path, row):
    args = RARLConfig(**cpu_arguments(tmp_path))
    found = 64 // args.num_generations if row.key == "prompts_per_step" else getattr(args, row.key)
    assert found == row.value


@pytest.mark.parametrize("row", DEFAULTS, ids=lambda row: row.key)
def test_a_run_has_the_values_of_the_list(digits, tmp_path, row):
    config = run_config(digits.root, tmp_path, [STAGE])
    config = type(config).model_validate(config.to_dict() | {"trainer": {}})
    assert config.trainer_for(config.stages[0])[row.key] == row.value
    if row.key != "prompts_per_step":
        assert config.grpo_arguments(config.stages[0])[row.key] == row.value


def test_rmo_has_the_values_of_the_list(tmp_path):
    args = RARLConfig(**cpu_arguments(tmp_path))
    for row in MUTATION_DEFAULTS:
        name = row.key.removeprefix("mutation.")
        assert getattr(Mutation(), name) == row.value
        assert getattr(args.mutation, name) == (0.0 if name == "probability" else row.value)


def test_the_optimizer_is_adamw_without_decay(prompts_of, tmp_path):
    trainer = RARLTrainer(
        load_model("tiny", training=True),
        args=RARLConfig(**cpu_arguments(tmp_path)),
        train_dataset=prompts_of([3, 7]),
        processing_class=load_processor("tiny"),
    )
    optimizer = trainer.create_optimizer()
    optimizer = getattr(optimizer, "optimizer", optimizer)
    assert type(optimizer) is torch.optim.AdamW
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {(1e-6, 0.0)}


@pytest.mark.parametrize(
    ("processes", "parts", "micro_batch"), [(1, 1, 64), (1, 8, 8), (2, 1, 32), (2, 4, 8)]
)
def test_a_step_has_the_papers_batch(tmp_path, monkeypatch, processes, parts, micro_batch):
    monkeypatch.setattr("rarl.training.trainer.process_count", lambda: processes)
    args = RARLConfig(**cpu_arguments(tmp_path, gradient_accumulation_steps=parts))
    assert args.per_device_train_batch_size == micro_batch
    given = RARLConfig(**cpu_arguments(tmp_path, per_device_train_batch_size=8))
    assert given.per_device_train_batch_size == 8


def test_a_batch_that_can_t_be_divided_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        RARLConfig(**cpu_arguments(tmp_path, gradient_accumulation_steps=3))
    assert str(caught.value) == (
        "a batch of 64 responses can't be divided by gradient_accumulation_steps x processes (3): give "
        "per_device_train_batch_size"
    )


def test_the_trainer_steps_on_eight_prompts(prompts_of, tmp_path):
    dataset = prompts_of(*([digit] for digit in range(10)))
    trainer = RARLTrainer(
        load_model("tiny", training=True),
        args=RARLConfig(**cpu_arguments(tmp_path, max_steps=1, max_completion_length=4)),
        train_dataset=dataset,
        processing_class=load_processor("tiny"),
    )
    seen = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda rows: seen.append(rows) or score(rows)
    trainer.train()
    [rows] = seen
    assert sorted(Counter(tuple(row["values"]) for row in rows).values()) == [8] * 8


def test_the_rate_is_the_same_at_every_step(prompts_of, tmp_path):
    trainer = ours(prompts_of([3, 7], [1, 9]), tmp_path, lr_scheduler_type="linear", max_steps=3)
    trainer.train()
    assert [log["learning_rate"] for log in trainer.state.log_history[:3]] == pytest.approx(
        [1e-3, 2e-3 / 3, 1e-3 / 3]
    )
    args = RARLConfig(
        **cpu_arguments(
            tmp_path, max_steps=3, per_device_train_batch_size=8, max_completion_length=8, learning_rate=1e-3
        )
    )
    trainer = RARLTrainer(
        load_model("tiny", training=True),
        args=args,
        train_dataset=prompts_of([3, 7], [1, 9]),
        processing_class=load_processor("tiny"),
    )
    trainer.train()
    assert [log["learning_rate"] for log in trainer.state.log_history[:3]] == [1e-3] * 3


def test_a_warm_up_that_would_be_left_out_is_refused(digits, tmp_path):
    said = "lr_scheduler_type: constant leaves a warm-up out: make it constant_with_warmup, or linear"
    with pytest.raises(ConfigError) as caught:
        RARLConfig(**cpu_arguments(tmp_path, warmup_steps=5))
    assert str(caught.value) == said
    with pytest.raises(ConfigError) as caught:
        run_config(digits.root, tmp_path, [STAGE], {"warmup_steps": 5})
    assert str(caught.value) == f"test: stages[0].trainer: {said}"
    config = run_config(digits.root, tmp_path, [STAGE], sft={"trainer": {"warmup_steps": 0.1}})
    with pytest.raises(ConfigError) as caught:
        config.sft_arguments()
    assert str(caught.value) == f"sft.trainer: {said}"
    keys = {"warmup_steps": 5, "lr_scheduler_type": "constant_with_warmup"}
    config = run_config(digits.root, tmp_path, [STAGE], keys, sft={})
    RARLConfig(**cpu_arguments(tmp_path, **keys))
    assert config.sft_arguments()["lr_scheduler_type"] == "constant_with_warmup"


def test_sft_has_the_schedule_of_grpo_unless_it_gives_another(digits, tmp_path):
    config = run_config(digits.root, tmp_path, [STAGE], sft={})
    assert config.sft_arguments()["lr_scheduler_type"] == "constant"
    config = run_config(digits.root, tmp_path, [STAGE], sft={"trainer": {"lr_scheduler_type": "linear"}})
    assert config.sft_arguments()["lr_scheduler_type"] == "linear"


def test_a_run_of_an_earlier_version_goes_on_as_it_began(digits, tmp_path):
    """Its config.yaml names fewer keys. Its rate fell to 0; all else was as it is now."""
    now = run_config(digits.root, tmp_path, [STAGE])
    earlier = now.to_dict()
    for row in DEFAULTS:
        if row.key in ("lr_scheduler_type", "warmup_steps", "weight_decay", "use_bias_correction_kl"):
            del earlier["trainer"][row.key]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(earlier))
    with pytest.raises(ConfigError) as caught:
        check_output(tmp_path, now.to_dict(), resume=True)
    assert str(caught.value).splitlines()[1:] == [
        "  trainer.lr_scheduler_type: 'linear' before, 'constant' now"
    ]
    linear = run_config(digits.root, tmp_path, [STAGE], {"lr_scheduler_type": "linear"})
    check_output(tmp_path, linear.to_dict(), resume=True)


# ── what is said of it ───────────────────────────────────────────────────────────────────────────────────


def test_the_documents_have_the_list():
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    table = text.split("## Which values are the paper's")[1].split("##")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    shown = [str(row.value).lower() if isinstance(row.value, bool) else row.value for row in ROWS]
    assert lines == [
        f"| `{row.key}` | {value} | {row.of} | {row.why} |" for row, value in zip(ROWS, shown, strict=True)
    ]


def test_the_readme_names_what_is_the_papers():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    [said] = re.findall(r"Of the settings the paper names (.*?); all others are ours", text)
    numbers = {float(number) for number in re.findall(r"\d[\d.e-]*", said)}
    of_paper = {row.value for row in ROWS if row.of == "paper" and type(row.value) in (int, float)}
    assert numbers == of_paper | {64}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_head_of_a_configuration_says_which_values_are_the_papers(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    text = " ".join(line.lstrip("# ") for line in head)
    papers, our = re.findall(r"The paper's values: (.*?)\. Ours: (.*?)(?:\. |; )", text)[0]
    config = load_config(path)
    first, second = config.stages
    weights = [stage.weights.in_order for stage in config.stages]
    are = {"weights": weights == [[1, 0, 1], [1, 1, 1]] and first.mutation is None}
    for row in DEFAULTS:
        found = [config.trainer_for(stage)[row.key] for stage in config.stages]
        are[row.key] = row.of == "paper" and found == [row.value, row.value]
    for row in MUTATION_DEFAULTS:
        found = getattr(second.mutation, row.key.removeprefix("mutation."))
        are[row.key] = row.of == "paper" and found == row.value
    assert set(papers.split(", ")) == {key for key, is_so in are.items() if is_so}
    assert set(our.split(", ")) == {key for key, is_so in are.items() if not is_so}
