"""Watch for steps without a finite loss, without making the host wait for the device."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import torch


class _Pending(NamedTuple):
    step: int
    flag: torch.Tensor
    ready: torch.cuda.Event | None


class FiniteWatch:
    """Counts skipped steps. On a GPU the news of a step comes when its copy to the host has arrived.

    >>> watch = FiniteWatch()
    >>> for step, bad in enumerate([0.0, 1.0, 1.0]):
    ...     watch.see(step, torch.tensor(bad))
    >>> watch.news(), watch.skipped, watch.in_a_row
    ([1, 2], 2, 2)
    """

    def __init__(self, skipped: int = 0, in_a_row: int = 0) -> None:
        self.skipped, self.in_a_row = skipped, in_a_row
        self._pending: deque[_Pending] = deque()

    def see(self, step: int, bad: torch.Tensor) -> None:
        """Take note of a step: ``bad`` is 1 where it was skipped."""
        if bad.device.type != "cuda":
            self._pending.append(_Pending(step, bad, None))
            return
        flag = torch.empty((), pin_memory=True).copy_(bad, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        self._pending.append(_Pending(step, flag, ready))

    def news(self, wait: bool = False) -> list[int]:
        """Return the skipped steps that have become known, oldest first; ``wait`` for all that were seen."""
        found = []
        while self._pending:
            step, flag, ready = self._pending[0]
            if ready is not None and not ready.query():
                if not wait:
                    break
                ready.synchronize()
            self._pending.popleft()
            self.in_a_row = self.in_a_row + 1 if flag else 0
            if flag:
                self.skipped += 1
                found.append(step)
        return found
