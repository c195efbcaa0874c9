"""What the suites of Gymnasium-Robotics share: a quiet import, and saved states that are exact."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from rsp_robot.envs.physics import Physics

if TYPE_CHECKING:
    import mujoco


def import_environment(place: str) -> Any:
    """Import an environment class, ``"module:class"`` below ``gymnasium_robotics.envs``, without the package's notices.

    The package prints a notice about its rewards to stderr whatever part of it is imported.
    """
    module, _, name = place.partition(":")
    with redirect_stderr(io.StringIO()):
        return getattr(import_module(f"gymnasium_robotics.envs.{module}"), name)


class LastSubstep:
    """Steps MuJoCo and keeps the state from before the last substep, from which everything can be had again.

    ``mj_step`` computes the positions of bodies, sites and cameras first and integrates the joints last, so that after
    it the positions lag one substep behind. Suites take observations and controller targets from those, and pictures
    show them; a forward pass on a restored state would move them on. Repeating the last substep gives all of it bit for
    bit.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self._physics = Physics(model, data)
        self._before = np.zeros(self._physics.size)
        self._stepped = False
        self.size = 1 + len(self._before)
        """Length of :meth:`get`."""

    def note_reset(self) -> None:
        """Take the present state as one that no substep led to, after the suite's reset and its forward pass."""
        self._before = self._physics.get()
        self._stepped = False

    def step(self, substeps: int) -> None:
        """Do what ``mj_step(model, data, substeps)`` does."""
        self._mujoco.mj_step(self._model, self._data, nstep=substeps - 1)
        self._before = self._physics.get()
        self._mujoco.mj_step(self._model, self._data)
        self._stepped = True

    def get(self) -> np.ndarray:
        """Return what :meth:`restore` needs, float64 ``(size,)``."""
        return np.append(float(self._stepped), self._before)

    def restore(self, saved: np.ndarray) -> bool:
        """Bring the simulation back; return whether a substep was repeated (what follows a step has to follow it)."""
        self._stepped, self._before = bool(saved[0]), saved[1:].copy()
        if self._stepped:
            self._physics.set(self._before)
            self._mujoco.mj_step(self._model, self._data)
        else:
            self._physics.set_forward(self._before)
        return self._stepped
