"""Evaluation: every policy plays the same episodes, and every episode becomes one row that nothing else can change."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rsp_robot.envs.rendering import find_backend
from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.acting import evaluation_mode
from rsp_robot.experiments.evaluation.plan import agree_on_plan, make_plan, plan_path
from rsp_robot.experiments.evaluation.roles import Pictures, Role, cast_roles
from rsp_robot.experiments.evaluation.rows import (
    Key,
    Row,
    StartStates,
    in_order,
    key_of,
    make_row,
    read_rows,
    write_rows,
)
from rsp_robot.experiments.evaluation.simulation_worker import MAX_ENVIRONMENTS, Episode
from rsp_robot.experiments.evaluation.workers import Processes, play_episodes
from rsp_robot.files import append_jsonl
from rsp_robot.machine import available_cores
from rsp_robot.policies.file_lock import try_lock
from rsp_robot.progress import Progress

if TYPE_CHECKING:
    from rsp_robot.experiments.evaluation.roles import AnyPolicy

__all__ = ["FIRST_HELD_OUT_SEED", "EvaluateConfig", "Row", "describe_config", "evaluate", "plan_path"]
FIRST_HELD_OUT_SEED = 100_000


@dataclass(frozen=True)
class EvaluateConfig:
    """Which episodes are played, how, and where their rows go."""

    tasks: Annotated[Sequence[str], tyro.conf.arg(name="task", metavar="TASK ...")] = ()
    """Task ids, for example metaworld/push-v3; by default the tasks that the policies were trained on."""
    out: Path = Path("evaluation.jsonl")
    """Rows file; episodes that are in it already are not played again."""
    episodes: int = 50
    """Episodes per policy and task."""
    seed: int = FIRST_HELD_OUT_SEED
    """Seed of the first episode; episode e starts from seed + e for every policy. Demonstrations use small seeds."""
    horizon: int | None = None
    """Steps after which an episode ends; by default each task's own horizon."""
    image_size: int | None = None
    """Side of the pictures in pixels; by default what each policy was trained on."""
    quality: str | None = None
    """Rendering quality, lean or full; by default what each policy was trained on."""
    stop_on_success: bool = True
    """End an episode at its first success. Off: play to the horizon, and know whether success still holds at the
    end."""
    workers: int = 0
    """Simulation processes; 0 for three more than there are cores: some wait for their actions while the others
    simulate."""
    step_timeout_s: float = 60.0
    """Seconds after which a simulation that does not answer is replaced."""
    attempts: int = 3
    """How often an episode is tried when its simulation dies."""
    allow_mismatch: bool = False
    """Play although task, pictures, simulator or encoder are not those a policy was trained with; a warning says
    which."""
    protocol: Annotated[str, tyro.conf.Suppress] = "honest"
    """Whose settings these are; rows of different protocols are never mixed."""

    def __post_init__(self) -> None:
        tasks = (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)
        object.__setattr__(self, "tasks", tasks)

    @property
    def pictures(self) -> Pictures:
        """What is asked for, whatever the policies were trained on."""
        return Pictures(self.image_size, self.quality, self.horizon)


def worker_count(config: EvaluateConfig) -> int:
    """Return the number of simulation processes."""
    return config.workers or available_cores() + 3


def evaluate(
    policies: Mapping[str, AnyPolicy], config: EvaluateConfig, processes: Processes | None = None
) -> list[Row]:
    """Play ``config.episodes`` episodes of each task with each policy and return one row per policy, task and episode.

    The plan is fixed beforehand: episode e starts from seed + e for every policy, and nothing depends on how long other
    episodes take. Apart from ``wall_s`` a row is the same to the last bit whatever the number of processes and however
    often the evaluation was killed and run again. Rows are appended to ``config.out`` as episodes end; what is there
    already is not played again. When all are there the file is put in order: by policy, task and episode.

    Args:
        policies: by the name that their rows get; each a policy, or a mapping with one per task.
        config: the episodes.
        processes: simulation processes of the evaluation before, for one evaluation after another; by default they are
            started and ended here.

    Returns:
        rows ``{"policy", "task", "episode", "seed", "initial_state", "success_once", "success_at_end", "first_success",
        "success_steps", "return", "length", "wall_s", "error"}`` in that order. ``first_success`` is the number of
        actions taken when success first held (0: at the reset), or None; ``success_steps`` after how many actions it
        held. In the row of an episode that was given up ``error`` says why, and the results are None: it is neither a
        success nor a failure. The next evaluation tries it again.

    Raises:
        UserError: unknown task or camera, a task or pictures other than those a policy was trained on, rows of another
            evaluation in ``config.out``, no working OpenGL.
    """
    if config.episodes < 1 or config.workers < 0 or config.attempts < 1:
        raise UserError("episodes and attempts must be at least 1, workers at least 0; correct the settings")
    roles = cast_roles(policies, config.tasks, config.pictures, config.allow_mismatch)
    plan = make_plan(roles, protocol=config.protocol, seed=config.seed, stop_on_success=config.stop_on_success)
    with _alone(config.out):
        plan = agree_on_plan(config.out, plan)
        there, remarks = read_rows(config.out)
        for remark in remarks:
            print(remark, file=sys.stderr)
        if remarks:
            write_rows(config.out, there.values())
        rows = there | _play(roles, config, there, processes)
        write_rows(config.out, in_order(rows.values(), list(plan["policies"]), list(plan["tasks"])))
    return [rows[name, task, number] for name, task in roles for number in range(config.episodes)]


