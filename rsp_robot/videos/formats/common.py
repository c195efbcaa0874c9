"""Small things that several formats need."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import Any

from rsp_robot.videos.info import UnreadableVideo


def forkable_lock() -> AbstractContextManager[Any]:
    """Make a lock that is taken before a fork, so that no child finds it held by a thread it does not have."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def unreadable(name: object, cause: str) -> UnreadableVideo:
    """Build the error for a file or a video in it: one line, whatever it is called."""
    return UnreadableVideo(" ".join(f"{name} {cause}".splitlines()))
