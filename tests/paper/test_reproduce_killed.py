"""`rarl reproduce` killed at any moment and continued: it ends with the results of a run that was not."""

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

from rich.console import Console

from helpers.reproducing import CELLS, TRAINED, contents, first_seed_of
from rarl.yaml_files import read_yaml_mapping


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
                planned = rarl.paper.reproduce.plan_grid("table6", mapping, "test", out=Path(out), seeds=[0])
                rarl.paper.reproduce.run_grid(planned, Console(file=io.StringIO()))
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


if __name__ == "__main__":
    be_killed(*sys.argv[1:])
