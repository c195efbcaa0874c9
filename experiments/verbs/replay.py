"""``rsp-robot replay``: check that demonstrations still end as they were recorded, and film the first one."""

from __future__ import annotations

import sys
from pathlib import Path

from rsp_robot.envs.replay import ReplayConfig, replay, summary


def run_replay(config: ReplayConfig) -> Path | int:
    """Replay, say what was found on stderr, return the film; exit status 1 if one ended otherwise.

    Raises:
        UserError: the file cannot be replayed.
    """
    found = replay(config)
    for line in summary(found):
        print(line, file=sys.stderr)
    if not found.same:
        return 1
    return found.film or 0
