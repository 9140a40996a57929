"""Puts what a grid has measured into the pages of docs/results:

    python docs/make_results.py runs/reproduce/digits
    python docs/make_results.py runs/reproduce/format-only format_only

The second word is what the pages are called after, TABLE_WORD.md; by default the task. A page keeps its
words.
What is replaced stands between `<!-- made by docs/make_results.py: NAME -->` and `<!-- end -->`. NAME is
`TABLE`, a table's report without its title, or `seeds ARM,ARM`, a table of these arms for each seed. All
numbers are read from the grid's files; nothing is measured here."""

import re
import sys
from pathlib import Path
from typing import Any

from rarl.errors import DataError
from rarl.evaluation.results import load_metrics
from rarl.report.tables import markdown_table
from rarl.training.config import load_config

PAGES = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- made by docs/make_results\.py: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(grid: Path, word: str | None = None) -> None:
    word = word or load_config(next(grid.glob("seed-*/*/config.yaml"))).task.name
    tables = [folder.parent.name for folder in grid.glob("*/report.md")]
    for page in [PAGES / f"{name}.md" for name in (word, *(f"{each}_{word}" for each in tables))]:
        if not page.is_file():
            continue
        text = page.read_text(encoding="utf-8")
        try:
            made = _BLOCK.sub(lambda found: f"{found[1]}{_made(grid, found[2])}{found[3]}", text)
        except (OSError, DataError) as error:
            print(f"{page} stays as it was: {error}")
            continue
        page.write_text(made, encoding="utf-8")
        print(page)


def _made(grid: Path, name: str) -> str:
    if name.startswith("seeds "):
        return _of_seeds(grid, name.removeprefix("seeds ").split(","))
    report = (grid / name / "report.md").read_text(encoding="utf-8")
    return "\n" + report.partition("\n")[2].strip() + "\n\n"


def _of_seeds(grid: Path, arms: list[str]) -> str:
    text = "\n"
    for folder in sorted(grid.glob("seed-*")):
        found: dict[str, Any] = {}
        for arm in arms:
            metrics = load_metrics(folder / arm / "metrics.json")
            found = {**metrics, "arms": {**found.get("arms", {}), arm: metrics["arms"][arm]}}
        task = load_config(folder / arms[0] / "config.yaml").task
        table = markdown_table(found, task, model_name="embedded base")
        text += f"### Seed {found['seed']}\n\n{table}\n"
    return text


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
