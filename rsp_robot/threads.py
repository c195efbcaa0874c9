"""One arithmetic thread at a time, so that results do not depend on how many cores a machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operations of the calling thread on that thread alone, then restore the setting.

    How a sum is divided among threads can change its last bit. It is also faster here: the matrices are small, and the
    other cores are simulating.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
