"""Which versions produced a result: read from package metadata, so nothing is imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "rsp-robot", "torch", "torchvision", "timm", "numpy", "mujoco", "gymnasium", "metaworld", "robosuite",
    "gymnasium-robotics", "dm_control", "stable-baselines3", "h5py", "av", "scipy",
)  # fmt: skip
SIMULATORS = ("mujoco", "metaworld", "robosuite", "gymnasium-robotics", "dm_control")


def versions() -> dict[str, str]:
    """Return Python, platform and every installed package that a result can depend on, as ``{name: version}``."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def simulator_versions() -> dict[str, str]:
    """Return the installed simulators only: what decides whether two success rates may be compared."""
    return {name: number for name, number in versions().items() if name in SIMULATORS}
