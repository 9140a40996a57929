"""What comes from strangers, and what goes out to them: model folders, YAML, connections, pickles."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bombs import BOMBS, GOOD
from disks import command
from forked import forked
from runs import SMALL, Run
from strangers import FOLDERS, MARK, stranger

Found = Iterator[tuple[str, str | None]]


def folders(root: Path, data: Path) -> Found:
    """Ranks with each of the folders in `strangers.py`: no code of theirs is run, and what is wrong is one
    sentence within 10 s of computing. Code and kernels that a model doesn't need are passed over."""
    images = [str(path) for path in sorted((data / "test").glob("*.png"))[:3]]
    for name in FOLDERS:
        folder = root / "stranger"
        shutil.rmtree(folder, ignore_errors=True)
        made = forked(partial(stranger, name, folder), seconds=60)
        assert made.code == 0, made.said
        ended = command("rank", str(folder), *images, "--task", "digits", seconds=60)
        fine = ended.in_one_sentence or (name.startswith(("code: ", "kernels: ")) and ended.code == 0)
        if (folder / MARK).exists():
            wrong: str | None = "its code was run"
        elif ended.code is None or ended.cpu_seconds > 10:
            wrong = f"{ended.seconds:.0f} s, {ended.cpu_seconds:.0f} s of computing"
        else:
            wrong = None if fine else f"exit {ended.code}: {ended.said[-300:]}"
        yield name, wrong


def yaml(root: Path, data: Path) -> Found:
    """Reads each text of `bombs.py` as a collection's task and as a run's configuration: each is read, or one
    sentence, with less than a second of computing."""
    image = next((data / "test").glob("*.png"))
    for number, (name, text) in enumerate(BOMBS.items()):
        folder = root / f"bomb-{number}"
        (folder / "train").mkdir(parents=True)
        shutil.copy(image, folder / "train" / "a.png")
        (folder / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "value": 1}\n')
        for what, words in (
            ("task", ["evaluate", "tiny", str(folder), "--split", "none"]),
            ("configuration", ["train", str(folder / "run.yaml")]),
        ):
            (folder / "task.yaml").write_text(text if what == "task" else GOOD)
            (folder / "run.yaml").write_text(text)
            ended = command(*words, seconds=20)
            wrong = None if ended.in_one_sentence else f"exit {ended.code}: {ended.said[-300:]}"
            if ended.cpu_seconds > 1:
                wrong = f"{ended.cpu_seconds:.1f} s"
            yield f"{what}: {name}", wrong


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────


def _recorded(file: Path) -> Callable[[], None]:
    """Writes each name that is looked up and each address that is called into a file, and refuses both."""

    def arrange() -> None:
        import huggingface_hub.constants as constants

        for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI"):
            os.environ.pop(name, None)
        constants.HF_HUB_OFFLINE = constants.HF_HUB_DISABLE_TELEMETRY = False

        def refuse(*given: object, **named: object) -> None:
            with open(file, "a") as lines:
                lines.write(f"{given[:3]}\n")
            raise OSError("no connections here")

        socket.getaddrinfo = refuse
        socket.socket.connect = lambda self, address: refuse(address)

    return arrange


def _trainer(data: Path, out: Path) -> None:
    """A step of `RARLTrainer` as a program of one's own makes it."""
    from rarl import RARLConfig, RARLTrainer
    from rarl.data.collection import load_collection
    from rarl.data.dataset import to_dataset
    from rarl.data.groups import draw_groups
    from rarl.models.loading import load_model, load_processor

    collection = load_collection(data)
    arguments = RARLConfig(
        output_dir=str(out),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=16,
        report_to="none",
        use_cpu=True,
    )
    trainer = RARLTrainer(
        load_model("tiny", training=True),
        args=arguments,
        train_dataset=to_dataset(draw_groups(collection.split("train"), 2, 2, 0), collection.task),
        processing_class=load_processor("tiny"),
    )
    trainer.train()


def connections(root: Path, data: Path) -> Found:
    """Counts the connections of commands and of `RARLTrainer` where all that is named is a folder."""
    run = Run(root / "run", SMALL, data)
    run.write()
    (root / "runs").mkdir()
    image = str(next((data / "test").glob("*.png")))
    cases: dict[str, Callable[[], object]] = {
        "train": lambda: run.train(before=_recorded(asked)),
        "rank": lambda: command("rank", str(run.output / "rarl"), image, before=_recorded(asked)),
        "evaluate": lambda: command(
            *("evaluate", str(run.output / "rarl"), str(data), "--out", str(root / "out"), "--images", "2"),
            *("--lists", "2", "--position-lists", "0"),
            before=_recorded(asked),
        ),
        "report": lambda: command("report", str(run.output), before=_recorded(asked)),
        "RARLTrainer": lambda: forked(
            lambda: [_recorded(asked)(), _trainer(data, root / "trainer")][0], seconds=300
        ),
        "a mistyped folder": lambda: command(
            *("rank", "runs/rral", image, "--task", "digits"),
            before=lambda: [_recorded(asked)(), os.chdir(root)][0],
        ),
    }
    for name, work in cases.items():
        asked = root / "asked"
        asked.unlink(missing_ok=True)
        ended = work()
        wanted = 1 if name == "a mistyped folder" else 0
        code = getattr(ended, "code", None)
        wrong = None if code == wanted else f"exit {code}: {getattr(ended, 'said', '')[-300:]}"
        yield name, asked.read_text() if asked.exists() else wrong


def pickles(root: Path, data: Path) -> Found:
    """Looks for pickles in the model folders of a run, and for files that its group can't read."""
    run = Run(root / "run", SMALL, data)
    run.train()
    for path in sorted((run.output / "rarl").iterdir()):
        start = path.read_bytes()[:4]
        pickled = start[:1] == b"\x80" or start == b"PK\x03\x04"
        other = (run.output / "config.yaml").stat().st_mode
        wrong = "a pickle" if pickled else None if path.stat().st_mode == other else "not as readable"
        yield path.name, wrong
