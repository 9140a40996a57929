"""Prompts of pictures and of text for the tests of the shared prompt pass; no test may change them."""

import pytest
from datasets import Dataset

from helpers.sharing import GROUPS, pictures


@pytest.fixture(scope="module", autouse=True)
def _no_garbage(imported_is_no_garbage):
    """Nearly every module here trains."""


@pytest.fixture(scope="session")
def dataset(digits, tmp_path_factory):
    return pictures(digits, tmp_path_factory.mktemp("pictures"), GROUPS)


@pytest.fixture(scope="session")
def texts():
    """Prompts without images, one longer than the other."""
    rule = [{"role": "user", "content": "handwritten digit"}]
    more = [{"role": "user", "content": "Analyze each image to determine the handwritten digit"}]
    return Dataset.from_dict({"prompt": [rule, more] * 3, "values": [[3.0]] * 6, "step": [1.0] * 6})
