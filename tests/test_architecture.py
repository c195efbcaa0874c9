"""The rules that keep the house a house: who may import whom, how long a file may be, what gets installed."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("envs", "pretrain", "policies")
FOLDERS = ("rsp_robot", *STAGES, "experiments")
LONGEST_FILE = 500


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path, root: Path = ROOT) -> str:
    """The name that a file of the repository is imported by: envs/x.py is rsp_robot.envs.x."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] != "rsp_robot":
        parts.insert(0, "rsp_robot")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module that ``source`` imports, wherever the statement stands; names that look like one are included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if is_package else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, (package if node.level else "", node.module or "")))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.args[0].value


def room(module: str) -> str | None:
    """The folder a module of ours stands in; None for somebody else's."""
    parts = module.split(".")
    if parts[0] in (*STAGES, "experiments"):
        return parts[0]  # importing the folder itself would only work inside the repository
    if parts[0] != "rsp_robot":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in (*STAGES, "experiments") else "rsp_robot"


def forbidden(module: str, imported: str) -> bool:
    """Whether the rule forbids ``module`` to import ``imported``."""
    here, there = room(module), room(imported)
    if there is None:
        return False
    if not imported.startswith("rsp_robot"):
        return True
    return here != "experiments" and there not in ("rsp_robot", here)


def test_every_folder_has_python_files() -> None:
    assert all(python_files(ROOT / folder) for folder in FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_experiments_puts_stages_together(folder: str) -> None:
    wrong = []
    for path in python_files(ROOT / folder):
        module = module_name(path)
        for imported in imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
            if forbidden(module, imported):
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("rsp_robot.envs.collect", "from rsp_robot.policies.policy import Policy", True),
        ("rsp_robot.envs.collect", "def f():\n    import rsp_robot.pretrain.train", True),
        ("rsp_robot.envs.collect", "from ..policies import policy", True),
        ("rsp_robot.envs.collect", "from rsp_robot import policies", True),
        ("rsp_robot.envs.collect", "import_module('rsp_robot.experiments.cli')", True),
        ("rsp_robot.envs.collect", "import policies", True),
        ("rsp_robot.encoder", "from rsp_robot.pretrain.masking import mask", True),
        ("rsp_robot.encoder", "if TYPE_CHECKING:\n    from rsp_robot.envs import make", True),
        ("rsp_robot.envs.collect", "from rsp_robot.errors import UserError", False),
        ("rsp_robot.envs.collect", "from . import registry\nfrom rsp_robot.envs.registry import make", False),
        ("rsp_robot.envs.collect", "import numpy, envs_of_somebody", False),
        ("rsp_robot.experiments.quickstart", "from rsp_robot.envs import make\nimport rsp_robot.policies", False),
    ],
)
def test_the_rule_itself(module: str, source: str, expected: bool) -> None:
    found = any(forbidden(module, imported) for imported in imports(source, module, is_package=False))
    assert found == expected


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_files_stay_short(folder: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(ROOT / folder)}
    too_long = {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > LONGEST_FILE}
    assert not too_long


def test_simulation_code_is_free_of_torch() -> None:
    """Importing Triton after an OpenGL context was made kills the process, so simulation never loads torch."""
    for path in python_files(ROOT / "envs"):
        module = module_name(path)
        found = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"), module, False)}
        assert "torch" not in found, path.name


def test_everything_installs_inside_one_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(setuptools["package-dir"]) == {"rsp_robot", *(f"rsp_robot.{name}" for name in FOLDERS[1:])}
    assert all(name == "rsp_robot" or name.startswith("rsp_robot.") for name in setuptools["packages"])
    assert "py-modules" not in setuptools
    on_disk = {
        module_name(path) for folder in FOLDERS for path in python_files(ROOT / folder) if path.name == "__init__.py"
    }
    assert set(setuptools["packages"]) == on_disk
