"""The floors of docs/architecture.md, held against the source: imports run downwards, and light modules stay
light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
FILES = sorted((SOURCE / "rarl").rglob("*.py"))

# The first prefix that fits decides, the longest first. A module that is on no floor is a mistake.
FLOORS = {
    **dict.fromkeys(("errors", "method.equations", "method.tasks", "method.replies"), 0),
    **dict.fromkeys(("digests", "disk", "files", "method", "progress", "signals", "yaml_files"), 1),
    **dict.fromkeys(("data", "models"), 2),
    "shared_prefix": 3,
    "scoring": 3,
    "evaluation": 3,
    "ranking": 3,
    "integrations": 3,
    "training": 4,
    "report": 5,
    "plan": 5,
    "paper.arms": 3,
    "paper": 6,
    "demo": 6,
    "cli": 7,
    "__main__": 8,
    "": 7,
}
HEAVY = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "safetensors")
FILE_MODULES = ("os", "io", "pathlib", "shutil", "tempfile", "glob")


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def floor_of(module: str) -> int:
    parts = module.removeprefix("rarl").lstrip(".").split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return FLOORS[next(prefix for prefix in prefixes if prefix in FLOORS)]


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(str(node.module))
    return found


def eager(tree: ast.Module) -> list[str]:
    """What is imported with the module itself: not within a function, and not for type checkers alone."""
    found: list[str] = []
    for node in tree.body:
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            found += imports(node)
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downwards_only(path):
    floor = floor_of(name_of(path))
    upward = [m for m in imports(parsed(path)) if m.split(".")[0] == "rarl" and floor_of(m) > floor]
    assert upward == []


def test_no_module_imports_itself_through_others():
    graph = {name_of(p): [m for m in eager(parsed(p)) if m.startswith("rarl.")] for p in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module not in done:
            for below in graph.get(module, []):
                visit(below, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


FLOOR_0 = [path for path in FILES if floor_of(name_of(path)) == 0]


@pytest.mark.parametrize("path", FLOOR_0, ids=name_of)
def test_floor_0_imports_no_torch_and_no_files(path):
    tree = parsed(path)
    roots = {module.split(".")[0] for module in imports(tree)}
    assert roots.isdisjoint([*HEAVY, *FILE_MODULES, "numpy", "scipy", "PIL"])
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "open" not in calls


def test_equations_imports_math_only():
    # The abstract types of the annotations are no library either.
    assert set(imports(parsed(SOURCE / "rarl/method/equations.py"))) <= {"math", "collections.abc"}


ROOF = [path for path in FILES if floor_of(name_of(path)) >= FLOORS["cli"]]


@pytest.mark.parametrize("path", ROOF, ids=name_of)
def test_the_roof_imports_heavy_modules_only_inside_commands(path):
    for name in eager(parsed(path)):
        root = name.split(".")[0]
        known = ("rarl", "rarl.errors", "rarl.method.tasks", "rarl.data", "rarl.signals")
        light = name in known or name.startswith("rarl.cli")
        assert light if root == "rarl" else root not in HEAVY


def test_only_two_files_import_the_shared_prefix():
    """So that the folder can be left out, see `rarl.training.trainer` and `rarl.scoring.expected`."""
    users = {name_of(p) for p in FILES if any(m.startswith("rarl.shared_prefix") for m in imports(parsed(p)))}
    assert {name for name in users if not name.startswith("rarl.shared_prefix")} == {
        "rarl.training.trainer",
        "rarl.scoring.packed",
    }


def test_the_shared_prefix_imports_nothing_of_training():
    for path in (SOURCE / "rarl/shared_prefix").glob("*.py"):
        assert not [m for m in imports(parsed(path)) if m.startswith("rarl.training")], path


def test_rewards_and_training_read_strictly():
    """The lenient reading is for evaluation and use; a reward that took it would teach no format."""
    strict = [SOURCE / "rarl/method/rewards.py", *(SOURCE / "rarl/training").rglob("*.py")]
    strict += [SOURCE / "rarl/method/mutation.py", *(SOURCE / "rarl/shared_prefix").glob("*.py")]
    assert [name_of(p) for p in strict if "lenien" in p.read_text(encoding="utf-8").lower()] == []


def test_only_one_module_opens_images():
    for path in FILES:
        if name_of(path) != "rarl.data.images":
            assert "Image.open" not in path.read_text(encoding="utf-8"), path


LIGHT = [
    "rarl",
    "rarl.cli",
    "rarl.training.config",
    "rarl.training.keeping.checkpoints",
    "rarl.data",
    "rarl.data.sources.digits",
    "rarl.models.loading",
    "rarl.ranking.table",
    "rarl.ranking.files",
    "rarl.report.tables",
    "rarl.evaluation.results",
]


def test_what_is_light_imports_no_torch():
    code = f"import sys, {', '.join(LIGHT)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    import rarl

    wanted = "Ranker Task RARLTrainer RARLConfig regression_reward ranking_reward format_reward"
    assert set(rarl.__all__) == {*wanted.split(), "AGE", "COUNT", "AESTHETICS", "DIGITS", "__version__"}
    for name in rarl.__all__:
        assert getattr(rarl, name) is not None
        assert name in dir(rarl)
    with pytest.raises(AttributeError, match="no attribute 'Rankr'"):
        _ = rarl.Rankr
