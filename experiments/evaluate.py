"""Evaluation: every policy plays the same episodes, and every episode becomes one row that nothing else can change."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsp_robot.envs import describe
from rsp_robot.envs.registry import check_cameras
from rsp_robot.envs.rendering import find_backend
from rsp_robot.errors import UserError
from rsp_robot.experiments.simulation_worker import Episode, Outcome, Setup
from rsp_robot.experiments.workers import play_episodes, sees_state
from rsp_robot.files import append_jsonl, atomic_path, read_json, read_jsonl, write_json
from rsp_robot.machine import available_cores
from rsp_robot.progress import Progress
from rsp_robot.versions import versions

if TYPE_CHECKING:
    from rsp_robot.policies.policy import Policy

Row = dict[str, Any]
FIRST_HELD_OUT_SEED = 100_000
DEFAULT_IMAGE_SIZE, DEFAULT_QUALITY = 64, "lean"


@dataclass(frozen=True)
class EvaluateConfig:
    """Which episodes are played, how, and where their rows go."""

    task: str
    """Task id, for example metaworld/push-v3."""
    out: Path = Path("evaluation.jsonl")
    """Rows file; episodes that are in it already are not played again."""
    episodes: int = 50
    """Episodes per policy."""
    seed: int = FIRST_HELD_OUT_SEED
    """Seed of the first episode; episode e starts from seed + e for every policy. Demonstrations use small seeds."""
    horizon: int | None = None
    """Steps after which an episode ends; by default the task's own horizon."""
    image_size: int | None = None
    """Side of the pictures in pixels; by default what the policies were trained on."""
    quality: str | None = None
    """Rendering quality, lean or full; by default what the policies were trained on."""
    stop_on_success: bool = True
    """End an episode at its first success. Off: play to the horizon, and know whether success still holds at the
    end."""
    workers: int = 0
    """Simulation processes; 0 for as many as there are cores."""
    step_timeout_s: float = 60.0
    """Seconds after which a simulation that does not answer is replaced."""
    attempts: int = 3
    """How often an episode is tried when its simulation dies."""
    allow_mismatch: bool = False
    """Play although pictures, simulator or encoder are not those a policy was trained with; a warning says which."""

    def setup(self) -> Setup:
        """Return what the simulation processes need to know."""
        size, quality = self.image_size or DEFAULT_IMAGE_SIZE, self.quality or DEFAULT_QUALITY
        return Setup(self.task, size, quality, self.horizon, self.stop_on_success)


def settle(policies: Mapping[str, Policy], config: EvaluateConfig) -> EvaluateConfig:
    """Fill in what the configuration leaves to the policies: size and quality of the pictures.

    The first policy that sees decides; :func:`evaluate` then refuses any that was trained on something else.
    """
    seeing = [policy for policy in policies.values() if policy.cameras]
    trained = seeing[0] if seeing else None
    return replace(
        config,
        image_size=config.image_size or getattr(trained, "image_size", None) or DEFAULT_IMAGE_SIZE,
        quality=config.quality or getattr(trained, "quality", None) or DEFAULT_QUALITY,
    )


def _plan(policies: Mapping[str, Policy], config: EvaluateConfig) -> dict[str, Any]:
    """Return what must not change between the rows of one file."""
    description, found = describe(config.task), versions()
    plan: dict[str, Any] = {
        "task": config.task,
        "seed": config.seed,
        "horizon": description.horizon if config.horizon is None else config.horizon,
        "image_size": config.image_size,
        "quality": config.quality,
        "stop_on_success": config.stop_on_success,
        "versions": {name: found.get(name, "") for name in description.packages},
    }
    plan["policies"] = {name: getattr(policy, "fingerprint", "") for name, policy in policies.items()}
    return plan


def _check_request(policies: Mapping[str, Policy], config: EvaluateConfig) -> None:
    """Refuse what cannot be evaluated before any process is started."""
    if not policies:
        raise UserError("no policies to evaluate; name at least one")
    if config.episodes < 1 or config.workers < 0 or config.attempts < 1:
        raise UserError("episodes and attempts must be at least 1, workers at least 0; correct the settings")
    description = describe(config.task)
    for name, policy in policies.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise UserError(f"{name!r} cannot name a policy; use letters, digits and . _ + -")
        check_cameras(description, policy.cameras)
        for key in ("image_size", "quality"):
            trained, asked = getattr(policy, key, None), getattr(config, key)
            if policy.cameras and trained is not None and trained != asked:
                differs = f"policy {name!r} was trained on pictures with {key} {trained}, the evaluation has {asked}"
                if not config.allow_mismatch:
                    raise UserError(f"{differs}; set {key} to {trained}, or insist with --allow-mismatch")
                warnings.warn(differs, stacklevel=3)


def plan_path(rows: Path) -> Path:
    """Return where the plan of a rows file is kept: ``evaluation.plan.json`` beside ``evaluation.jsonl``."""
    return rows.with_suffix(".plan.json")


def _agree_on_plan(policies: Mapping[str, Policy], config: EvaluateConfig) -> None:
    """Write the plan beside the rows, or check that the rows there follow the same one. Policies may join later.

    Raises:
        UserError: the rows there come from other settings, another policy of the same name, or are of unknown origin.
    """
    path, plan = plan_path(config.out), json.loads(json.dumps(_plan(policies, config)))
    if path.exists():
        stored = read_json(path)
        for key in plan:
            if key != "policies" and stored.get(key) != plan[key]:
                raise UserError(
                    f"{config.out} holds rows with {key} {stored.get(key)}, asked for {plan[key]}; "
                    "give another file or that setting"
                )
        for name, fingerprint in plan["policies"].items():
            if stored["policies"].get(name, fingerprint) != fingerprint:
                raise UserError(
                    f"{config.out} holds rows of another policy called {name!r}; "
                    f"give another file, or remove it and {path.name}"
                )
        plan["policies"] = stored["policies"] | plan["policies"]
        if plan == stored:
            return
    elif config.out.exists() and read_jsonl(config.out):
        raise UserError(
            f"{config.out} holds rows but {path.name} is missing, so their settings are unknown; give another file"
        )
    write_json(path, plan)


