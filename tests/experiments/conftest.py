from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rsp_robot.envs import rendering
from rsp_robot.experiments.evaluation import evaluate, recording
from rsp_robot.policies import policy

ENTRY_POINTS = "[rsp_robot.envs]\ntoy = toy_suite:SUITE\n"


@pytest.fixture
def toy_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install ``toy_suite.py`` as a plug-in; return the folder in which its tasks leave marks.

    Its pictures need no OpenGL, so none is looked for, neither here nor in the simulation processes.
    """
    package = tmp_path / "site" / "toy_suite-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-suite\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setenv("TOY_MARKS", str(marks))
    for module in (rendering, evaluate, recording):
        monkeypatch.setattr(module, "find_backend", lambda: None)
    monkeypatch.setattr(rendering, "before_mujoco", lambda: None)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv(rendering._CHECKED, "egl")
    return marks


@pytest.fixture
def toy_policies(toy_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make a kind of policy on disk known for the toy suite, and go to an empty folder; return ``toy_policies.py``."""
    monkeypatch.setitem(policy.KINDS, "toy", "toy_policies:load")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return import_module("toy_policies")


class SeeingPolicy:
    """Reads the goal from the colour of the picture and walks there."""

    cameras: tuple[str, ...] = ("front",)

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.batches: list[int] = []

    def reset(self, ids: Sequence[int]) -> None:
        self.begun += ids

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        frames = observations["front"]
        assert frames.dtype == np.uint8 and ids is not None and len(ids) == len(frames)
        self.batches.append(len(frames))
        goal = (frames[:, 0, 0, :2].astype(np.float32) - 128) / 60
        return (goal - observations["proprio"]) * 2.0


class BlindPolicy:
    """Walks to the origin; nothing is rendered for it."""

    cameras: tuple[str, ...] = ()

    def reset(self, ids: Sequence[int]) -> None:
        pass

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        assert set(observations) == {"proprio"}
        return -observations["proprio"]


class OraclePolicy:
    """Is told where the goal is; nothing is rendered for it."""

    cameras: tuple[str, ...] = ()
    state = True

    def reset(self, ids: Sequence[int]) -> None:
        pass

    def act(self, observations: Mapping[str, np.ndarray], ids: Sequence[int] | None = None) -> np.ndarray:
        assert set(observations) == {"proprio", "state"}
        return (observations["state"][:, 2:] - observations["proprio"]) * 2.0


@pytest.fixture
def oracle() -> OraclePolicy:
    return OraclePolicy()


@pytest.fixture
def seeing() -> SeeingPolicy:
    return SeeingPolicy()


@pytest.fixture
def blind() -> BlindPolicy:
    return BlindPolicy()
