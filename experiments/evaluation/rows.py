"""The rows of an evaluation: one JSON line per episode, appended as episodes end, in order once all are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.simulation_worker import Episode, Outcome
from rsp_robot.files import atomic_path

Row = dict[str, Any]
Key = tuple[str, str, int]
"""Policy, task, number of the episode."""
RESULTS = (
    "initial_state", "success_once", "success_at_end", "first_success", "success_steps", "return", "length", "wall_s",
)  # fmt: skip
KEYS = ("policy", "task", "episode", "seed", *RESULTS, "error")


def make_row(episode: Episode, outcome: Outcome | str) -> Row:
    """Make the row of one episode; ``outcome`` is the reason where the episode was given up."""
    row: Row = {"policy": episode.policy, "task": episode.task, "episode": episode.number, "seed": episode.seed}
    if isinstance(outcome, str):
        return row | dict.fromkeys(RESULTS) | {"error": outcome}
    return row | {
        "initial_state": outcome.initial_state,
        "success_once": outcome.success_once,
        "success_at_end": outcome.success_at_end,
        "first_success": outcome.first_success,
        "success_steps": outcome.success_steps,
        "return": outcome.total_return,
        "length": outcome.length,
        "wall_s": round(outcome.wall_s, 3),
        "error": None,
    }


def key_of(row: Row) -> Key:
    """Return what there is one row of."""
    return row["policy"], row["task"], row["episode"]


def read_rows(path: Path) -> tuple[dict[Key, Row], list[str]]:
    """Read a rows file.

    Returns:
        the rows, of an episode that was given up and played again the later one, and a line about each thing that is
        wrong with the file and gets right when it is written again.

    Raises:
        UserError: the rows are not those of this version.
    """
    if not path.exists():
        return {}, []
    rows: dict[Key, Row] = {}
    # Not splitlines(): a string within a row may hold U+2028 or U+0085, which are line breaks to it.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    damaged = 0
    cut_off = False
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            cut_off = cut_off or number == len(lines) - 1
            damaged += number < len(lines) - 1
            continue
        if not isinstance(row, dict) or any(key not in row for key in KEYS):
            raise UserError(f"{path}, line {number + 1}: not a row of this version; evaluate into a new file")
        if not row["error"] or key_of(row) not in rows:
            rows[key_of(row)] = row
    found = [f"{path}: its last line was cut off; repaired, its episode is played again"] if cut_off else []
    if damaged:
        found.append(f"{path}: {damaged} damaged line{'s' * (damaged > 1)} left out, missing episodes are played again")
    return rows, found


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a rows file anew, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def in_order(rows: Iterable[Row], policies: Sequence[str], tasks: Sequence[str]) -> list[Row]:
    """Sort rows by policy, task and episode, policies and tasks in the order given."""
    return sorted(rows, key=lambda row: (policies.index(row["policy"]), tasks.index(row["task"]), row["episode"]))


class StartStates:
    """Checks that an episode starts in the same state whoever plays it."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._seen: dict[tuple[str, int], tuple[str, str]] = {}
        for row in rows:
            self.check(row)

    def check(self, row: Row) -> None:
        """Compare with the rows seen before.

        Raises:
            UserError: the same episode started in another state.
        """
        if row["error"]:
            return
        start = (row["task"], row["episode"])
        policy, state = self._seen.setdefault(start, (row["policy"], row["initial_state"]))
        if state != row["initial_state"]:
            raise UserError(
                f"episode {row['episode']} of {row['task']} (seed {row['seed']}) starts in different states for "
                f"{policy!r} and {row['policy']!r}, so they cannot be compared; the environment must start from its "
                "seed alone"
            )
