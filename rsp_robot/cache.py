"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$RSP_ROBOT_CACHE``, or ``rsp-robot`` in the user's cache."""
    given = os.environ.get("RSP_ROBOT_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsp-robot"
