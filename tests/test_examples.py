"""The notebooks in examples/ run from beginning to end, in a kernel of their own, and show what they say."""

import json
import os
import subprocess
import sys

from helpers import ROOT

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def test_rank_your_photos(tmp_path):
    notebook = ROOT / "examples" / "rank_your_photos.ipynb"
    folders = dict.fromkeys(
        ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"), str(tmp_path / "jupyter")
    )
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(notebook)],
        cwd=tmp_path,
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    outputs = ["".join(map(json.dumps, cell["outputs"])) for cell in cells if cell["cell_type"] == "code"]
    assert "<th>handwritten digit</th>" in outputs[1]
    assert "image/png" in outputs[3]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 61
    saved = json.loads(notebook.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in saved), "the notebook is kept without outputs"
