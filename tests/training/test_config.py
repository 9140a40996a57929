"""A run's YAML: a mistake is told with its key path, what was given, what is allowed and the nearest key."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from helpers import ROOT
from rarl.errors import ConfigError
from rarl.method.tasks import AGE, DIGITS, Task
from rarl.training.config import RunConfig, check_trainer_fields, config_from, load_config, reply_length
from rarl.yaml_files import read_yaml_mapping

RUN = """\
task: digits
model: tiny                       # or a hub name, or a folder
output: runs/digits
seed: 0
stages:
  - {name: regression, images: [1],          weights: {regression: 1, ranking: 0, format: 1}, max_steps: 230}
  - {name: rarl,       images: [1, 2, 4, 8], weights: {regression: 1, ranking: 1, format: 1}, max_steps: 280,
     mutation: {k: 2, probability: 0.5, when: always, reference: ground_truth, reasoning: template}}
sft: {reasoning: template}
trainer: {learning_rate: 1.5e-4, num_generations: 8, beta: 0.01, temperature: 1.0}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(RUN)
    return file


def mistakes(path: Path, *overrides: str) -> list[str]:
    """The lines of the error, without the file's name."""
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return [line.removeprefix(f"{path}: ") for line in str(error.value).splitlines()]


def test_the_example_of_the_design(path):
    config = load_config(path)
    assert config.task == DIGITS
    assert config.output == Path("runs/digits")
    assert [stage.name for stage in config.stages] == ["regression", "rarl"]
    assert config.stages[0].weights.in_order == [1, 0, 1]
    assert config.stages[0].mutation is None
    assert config.stages[1].mutation.k == 2
    assert config.sft.name == "sft"


def test_the_paper_s_values_where_the_trainer_is_silent(path):
    path.write_text(RUN[: RUN.index("trainer:")])
    config = load_config(path)
    arguments = config.grpo_arguments(config.stages[1])
    expected = {
        "learning_rate": 1e-6,
        "num_generations": 8,
        "beta": 0.01,
        "temperature": 1.0,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "per_device_train_batch_size": 64,
    }
    assert {key: arguments[key] for key in expected} == expected


@pytest.mark.parametrize("written", ["1e-6", "1E-6", "1.0e-6", "'1e-6'", "0.000001", "+1e-6"])
def test_a_learning_rate_however_it_is_written(path, written):
    assert load_config(path, [f"trainer.learning_rate={written}"]).trainer.learning_rate == 1e-6


def test_the_resolved_file_gives_the_same_configuration(path, tmp_path):
    config = load_config(
        path, ["lora={r: 8}", "trainer.optim=sgd", "stages.1.trainer={beta: 0, save_steps: 7}"]
    )
    again = tmp_path / "config.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again) == config
    assert load_config(again).to_yaml() == config.to_yaml()
    # Plain YAML, for any other reader too.
    assert yaml.safe_load(config.to_yaml()) == config.to_dict()


