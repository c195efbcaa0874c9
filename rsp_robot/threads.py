"""One arithmetic thread at a time, so that results do not depend on how many cores a machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_threads() -> Iterator[None]:
    """Restore the setting of the calling thread afterwards, and with it the default of threads started later.

    torch keeps the setting per thread, but the last one that any thread makes is what new threads begin with.
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU operations of the calling thread on that thread alone, then restore the setting.

    How a sum is divided among threads can change its last bit. It is also faster here: the matrices are small, and the
    other cores are simulating.
    """
    with kept_threads():
        torch.set_num_threads(1)
        yield
