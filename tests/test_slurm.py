"""configs/slurm.sh, run with commands that stand in for Slurm's and torchrun: what it starts, and that it
begins nothing without a YAML."""

import os
import subprocess
from pathlib import Path

from helpers import ROOT

SCRIPT = ROOT / "configs" / "slurm.sh"


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name, does in (
        ("scontrol", "printf 'gpu07\\n'; sleep 0.2; printf 'gpu12\\n'"),  # after head had what it wants
        ("srun", 'shift; exec "$@"'),
        ("torchrun", 'printf "%s\\n" "$@"; echo "offline $HF_HUB_OFFLINE"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    known = {"SLURM_JOB_NODELIST": "gpu[07,12]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "4", **known}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_each_machine_starts(tmp_path: Path) -> None:
    done = run(tmp_path, "runs/age.yaml", "--set", "seed=1")
    assert (done.returncode, done.stderr) == (0, "")
    *words, offline = done.stdout.splitlines()
    options = dict(zip(words[0:10:2], words[1:10:2], strict=True))
    assert options == {
        "--nnodes": "2",
        "--nproc_per_node": "4",
        "--rdzv_id": "77",
        "--rdzv_backend": "c10d",
        "--rdzv_endpoint": "gpu07:29500",
    }
    assert words[10:] == ["-m", "rarl", "train", "runs/age.yaml", "--resume", "--set", "seed=1"]
    assert offline == "offline 1"


def test_without_a_yaml_nothing_starts(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "the YAML of the run" in done.stderr
