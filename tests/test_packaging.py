"""A wheel installs one package, with everything in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("rsp_robot", "envs", "pretrain", "policies", "experiments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the tree, so that the build leaves nothing behind in it."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(out), str(copy)]
    subprocess.run(command, check=True, timeout=300)
    (built,) = out.glob("rsp_robot-*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_every_file_inside_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    expected = {
        str((Path() if name == "rsp_robot" else Path("rsp_robot")) / path.relative_to(ROOT))
        for name in FOLDERS
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix in (".py", ".typed", ".css", ".js", ".html", ".svg")
    }
    boxed = ROOT / "rsp_robot" / "boxed" / "small"
    expected |= {str(path.relative_to(ROOT)) for path in boxed.iterdir()}
    assert names == expected
    assert licences


@pytest.mark.slow
def test_installed_wheel_adds_nothing_beside_the_package(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(command, check=True, timeout=300)
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(python), "-c", code], cwd=empty, capture_output=True, text=True, timeout=60)

    for name in FOLDERS[1:]:
        failed = run(f"import {name}")
        assert failed.returncode != 0
        assert "ModuleNotFoundError" in failed.stderr
        found = run(f"from importlib.util import find_spec; print(find_spec('rsp_robot.{name}').origin)")
        assert found.stdout.strip().endswith(f"site-packages/rsp_robot/{name}/__init__.py"), found.stderr
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for path in (ROOT / "rsp_robot" / "boxed" / "small").iterdir():
        assert (site / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    helped = subprocess.run([str(python.parent / "rsp-robot"), "--help"], cwd=empty, capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr  # with nothing else installed
    assert helped.stdout.startswith("usage: rsp-robot VERB")
