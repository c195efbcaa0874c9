from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from rsp_robot.versions import SIMULATORS, simulator_versions, versions


def test_versions_are_those_of_the_packages_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    for package in ("rsp-robot", "torch", "numpy", "mujoco", "h5py"):
        assert found[package] == version(package)
    assert json.loads(json.dumps(found)) == found


def test_packages_that_are_absent_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_mujoco(package: str) -> str:
        if package != "mujoco":
            raise PackageNotFoundError(package)
        return "3.3.0"

    monkeypatch.setattr("rsp_robot.versions.version", only_mujoco)
    assert versions().keys() == {"python", "platform", "mujoco"}
    assert simulator_versions() == {"mujoco": "3.3.0"}


def test_simulators_are_what_decides_over_success_rates() -> None:
    found = simulator_versions()
    assert found["mujoco"] == version("mujoco")
    assert set(found) <= set(SIMULATORS)
    assert not {"torch", "numpy", "python"} & set(found)


def test_asking_imports_none_of_the_packages() -> None:
    code = (
        "import sys; from rsp_robot.versions import versions; versions();"
        "print([name for name in ('torch', 'numpy', 'mujoco', 'metaworld', 'h5py') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