def read_rows(path: Path) -> dict[tuple[str, int], Row]:
    """Read a rows file by ``(policy, episode)``, without the episodes given up for an error: they are tried again."""
    return {(row["policy"], row["episode"]): row for row in read_jsonl(path) if not row.get("error")}


def make_row(episode: Episode, task: str, outcome: Outcome | str) -> Row:
    """Make the row of one episode; ``outcome`` is the reason where the episode was given up."""
    row: Row = {"policy": episode.policy, "task": task, "episode": episode.number, "seed": episode.seed}
    if isinstance(outcome, str):
        keys = ("initial_state", "success_once", "success_at_end", "first_success", "return", "length", "wall_s")
        return row | dict.fromkeys(keys) | {"error": outcome}
    return row | {
        "initial_state": outcome.initial_state,
        "success_once": outcome.success_once,
        "success_at_end": outcome.success_at_end,
        "first_success": outcome.first_success,
        "return": outcome.total_return,
        "length": outcome.length,
        "wall_s": round(outcome.wall_s, 3),
        "error": None,
    }


class _InitialStates:
    """Checks that an episode starts in the same state whoever plays it."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, str]] = {}

    def check(self, row: Row) -> None:
        """Compare with the rows seen before.

        Raises:
            UserError: the same episode started in another state.
        """
        if row["error"]:
            return
        policy, state = self._seen.setdefault(row["episode"], (row["policy"], row["initial_state"]))
        if state != row["initial_state"]:
            raise UserError(
                f"episode {row['episode']} (seed {row['seed']}) starts in different states for {policy!r} and "
                f"{row['policy']!r}, so they cannot be compared; the environment must start from its seed alone"
            )


def worker_count(config: EvaluateConfig) -> int:
    """Return the number of simulation processes."""
    return config.workers or available_cores()


def evaluate(policies: Mapping[str, Policy], config: EvaluateConfig) -> list[Row]:
    """Play ``config.episodes`` episodes with each policy and return one row per policy and episode.

    The plan is fixed beforehand: episode e starts from seed + e for every policy, and nothing depends on how long other
    episodes take. Apart from ``wall_s`` a row is the same to the last bit whatever the number of processes and however
    often the evaluation was killed and run again. Rows are appended to ``config.out`` as episodes end; what is there
    already is not played again. When all
    are there the file is put in order: by policy, then by episode.

    Args:
        policies: by the name that their rows get.
        config: the episodes.

    Returns:
        rows ``{"policy", "task", "episode", "seed", "initial_state", "success_once", "success_at_end", "first_success",
        "return", "length", "wall_s", "error"}``, policy after policy, in the order of episodes. ``first_success`` is
        the number of actions taken when success first held (0: at the reset), or None. In the row of an episode that
        was given up ``error`` says why, and the results are None: it is neither a success nor a failure. The next
        evaluation tries it again.

    Raises:
        UserError: unknown task or camera, pictures other than those a policy was trained on, rows of another evaluation
            in ``config.out``, no working OpenGL.
    """
    config = settle(policies, config)
    _check_request(policies, config)
    _agree_on_plan(policies, config)
    done = read_rows(config.out)
    states = _InitialStates()
    for row in done.values():
        states.check(row)
    wanted = [
        Episode(name, number, config.seed + number, tuple(policy.cameras), state=sees_state(policy))
        for number in range(config.episodes)
        for name, policy in policies.items()
    ]
    missing = [episode for episode in wanted if (episode.policy, episode.number) not in done]
    if any(episode.cameras for episode in missing):
        find_backend()  # once, here: the simulation processes inherit what it finds
    given_up: dict[tuple[str, int], Row] = {}
    played = play_episodes(
        policies, missing, config.setup(), worker_count(config), config.step_timeout_s, config.attempts
    )
    begun = len(wanted) - len(missing)
    with closing(played), Progress("evaluate", total=len(wanted), unit="episodes", done=begun) as bar:
        for episode, outcome in played:
            row = make_row(episode, config.task, outcome)
            states.check(row)
            append_jsonl(config.out, row)
            (given_up if row["error"] else done)[episode.policy, episode.number] = row
            bar.update(1, **{f"{name}:": rate for name, rate in success_rates(done, policies).items()})
    rows = done | given_up
    order = {name: index for index, name in enumerate(read_json(plan_path(config.out))["policies"])}
    in_order = [rows[key] for key in sorted(rows, key=lambda key: (order.get(key[0], len(order)), key))]
    with atomic_path(config.out) as temporary:
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in in_order), encoding="utf-8")
    return [rows[name, number] for name in policies for number in range(config.episodes)]


def success_rates(rows: Mapping[tuple[str, int], Row], policies: Mapping[str, Policy]) -> dict[str, float]:
    """Return each policy's share of successes so far, for those with episodes."""
    rates = {}
    for name in policies:
        successes = [row["success_once"] for (policy, _), row in rows.items() if policy == name]
        if successes:
            rates[name] = sum(successes) / len(successes)
    return rates


def describe_config(config: EvaluateConfig) -> dict[str, Any]:
    """Return the configuration as plain values, for a run folder or a report."""
    return asdict(config) | {"out": str(config.out)}
