"""The report of a check: what was found fits the 80 columns of a terminal, with the faults last, and the
picture."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rarl.data.check import Check, SplitCheck
from rarl.data.check.duplicates import Repeated
from rarl.data.check.report import print_check, save_histograms
from rarl.data.check.statistics import Baseline, PromptCost, Sizes, Ties, Tokens, Values
from rarl.data.images import open_image
from rarl.errors import DataError
from rarl.method.tasks import AGE


def split(*histogram: int) -> SplitCheck:
    number = sum(histogram)
    ties = {2: Ties(0.0, 0.125), 8: Ties(None, None)}
    return SplitCheck(number, number, {}, Values(10, 30, 21.5, 3, list(histogram)), ties, None)


def check(**changes: object) -> Check:
    none = Repeated([], [], [])
    plain = Check(
        root="/data/faces",
        task=AGE.to_dict(),
        splits={"train": split(1000, 500, 1), "test": split(0, 2, 4)},
        bins=[(10, 10), (20, 20), (30, 30)],
        baselines={"test": Baseline(8.6912, 21.5, 6)},
        sizes=Sizes((10, 20), (30, 40), (500, 600)),
        tokens=Tokens(1, 12, 1234, {2: PromptCost(100, 2500)}),
        problems=[],
        broken={},
        identical=none,
        alike=none,
        faults=[],
        notes=[],
    )
    return replace(plain, **changes)


def printed(what: Check) -> list[str]:
    out = io.StringIO()
    print_check(what, Console(file=out, width=80))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_everything_is_printed_in_80_columns() -> None:
    lines = printed(check())
    assert max(map(len, lines)) <= 80
    assert lines[:2] == ["age: facial age, 0-116 in steps of 1", "/data/faces"]
    words = [line.split() for line in lines]
    assert ["train", "1,501", "1,501", "10", "21.5", "30", "3"] in words
    assert ["test", "6", "6", "10", "21.5", "30", "3"] in words
    assert ["train", "0.0", "%", "/", "12.5", "%", "-", "/", "-"] in words
    assert ["test", "6", "21.5", "8.69"] in words
    assert "pixels: smallest 10 x 20, median 30 x 40, largest 500 x 600" in lines
    assert "tokens: smallest 1, median 12, largest 1,234" in lines
    assert "tokens of a prompt of 2 images: 100, of the 2 largest 2,500" in lines
    assert lines[-1] == "No faults"


def test_bars_are_as_long_as_their_share_of_the_longest() -> None:
    words = [line.split() for line in printed(check())]
    assert ["10", "1,000", "█" * 12, "0"] in words
    assert ["20", "500", "█" * 6, "2", "█" * 6] in words
    assert ["30", "1", "▏", "4", "█" * 12] in words  # one of 1,501 can be seen


def test_bars_in_eighths_of_a_character() -> None:
    # 12 x 8 eighths for 96: 5 and 13 and 8 of them.
    lines = printed(check(splits={"train": split(96, 5, 13)}))
    assert [line.split()[-1] for line in lines if line.startswith(("20 ", "30 "))] == ["▋", "█▋"]


def test_intervals_and_a_fourth_split() -> None:
    four = {name: split(1, 2, 3) for name in ("train", "validation", "test", "other")}
    lines = printed(check(bins=[(0, 2.5), (2.5, 5), (5, 7.5)], splits=four))
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("2.5 - 5 ") for line in lines) == 2


def test_notes_and_faults_come_last_and_are_a_line_each() -> None:
    long = "x/" * 100 + "[b].png is broken"
    lines = printed(check(notes=["a note"], faults=[long, "short"], broken={"a": "b"}))
    assert lines[-7:] == ["", "Notes", "a note", "", "Faults: 2", long, "short"]
    assert "can't be opened: 1" in lines


def test_rules_are_counted_over_the_splits() -> None:
    splits = {
        "train": replace(split(1, 1, 1), rules={"number of cats": 1000, "[red]dogs": 2000}),
        "test": replace(split(1, 1, 1), rules={"number of cats": 1500}),
    }
    assert "2 rules of rows: number of cats (2,500), [red]dogs (2,000)" in printed(check(splits=splits))
    many = {"train": replace(split(1, 1, 1), rules={f"rule {place}": 1 for place in range(13)})}
    assert any(line.endswith("and 3 more") for line in printed(check(splits=many)))


def test_orders_alone() -> None:
    orders = SplitCheck(6, 4, {}, None, {}, 2)
    bare = check(splits={"train": orders}, bins=[], baselines={}, sizes=None, tokens=None)
    lines = printed(bare)
    assert ["train", "6", "4", "2", "orders"] in [line.split() for line in lines]
    assert not any("Values" in line or "median of" in line or "Lists" in line for line in lines)


def test_the_picture(tmp_path: Path) -> None:
    save_histograms(check(), tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert image.size == (1125, 780)  # 7.5 x (1 + 2 x 2.1) inches
    pixels = np.asarray(image).reshape(-1, 3).tolist()
    assert pixels.count([0x48, 0x78, 0xA8]) > 5000  # bars
    assert pixels.count([0xC4, 0x4E, 0x52]) > 100  # medians
    save_histograms(
        check(bins=[(0, 2.5), (2.5, 5), (5, 7.5)], splits={"train": split(1, 2, 3)}), tmp_path / "b.png"
    )
    assert open_image(tmp_path / "b.png").size == (1125, 465)


@pytest.mark.parametrize("rule", ["in $\\no$ or $x_$", "Grad der Röte", "成熟度", "<b>_^{"])
def test_any_rule_can_be_plotted(tmp_path: Path, rule: str) -> None:
    save_histograms(check(task={**AGE.to_dict(), "name": rule, "rule": rule}), tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").size == (1125, 780)


def test_one_value_can_be_plotted(tmp_path: Path) -> None:
    one = SplitCheck(3, 3, {}, Values(5, 5, 5, 1, [3]), {}, None)
    save_histograms(check(bins=[(5, 5)], splits={"train": one}), tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").size == (1125, 465)


def test_orders_can_not_be_plotted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/data/faces: only orders are known"):
        save_histograms(check(splits={"train": SplitCheck(6, 4, {}, None, {}, 2)}), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_matplotlib_is_imported_late_and_without_pyplot(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import rarl.data.check.report
assert "matplotlib" not in sys.modules
from test_report import check
rarl.data.check.report.save_histograms(check(), {str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_link_where_the_picture_goes_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "values.png").symlink_to(victim)
    (tmp_path / ".values.png.unfinished").symlink_to(victim)
    save_histograms(check(), tmp_path / "values.png")
    assert victim.read_text() == "precious"
    assert (tmp_path / "values.png").read_bytes().startswith(b"\x89PNG")
