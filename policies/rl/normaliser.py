"""Running statistics of what a learner observes: one object for actor, critic and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALLEST_STD = 1e-6
CLIP = 10.0


class RunningNorm:
    """Mean and standard deviation of features ``(F,)`` over all that was observed so far.

    New rows are counted at once, but :meth:`apply` uses the statistics as they were at the last :meth:`publish`: an
    on-policy method must see one set of features while it compares old and new probabilities. It is not a module, so
    that the averaging of target networks does not touch it, and copying a network does not copy it. Normalising
    observations this way stabilises off-policy methods too (SimBa, Lee et al. 2025).
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = 0.0
        self.mean, self._sum = np.zeros(size), np.zeros(size)
        self.device = torch.device(device)
        self.publish()

    def __deepcopy__(self, memo: dict[int, Any]) -> RunningNorm:
        return self

    def update(self, rows: np.ndarray) -> None:
        """Count rows ``(B, F)`` (Chan et al. 1979, equation 2.1b)."""
        wide = np.asarray(rows, np.float64)
        if not len(wide):
            return
        mean = wide.mean(axis=0)
        total = self.count + len(wide)
        delta = mean - self.mean
        self._sum += ((wide - mean) ** 2).sum(axis=0) + delta**2 * (self.count * len(wide) / total)
        self.mean += delta * (len(wide) / total)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Standard deviation ``(F,)``; 1 where nothing varied yet."""
        std = np.sqrt(self._sum / max(self.count, 1.0))
        return np.where(std < SMALLEST_STD, 1.0, std)

    def publish(self) -> None:
        """Let :meth:`apply` use what was counted so far."""
        self.applied_mean = torch.as_tensor(self.mean, dtype=torch.float32, device=self.device)
        self.applied_std = torch.as_tensor(self.std, dtype=torch.float32, device=self.device)

    def apply(self, features: Tensor) -> Tensor:
        """Return features ``(B, F)`` normalised and cut at ten deviations."""
        return ((features - self.applied_mean) / self.applied_std).clamp(-CLIP, CLIP)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to hold, float64."""
        held = {"count": np.array(self.count), "mean": self.mean, "sum": self._sum}
        return {name: torch.as_tensor(value.copy()) for name, value in held.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of :meth:`state`."""
        self.count = float(state["count"])
        self.mean, self._sum = state["mean"].numpy().copy(), state["sum"].numpy().copy()
        self.publish()
