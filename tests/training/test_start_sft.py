"""A stage that starts from the model of SFT: `start: sft`."""

import shutil

import pytest

from helpers.training import run_config, same, weights
from helpers.whole_runs import Watched, continued
from rarl.errors import ConfigError
from rarl.models.loading import load_model
from rarl.report.record import load_record
from rarl.training import arms

REGRESSION = {"name": "regression", "images": [1], "weights": {"ranking": 0}, "max_steps": 1}
FROM_SFT = {"name": "from_sft", "images": [1, 2], "max_steps": 2, "start": "sft"}
AFTER = {"name": "after", "images": [2], "max_steps": 1}


def config_of(data, output, stages, **changes):
    keys = {"prompts_per_step": 1, "max_completion_length": 16}
    evaluation = {"images": [2], "lists": 2, "position_lists": 0, "max_new_tokens": 8}
    sft = {"sft": {"max_steps": 3, "trainer": {"learning_rate": 1e-3}}}
    return run_config(data, output, stages, keys, evaluation=evaluation, **(sft | changes))


@pytest.fixture(scope="module")
def whole(few_digits, tmp_path_factory):
    """A run of all three, and what was watched of it."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    config = config_of(few_digits(train=16, test=4).root, output, [REGRESSION, FROM_SFT, AFTER])
    watched = Watched()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "_fit", watched.fit)
        continued(config)
    return config, watched


def test_it_starts_from_the_model_of_sft_which_is_its_reference_too(whole):
    config, watched = whole
    base, sft, first, second = (
        weights(load_model(model))
        for model in ("tiny", *(config.output / arm for arm in ("sft", "regression", "from_sft")))
    )
    assert not same(base, sft)
    assert same(watched.start["regression"], base)
    assert same(watched.start["from_sft"], sft)
    assert same(watched.reference["from_sft"], sft)
    assert not same(first, sft)
    assert same(watched.start["after"], second)


def test_its_steps_are_counted_since_the_base(whole):
    config, _ = whole
    assert [config.steps_before(stage) for stage in config.stages] == [0, 3, 5]
    record = load_record(config.output)
    assert {name: arm.since for name, arm in record.arms.items()} == {
        **{"base": 0, "sft": 0, "regression": 0, "from_sft": 3, "after": 5}
    }


def test_a_run_that_goes_on_starts_it_from_there(whole):
    config, _ = whole
    file = config.output / "from_sft/model.safetensors"
    before = file.read_bytes()
    shutil.rmtree(file.parent)
    continued(config)
    assert file.read_bytes() == before


def test_without_sft_in_the_run_it_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        config_of(None, tmp_path, [REGRESSION, FROM_SFT], sft=None)
    assert str(caught.value) == (
        "test: stages[1].start: 'sft' is the model of SFT, and this run has none: add a section `sft`"
    )


def test_no_other_arm_can_be_named(tmp_path):
    with pytest.raises(ConfigError, match=r"stages\[1\].start: .*'sft'"):
        config_of(None, tmp_path, [REGRESSION, FROM_SFT | {"start": "regression"}])
