from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from rsp_robot.envs import rendering
from rsp_robot.errors import UserError
from rsp_robot.experiments.doctor import checkup, simulators
from rsp_robot.experiments.doctor.checkup import DoctorConfig, check_packages, print_checks
from rsp_robot.experiments.doctor.simulators import Check, Mark


def installed(versions: dict[str, str]) -> Any:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return version


def test_python() -> None:
    assert checkup.check_python((3, 11)).mark == checkup.check_python((3, 12)).mark == "ok"
    wrong = checkup.check_python((3, 13))
    assert wrong.mark == "fail"
    assert "3.11 or 3.12" in wrong.fix


def test_packages_within_and_outside_their_bounds() -> None:
    declared = ["torch>=2.8", "numpy<2,>=1.26", "h5py>=3.10", 'metaworld<3.2,>=3.1; extra == "metaworld"']
    found = list(check_packages(declared, installed({"torch": "2.15.0+cpu", "numpy": "2.1.0", "metaworld": "3.1.1"})))
    numpy, h5py, summary = found
    assert (numpy.name, numpy.mark, numpy.found) == ("numpy", "fail", "2.1.0, outside <2,>=1.26")
    assert numpy.fix == "pip install 'numpy<2,>=1.26'"
    assert (h5py.name, h5py.mark, h5py.found) == ("h5py", "fail", "not installed")
    assert (summary.mark, summary.found) == ("ok", "2 within their bounds (torch 2.15.0+cpu, metaworld 3.1.1)")


def test_a_missing_suite_is_a_warning_and_a_missing_tool_is_nothing() -> None:
    declared = [
        "torch>=2.8",
        'dm_control==1.0.28; extra == "dmc"',
        'ruff; extra == "dev"',
        'rsp-robot[dmc]; extra == "all"',
    ]
    found = list(check_packages(declared, installed({"torch": "2.8.0"})))
    assert [(check.name, check.mark) for check in found] == [("dm_control", "warn"), ("packages", "ok")]
    assert found[0].fix == "pip install 'rsp-robot[dmc]'"


def test_packages_of_this_environment() -> None:
    marks = {check.name: check.mark for check in check_packages()}
    assert marks["packages"] == "ok"
    assert "fail" not in marks.values()


def test_torch_of_this_environment() -> None:
    check = checkup.check_torch()
    assert check.mark == "ok"
    assert "threads" in check.found


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_bf16 sse\n", True),
        ("processor : 0\nflags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f\nbugs : bf16\n", False),
    ],
)
def test_bfloat16_in_hardware(cpuinfo: str, expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    assert checkup.cpu_has_bf16(file) == expected
    assert not checkup.cpu_has_bf16(tmp_path / "missing")


EXAMINED: dict[str, Any] = {
    "task": "toy/a", "camera": "front", "contrast": 40.0, "same_seed_same_episode": True, "scenes_stay_apart": True,
    "lean_frames_s": 120.0, "full_frames_s": 4.56, "picture": Path("toy.png"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "mark", "word"),
    [({}, "ok", "120 frames/s lean, 4.56 full"), ({"lean_frames_s": 5.0}, "warn", "slow"),
     ({"contrast": 0.0}, "fail", "blank"), ({"lean_frames_s": 17_000.0}, "fail", "too fast to be true"),
     ({"same_seed_same_episode": False}, "fail", "the same seed is not the same episode"),
     ({"scenes_stay_apart": False}, "fail", "two scenes get each other's pictures")],
)  # fmt: skip
def test_judging_a_suite(changed: dict[str, Any], mark: str, word: str) -> None:
    check = simulators.judge("toy", **{**EXAMINED, **changed})
    assert (check.name, check.mark) == ("toy", mark)
    assert word in check.found and "toy.png" in check.found
    assert bool(check.fix) == (mark != "ok")


def test_a_suite_is_examined(tmp_path: Path) -> None:
    check = simulators.check_suite("metaworld", 0.2, tmp_path / "pictures" / "metaworld.png")
    assert check.mark in ("ok", "warn"), check
    assert "frames/s lean" in check.found
    assert Image.open(tmp_path / "pictures" / "metaworld.png").size == (240, 240)


def test_a_broken_simulation_is_told_in_one_line(tmp_path: Path) -> None:
    check = simulators.check_suite("metawrld", 0.2, tmp_path / "a.png")
    assert check.mark == "fail"
    assert "unknown suite 'metawrld'" in check.found
    assert "\n" not in check.found
    assert check.fix.startswith(("choose one of", "did you mean"))


def test_a_suite_that_is_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(simulators, "suites", lambda: {"metaworld": ""})
    monkeypatch.setattr(simulators, "find_spec", lambda package: None)
    (check,) = simulators.check_suites(1.0, tmp_path)
    assert (check.mark, check.fix) == ("warn", "pip install 'rsp-robot[metaworld]'")


def test_missing_opengl_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_backend() -> None:
        raise UserError("no working OpenGL (egl: none; osmesa: none); install OpenGL: apt-get install libegl1")

    monkeypatch.setattr(rendering, "find_backend", find_backend)
    (check,) = checkup.check_pictures(1.0, Path("unused"))  # nothing is measured where nothing can be drawn
    assert check.mark == "fail"
    assert check.found == "no working OpenGL (egl: none; osmesa: none)"
    assert check.fix == "install OpenGL: apt-get install libegl1"


def test_disk(tmp_path: Path) -> None:
    assert checkup.check_disk(tmp_path, free_gb=50.0).mark == "ok"
    assert checkup.check_disk(tmp_path, free_gb=2.0).mark == "warn"
    assert checkup.check_disk(tmp_path / "not" / "there" / "yet", free_gb=0.1).mark == "fail"


def test_memory() -> None:
    assert checkup.check_machine(memory_gb=16.0).mark == "ok"
    assert checkup.check_machine(memory_gb=1.0).mark == "warn"


def test_table_shows_marks_and_fixes() -> None:
    console = Console(record=True, width=100, force_terminal=False)
    print_checks(
        [Check("python", "ok", "3.11 [x]"), Check("OpenGL", "fail", "none", "apt-get install libegl1")], console
    )
    shown = console.export_text()
    assert "ok    python  3.11 [x]" in shown
    assert "fix: apt-get install libegl1" in shown
    assert "Not usable yet: OpenGL." in shown


@pytest.mark.parametrize(("mark", "status"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_exit_status(mark: Mark, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_plan", lambda config: [("it", lambda: [Check("it", mark, "so")])])
    assert checkup.doctor(DoctorConfig()) == status


def test_as_a_verb() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rsp_robot.experiments.cli", "doctor", "--seconds", "0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("python", "packages", "torch", "OpenGL", "machine", "disk"):
        assert name in done.stdout