def test_validation_is_off_unless_it_is_asked_for_and_has_values_of_its_own(path, tmp_path):
    assert load_config(path).validation is None
    assert load_config(path, ["validation=null"]).validation is None
    found = load_config(path, ["validation={}"]).validation
    assert (found.every, found.split, found.images, found.prompts, found.keep) == (
        50,
        "validation",
        [1, 2, 4, 8],
        100,
        "last",
    )
    config = load_config(path, ["validation={every: 5, images: [2], prompts: 3, split: dev, keep: best}"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert (again.validation.split, again.validation.keep) == ("dev", "best")


def test_a_task_of_one_s_own(path):
    fields = "{name: dose, rule: dose, low: -1, high: 1, step: 0.5, delta: 0.5, metric: srcc}"
    config = load_config(path, [f"task={fields}", "data=somewhere"])
    assert config.task == Task("dose", "dose", low=-1, high=1, step=0.5, delta=0.5, metric="srcc")
    assert config_from(config.to_dict(), "again") == config


MISTAKES = [
    ("task=digitz", "task: unknown task 'digitz': did you mean 'digits'? the tasks are age, count"),
    ("task={name: x}", "task: a task of your own: missing rule, low, high, step, delta"),
    ("task=3", "task: must be a task's name or a mapping"),
    ("task=age", "data: missing; task 'age' needs a collection's folder"),
    ("modle=x", "modle: unknown key; did you mean 'model'? the keys are task, model, data"),
    ("seed=-1", "seed: must be greater than or equal to 0, not -1"),
    ("seed=true", "seed: must be a valid integer, not true"),
    ("seed=1.5", "seed: must be a valid integer, not 1.5"),
    ("output=", "output: must be a folder's path, not null"),
    ("stages=[]", "stages: "),
    ("stages.0=3", "stages[0]: must be a mapping of keys to values, not 3"),
    ("stages.0.name=rarl", "stages[1].name: 'rarl' is the name of stages[0] already"),
    ("stages.0.name=RARL", "stages[1].name: 'rarl' is the name of stages[0] already"),
    ("stages.0.name=base", "stages[0].name: must be none of base, sft"),
    ("stages.0.name=a/b", "stages[0].name: must be a folder's name"),
    ("stages.0.name=..", "stages[0].name: must be a folder's name"),
    ("stages.0.images=[]", "stages[0].images: "),
    ("stages.0.images=[0]", "stages[0].images[0]: must be greater than or equal to 1, not 0"),
    ("stages.1.images=[1, 17]", "stages[1].images[1]: must be less than or equal to 16, not 17"),
    ("stages.1.images=[true]", "stages[1].images[0]: must be a valid integer, not true"),
    ("stages.1.images=4", "stages[1].images: must be a valid list, not 4"),
    ("stages.0.weights.ranking=1", "stages[0].weights.ranking: must be 0 where `images` is [1]"),
    ("stages.1.weights.format=-1", "stages[1].weights.format: must be greater than or equal to 0, not -1"),
    ("stages.1.weights.format=.nan", "stages[1].weights.format: must be a finite number, not nan"),
    ("stages.1.weights.format=.inf", "stages[1].weights.format: must be a finite number, not inf"),
    ("stages.1.weights={regression: 0, ranking: 0, format: 0}", "stages[1].weights: must not all be 0"),
    ("stages.1.max_steps=0", "stages[1].max_steps: must be greater than or equal to 1, not 0"),
    (
        "stages.1.mutation.probabilty=1",
        "stages[1].mutation.probabilty: unknown key; did you mean 'probability'?",
    ),
    (
        "stages.1.mutation.probability=1.1",
        "stages[1].mutation.probability: must be less than or equal to 1, not 1.1",
    ),
    (
        "stages.1.mutation.when=stagnent",
        "stages[1].mutation.when: must be 'always' or 'stagnant', not 'stagnent'",
    ),
    (
        "stages.1.mutation={reference: best, when: stagnant}",
        "stages[1].mutation.reference: 'best' with `when",
    ),
    ("stages.1.mutation.k=0", "stages[1].mutation.k: must be greater than or equal to 1, not 0"),
    ("stages.1.mutation.k=8", "stages[1].mutation.k: must be less than num_generations (8)"),
    ("stages.1.trainer.num_generations=2", "stages[1].mutation.k: must be less than num_generations (2)"),
    ("trainer.num_generations=1", "trainer.num_generations: must be greater than or equal to 2, not 1"),
    ("trainer.prompts_per_step=0", "trainer.prompts_per_step: must be greater than or equal to 1, not 0"),
    ("trainer.beta=true", "trainer.beta: must be a number, not true"),
    ("trainer.learning_rate=fast", "trainer.learning_rate: must be a valid number"),
    ("trainer.learning_rate=0", "trainer.learning_rate: must be greater than 0, not 0"),
    ("trainer.loss_type=gprpo", "trainer.loss_type: must be 'grpo', 'bnpo'"),
    ("trainer.save_steps=2.5", "trainer.save_steps: must be a whole number of steps"),
    ("trainer.save_strategy=epoch", "trainer.save_strategy: must be 'no' or 'steps', not 'epoch'"),
    ("trainer.output_dir=x", "trainer.output_dir: is not set here but by `output`"),
    ("trainer.reward_weights=[1]", "trainer.reward_weights: is not set here but by stages[].weights"),
    ("trainer.max_steps=1", "trainer.max_steps: is not set here but by stages[].max_steps"),
    ("trainer.mutation_k=1", "trainer.mutation_k: is not set here but by stages[].mutation"),
    ("stages.0.trainer.seed=1", "stages[0].trainer.seed: is not set here but by `seed`"),
    ("trainer.gradient_accumulation_steps=3", "stages[0].trainer: a step has 64 responses (8 prompts x 8)"),
    ("sft.max_steps=0", "sft.max_steps: must be greater than or equal to 1, not 0"),
    ("sft.reasoning=keep", "sft.reasoning: must be 'template' or 'empty', not 'keep'"),
    ("lora.r=0", "lora.r: must be greater than or equal to 1, not 0"),
    ("lora.dropout=1", "lora.dropout: must be less than 1, not 1"),
    ("evaluation.position_lists=-1", "evaluation.position_lists: must be greater than or equal to 0, not -1"),
    ("evaluation.by=gender", "evaluation.by: must be a valid list"),
    ("evaluation={images: [2], by: [gender]}", "evaluation.by: divides single images"),
    ("evaluation.list=3", "evaluation.list: unknown key; did you mean 'lists'? the keys are split, images"),
    ("validation.every=0", "validation.every: must be greater than or equal to 1, not 0"),
    ("validation.every=often", "validation.every: must be a valid integer, not 'often'"),
    ("validation.prompts=0", "validation.prompts: must be greater than or equal to 1, not 0"),
    ("validation.images=[]", "validation.images: "),
    ("validation.images=[1, 17]", "validation.images[1]: must be less than or equal to 16, not 17"),
    ("validation.images=2", "validation.images: must be a valid list, not 2"),
    ("validation.split=", "validation.split: must be a valid string, not null"),
    ("validation.split=''", "validation.split: "),
    ("validation.keep=first", "validation.keep: must be 'best' or 'last', not 'first'"),
    (
        "validation.image=[2]",
        "validation.image: unknown key; did you mean 'images'? the keys are every, split",
    ),
    ("validation=true", "validation: must be a mapping of keys to values, not true"),
    ("validaton={}", "validaton: unknown key; did you mean 'validation'?"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[override for override, _ in MISTAKES])
def test_one_mistake_is_one_line_that_names_the_key(path, override, message):
    lines = mistakes(path, override)
    assert len(lines) <= 2  # a run-wide mistake may show at both stages
    assert lines[0].startswith(message)


def test_a_configuration_of_an_earlier_version_has_a_gap_that_is_null(path):
    assert load_config(path, ["stages.1.gap=null"]) == load_config(path)
    assert mistakes(path, "stages.1.gap=2")[0].startswith("stages[1].gap: unknown key")


def test_all_mistakes_at_once(path):
    lines = mistakes(path, "seed=x", "stages.0.max_steps=0", "trainer.beta=-1", "sft.reasonin=x")
    keys = [line.split(":")[0] for line in lines]
    assert sorted(keys) == ["seed", "sft.reasonin", "stages[0].max_steps", "trainer.beta"]


def test_what_must_be_given(path):
    path.write_text("model: tiny\n")
    lines = mistakes(path)
    assert [line.split(":")[0] for line in lines] == ["task", "output", "stages"]
    assert all("missing" in line for line in lines)


# A generation cycle has steps_per_generation x num_iterations micro-steps; between two saves there are
# save_steps x gradient_accumulation_steps of them.
CYCLES = [
    ({"save_steps": 1}, True),
    ({"save_steps": 5, "steps_per_generation": 2}, False),
    ({"save_steps": 6, "steps_per_generation": 2}, True),
    ({"save_steps": 5, "steps_per_generation": 4, "gradient_accumulation_steps": 4}, True),
    ({"save_steps": 5, "steps_per_generation": 8, "gradient_accumulation_steps": 4}, False),
    ({"save_steps": 5, "num_iterations": 2}, False),
    ({"save_steps": 4, "num_iterations": 2, "steps_per_generation": 2}, True),
    ({"save_steps": 5, "steps_per_generation": 2, "save_strategy": "no"}, True),
    ({"save_steps": 0.5, "steps_per_generation": 2}, False),  # half of 230 is 115
    ({"save_steps": 0.2, "steps_per_generation": 2}, True),  # 46 and 56
]


@pytest.mark.parametrize(("keys", "fine"), CYCLES)
def test_a_save_within_a_generation_cycle_is_refused(path, keys, fine):
    overrides = [f"trainer.{key}={value}" for key, value in keys.items()]
    if fine:
        load_config(path, overrides)
    else:
        assert "would save within a generation cycle" in mistakes(path, *overrides)[0]


@pytest.mark.parametrize("word", ["auto", "on", "off"])
def test_prompts_are_shared_as_the_file_says(path, word):
    config = load_config(path, [f"trainer.shared_prefix={word}"])
    assert config.grpo_arguments(config.stages[0])["shared_prefix"] == word
    check_trainer_fields(config)
    assert "shared_prefix" not in load_config(path).grpo_arguments(config.stages[0])


def test_shared_prompts_need_whole_groups_in_a_micro_batch(path):
    """8 prompts of 8 responses."""
    on = "trainer.shared_prefix=on"
    load_config(path, [on, "trainer.gradient_accumulation_steps=8"])
    load_config(path, ["trainer.gradient_accumulation_steps=16"])  # auto
    [line, _] = mistakes(path, on, "trainer.gradient_accumulation_steps=16", "trainer.save_steps=16")
    assert line.startswith("stages[0].trainer: shared_prefix: on needs whole groups in a micro-batch: 4 resp")
    assert "num_generations (8)" in line
    with pytest.raises(ConfigError, match="whole groups"):
        load_config(path, [on, "trainer.gradient_accumulation_steps=8"]).grpo_arguments(
            load_config(path).stages[0], processes=2
        )


def test_a_stage_overrides_the_trainer_and_the_trainer_the_paper(path):
    config = load_config(path, ["stages.1.trainer={learning_rate: 1, prompts_per_step: 4}"])
    first, second = (config.grpo_arguments(stage) for stage in config.stages)
    assert (first["learning_rate"], first["per_device_train_batch_size"]) == (1.5e-4, 64)
    assert (second["learning_rate"], second["per_device_train_batch_size"]) == (1, 32)
    assert second["mutation_probability"] == 0.5
    assert "prompts_per_step" not in second


def test_the_batch_is_shared_by_accumulation_and_processes(path):
    config = load_config(path, ["trainer.gradient_accumulation_steps=4"])
    assert config.grpo_arguments(config.stages[0], processes=2)["per_device_train_batch_size"] == 8
    assert config.sft_arguments(processes=2)["per_device_train_batch_size"] == 1
    with pytest.raises(ConfigError, match="does not divide"):
        config.grpo_arguments(config.stages[0], processes=3)
    with pytest.raises(ConfigError, match="must be a multiple of"):
        config.sft_arguments(processes=3)


def test_sft_has_as_many_prompts_and_the_same_optimizer_unless_it_differs(path):
    config = load_config(path, ["trainer.weight_decay=0.5", "sft.trainer.learning_rate=1e-3"])
    arguments = config.sft_arguments()
    assert arguments["per_device_train_batch_size"] == 8
    assert (arguments["weight_decay"], arguments["learning_rate"]) == (0.5, 1e-3)
    assert {"beta", "loss_type", "temperature"}.isdisjoint(arguments)


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], 510),  # 230 + 280
        (["sft.trainer.prompts_per_step=16"], 255),
        (["stages.0.trainer.prompts_per_step=1"], 309),  # 230 + 280 * 8 prompts, 8 a step
        (["sft.max_steps=7"], 7),
        (["trainer.num_iterations=2"], 255),  # half of the steps have prompts of their own
        (["stages.1.trainer.num_iterations=4", "stages.1.trainer.save_steps=4"], 300),
    ],
)
def test_sft_sees_every_group_of_the_stages_once_and_in_order(path, overrides, steps):
    arguments = load_config(path, overrides).sft_arguments()
    assert (arguments["max_steps"], arguments["train_sampling_strategy"]) == (steps, "sequential")


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 2e-5),
        (["trainer.learning_rate=1e-6"], 2e-5),
        (["lora={r: 8}"], 1e-4),
        (["lora={r: 8}", "sft.trainer.learning_rate=3e-6"], 3e-6),
        (["sft.trainer.learning_rate=3e-6"], 3e-6),
    ],
)
def test_sft_has_a_learning_rate_of_its_own(path, overrides, rate):
    assert load_config(path, overrides).sft_arguments()["learning_rate"] == rate


