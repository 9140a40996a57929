"""What test files of several folders share: the digits, the embedded model, prompts made of them, and
processes beside the test's own. Nothing here imports torch until a test needs it."""

import functools
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

# Before anything imports torch, transformers or TRL.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# For processes that a test starts: they find `helpers`, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
)

import pytest


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The collection of digits, written once."""
    from rarl.data.sources.digits import prepare_digits

    return prepare_digits(tmp_path_factory.mktemp("collections") / "digits")


@pytest.fixture(scope="session")
def few_digits(digits, tmp_path_factory):
    """`few_digits(train=24, test=4)`: a collection of the first so many digits of each of these splits.
    Several tests share it, so none may change it."""
    from rarl.data.writing import write_collection

    @functools.cache
    def make(**sizes):
        splits = {
            split: [(row.id, row.value, row.path.read_bytes()) for row in digits.split(split)[:size]]
            for split, size in sizes.items()
        }
        return write_collection(tmp_path_factory.mktemp("collections") / "few", digits.task, splits)

    return make


@pytest.fixture(scope="module")
def imported_is_no_garbage():
    """For modules that train often: accelerate 1.15 collects garbage in every training, which takes longer
    than a training of a few steps if it must look at all that was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
    from rarl.data.dataset import to_dataset
    from rarl.data.groups import Group

    first = {row.value: row for row in reversed(digits.split("train"))}

    def make(*groups):
        return to_dataset([Group(tuple(first[value] for value in group)) for group in groups], digits.task)

    return make


@pytest.fixture
def in_two_processes(tmp_path):
    """`in_two_processes(FILE, ARGUMENT, ..., alone=CALL)`: runs `python FILE ARGUMENT ...` in two processes
    that train together on the CPU, calls CALL meanwhile and returns what it returns. Both must end well."""

    def run(file, *arguments, alone):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        logs = [tmp_path / f"rank{rank}.txt" for rank in (0, 1)]
        processes = []
        for rank, log in enumerate(logs):
            environment = os.environ | {
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
            }
            command = [sys.executable, file, *map(str, arguments)]
            with open(log, "w") as output:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        try:
            result = alone()
            codes = [process.wait(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
        return result

    return run


@pytest.fixture
def other_command():
    """`other_command(folder, "training")`: a process that is at that work there, until the test ends."""
    started = []

    def start(folder, what):
        hold = "import sys, time; from pathlib import Path; from rarl.files import locked\n"
        hold += "with locked(Path(sys.argv[1]), sys.argv[2]): print(flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", hold, str(folder), what], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
