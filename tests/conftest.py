"""What several test files share: the digits collection, the embedded model, and prompts made of them. Nothing
here imports torch until a test needs it."""

import os

# Before anything imports torch, transformers or TRL.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The collection of digits, written once."""
    from rarl.data.digits import prepare_digits

    return prepare_digits(tmp_path_factory.mktemp("collections") / "digits")


@pytest.fixture(scope="session")
def tiny():
    """The folder of the embedded base that ships with the package."""
    from rarl.models.loading import check_model

    return check_model("tiny")


@pytest.fixture(scope="session")
def tiny_processor():
    from rarl.models.loading import load_processor

    return load_processor("tiny")


@pytest.fixture(scope="session")
def prompts_of(digits):
    """`prompts_of([3, 7], [0, 5])`: a dataset of prompts, each with one training image of each of these
    digits."""
    from rarl.data.groups import Group, to_dataset

    first = {row.value: row for row in reversed(digits.split("train"))}

    def make(*groups):
        return to_dataset([Group(tuple(first[value] for value in group)) for group in groups], digits.task)

    return make
