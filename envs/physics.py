"""The state of a MuJoCo simulation as numbers, to continue from bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco


class Physics:
    """Everything MuJoCo integrates from (``mjSTATE_INTEGRATION``): joints, mocap bodies, warm start, time."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Look at a simulation; both objects stay the caller's."""
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        self._what = mujoco.mjtState.mjSTATE_INTEGRATION
        self.size = mujoco.mj_stateSize(model, self._what)
        """Length of :meth:`get`."""

    def get(self) -> np.ndarray:
        """Return the state, float64 ``(size,)``."""
        state = np.empty(self.size)
        self._mujoco.mj_getState(self._model, self._data, state, self._what)
        return state

    def set(self, state: np.ndarray) -> None:
        """Put the simulation into a state; what follows from it (positions of bodies and so on) is left as it was."""
        self._mujoco.mj_setState(self._model, self._data, state, self._what)

    def set_forward(self, state: np.ndarray) -> None:
        """Put the simulation into a state and compute what follows from it."""
        self.set(state)
        self._mujoco.mj_forward(self._model, self._data)
        self.set(state)  # the forward pass changed the warm start