SHIPPED = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "src/rarl/demo.yaml"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_no_shipped_configuration_trains_sft_at_the_rate_of_grpo(file):
    config = load_config(file)
    rates = [config.trainer_for(stage)["learning_rate"] for stage in config.stages]
    assert config.sft_arguments()["learning_rate"] not in rates
    assert "learning_rate" in config.sft.trainer.given()  # and states its own


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ([], 512),
        (["trainer.max_completion_length=40"], 40),
        (["stages.0.trainer={max_completion_length: 700}"], 700),
        (["stages.1.trainer={max_completion_length: 60}"], 512),
        (["evaluation.max_new_tokens=20"], 20),
    ],
)
def test_the_replies_of_all_arms_are_cut_at_the_longest_response_of_a_stage(path, overrides, length):
    assert reply_length(load_config(path, overrides)) == length


FILES = [
    ("a: [1\n", r"run.yaml line 2, column 1"),
    ("task: digits\ntask: age\n", r"run.yaml line 2, column 1: key 'task' is given twice"),
    ("stages: [{name: a, name: b}]", r"key 'name' is given twice"),
    ("? [1]\n: 2\n", "a key must be a plain name"),
    ("- a\n", r"must be a mapping such as `task: digits`, but is a list"),
    ("", r"must be a mapping such as `task: digits`, but is empty"),
    ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ("a: \x07", "run.yaml: "),
    ("a: *b", "undefined alias"),
    ("[" * 5000, "run.yaml"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_file_that_is_no_configuration(path, text, message):
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_files_that_can_t_be_read(path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(path.with_name("none.yaml"))
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(path.parent)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(path)


def test_words_that_older_yaml_takes_for_bools(path):
    config = load_config(path, ["trainer.save_strategy=no", "stages.0.name=on"])
    assert (config.trainer.save_strategy, config.stages[0].name) == ("no", "on")


@pytest.mark.parametrize("key", ["stages.0.max_steps", "stages[0].max_steps"])
def test_an_override_reaches_into_a_list(path, key):
    assert load_config(path, [f"{key}=10"]).stages[0].max_steps == 10


def test_an_override_makes_a_section_that_is_not_there(path):
    assert load_config(path, ["lora.r=4"]).lora.r == 4
    assert load_config(path, ["sft=null"]).sft is None
    assert load_config(path, ["stages.1.images=[2, 4]"]).stages[1].images == [2, 4]
    assert load_config(path, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "must look like key=value"),
        ("=1", "must look like key=value"),
        ("a..b=1", "must look like key=value"),
        ("stages.2.max_steps=1", "stages is a list of 2; '2' must be 0 to 1"),
        ("stages.first.max_steps=1", "'first' must be 0 to 1"),
        ("seed.x=1", "seed is 0, which has no key 'x'"),
        ("seed=[1", "--set seed=\\[1 line 1"),
    ],
)
def test_an_override_that_can_t_be_made(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_the_classes_check_as_the_file_does():
    with pytest.raises(ValidationError, match="needs a collection's folder"):
        RunConfig.model_validate(
            {"task": AGE, "output": "x", "stages": [{"name": "a", "images": [2], "max_steps": 1}]}
        )


TRAINER = [
    ("trainer.learnin_rate=1", "trainer.learnin_rate: unknown key; did you mean 'learning_rate'?"),
    ("trainer.mask_truncated_completions=maybe", "trainer.mask_truncated_completions: must be true or false"),
    ("trainer.qqqqqq=1", "trainer.qqqqqq: unknown key; the keys are the fields of TRL's configuration"),
    ("trainer.weight_decay=heavy", "trainer.weight_decay: must be a number, not 'heavy'"),
    ("trainer.weight_decay='0.1'", "trainer.weight_decay: must be a number, not '0.1'"),
    ("trainer.weight_decay=true", "trainer.weight_decay: must be a number, not true"),
    ("trainer.disable_dropout=1", "trainer.disable_dropout: must be true or false, not 1"),
    ("trainer.disable_dropout=yes", "trainer.disable_dropout: must be true or false, not 'yes'"),
    ("trainer.top_k=1.5", "trainer.top_k: must be a whole number, not 1.5"),
    ("trainer.lr_scheduler_type=cosin", "trainer.lr_scheduler_type: must be one of linear, cosine"),
    ("stages.1.trainer.warmup=3", "stages[1].trainer.warmup: unknown key; did you mean"),
    ("sft.trainer.beta=0.1", "sft.trainer.beta: unknown key"),
    (
        "trainer.vllm_importance_sampling_clip_min=9",
        "stages[0] with trainer: vllm_importance_sampling_clip_min",
    ),
]


@pytest.mark.parametrize(("override", "message"), TRAINER, ids=[override for override, _ in TRAINER])
def test_trainer_keys_against_trl(path, override, message):
    config = load_config(path, [override])
    with pytest.raises(ConfigError) as error:
        check_trainer_fields(config)
    assert str(error.value).startswith(message)


def test_trainer_keys_that_trl_takes(path):
    keys = [
        "lr_scheduler_type=cosine",
        "weight_decay=1e-1",
        "warmup_steps=0.1",
        "top_k=5",
        "bf16=false",
        "min_p=null",
    ]
    check_trainer_fields(load_config(path, [f"trainer.{key}" for key in keys]))


SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", [*SHIPPED, ROOT / "src/rarl/demo.yaml"], ids=lambda file: file.stem)
def test_the_configurations_that_ship_are_right(file):
    check_trainer_fields(load_config(file))


TASKS_OF = {"utkface": "age", "coco_rem": "count", "ava": "aesthetics"}


def test_the_papers_presets_differ_only_where_they_must():
    """Task and data by the collection, the model by its size, and with adapters their rates, one group at a
    time, and validation, which FSDP has not."""
    plain = read_yaml_mapping(ROOT / "configs" / "utkface_3b.yaml")
    with_adapters = read_yaml_mapping(ROOT / "configs" / "utkface_3b_lora.yaml")
    assert with_adapters == {
        **plain,
        "output": "runs/utkface_3b_lora",
        "sft": {**plain["sft"], "trainer": {**plain["sft"]["trainer"], "learning_rate": 1e-4}},
        "lora": {"r": 64, "alpha": 128},
        "dtype": "bfloat16",
        "trainer": {**plain["trainer"], "learning_rate": 1e-5, "gradient_accumulation_steps": 8},
        "validation": {"every": 100, "prompts": 50, "keep": "last"},
    }
    for data, task in TASKS_OF.items():
        for size in ("3b", "7b"):
            for base, how in ((plain, ""), (with_adapters, "_lora")):
                name = f"{data}_{size}{how}"
                assert read_yaml_mapping(ROOT / "configs" / f"{name}.yaml") == {
                    **base,
                    "task": task,
                    "model": f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct",
                    "data": f"data/{data}",
                    "output": f"runs/{name}",
                }


def test_the_presets_have_the_papers_numbers():
    """Section 4.1."""
    config = load_config(ROOT / "configs" / "utkface_3b.yaml")
    first, second = config.stages
    keys = config.trainer_for(second)
    assert (keys["learning_rate"], keys["temperature"], keys["beta"]) == (1e-6, 1.0, 0.01)
    assert keys["prompts_per_step"] * keys["num_generations"] == 64
    assert (first.weights.in_order, second.weights.in_order) == ([1, 0, 1], [1, 1, 1])
    assert (first.mutation, second.mutation.k) == (None, 2)


def test_a_task_is_read_from_its_file(path, tmp_path):
    file = tmp_path / "task.yaml"
    file.write_text("{name: ripeness, rule: ripeness, low: 1, high: 3, step: 1, delta: 1}")
    config = load_config(path, [f"task={file}", "data=somewhere"])
    assert config.task.rule == "ripeness"
    with pytest.raises(ConfigError, match=r"none.yaml"):
        load_config(path, [f"task={tmp_path / 'none.yaml'}", "data=x"])