def _play(
    roles: Mapping[tuple[str, str], Role],
    config: EvaluateConfig,
    there: Mapping[Key, Row],
    processes: Processes | None,
) -> dict[Key, Row]:
    """Play and append what is not there yet, or is there as an error; return the rows of what was played."""
    done = {key: row for key, row in there.items() if not row["error"]}
    states = StartStates(done.values())
    wanted = {(episode.policy, episode.task, episode.number): episode for episode in plan_episodes(roles, config)}
    missing = [episode for key, episode in wanted.items() if key not in done]
    tally = Tally(done[key] for key in wanted if key in done)
    if any(episode.scene.cameras for episode in missing):
        find_backend()  # once, here: the simulation processes inherit what it finds
    found: dict[Key, Row] = {}
    played = play_episodes(
        {key: role.policy for key, role in roles.items()},
        missing,
        worker_count(config),
        config.step_timeout_s,
        config.attempts,
        processes,
    )
    begun = len(wanted) - len(missing)
    with (
        evaluation_mode(role.policy for role in roles.values()),
        closing(played),
        Progress("evaluate", total=len(wanted), unit="episodes", done=begun) as bar,
    ):
        for episode, outcome in played:
            row = make_row(episode, outcome)
            states.check(row)
            append_jsonl(config.out, row)
            found[key_of(row)] = row
            tally.add(row)
            bar.update(1, **tally.rates())
    return found


def plan_episodes(roles: Mapping[tuple[str, str], Role], config: EvaluateConfig) -> Iterator[Episode]:
    """Yield all episodes in the order in which they are begun.

    Task after task, and policies take turns, so that a process needs few environments and every policy has played the
    same starts at any time. Where a task is seen in more ways than a process keeps environments, some ways at a time.
    """
    for task in dict.fromkeys(task for _, task in roles):
        playing = {name: role.scene for (name, other), role in roles.items() if other == task}
        scenes = list(dict.fromkeys(playing.values()))
        for first in range(0, len(scenes), MAX_ENVIRONMENTS):
            group = scenes[first : first + MAX_ENVIRONMENTS]
            for number in range(config.episodes):
                for name, scene in playing.items():
                    if scene in group:
                        yield Episode(name, number, config.seed + number, scene, config.stop_on_success)


@contextmanager
def _alone(rows: Path) -> Iterator[None]:
    """Be the only evaluation that writes these rows; the kernel drops the lock of a process that was killed."""
    rows.parent.mkdir(parents=True, exist_ok=True)
    held = try_lock(rows.with_name(f".{rows.name}.lock"))
    if held is None:
        raise UserError(f"{rows} is being written by another evaluation; wait for it, or give another file")
    with held:
        yield


class Tally:
    """Successes so far, by policy over all of its tasks."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._played: Counter[str] = Counter()
        self._won: Counter[str] = Counter()
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Count an episode; one that ended in an error is neither."""
        if not row["error"]:
            self._played[row["policy"]] += 1
            self._won[row["policy"]] += row["success_once"]

    def rates(self) -> dict[str, float]:
        """Return the share of successes of each policy with episodes, by its name and a colon."""
        return {f"{name}:": self._won[name] / played for name, played in self._played.items()}


def describe_config(config: EvaluateConfig) -> dict[str, Any]:
    """Return the configuration as plain values, for a run folder or a report."""
    return asdict(config) | {"out": str(config.out), "tasks": list(config.tasks)}
