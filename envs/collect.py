"""Collecting demonstrations: a scripted expert, many seeds, parallel processes, and nothing lost when it is killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsp_robot.demonstrations import Demonstration, DemonstrationFile, DemonstrationInfo, write_demonstrations
from rsp_robot.envs.experts import describe_expert
from rsp_robot.envs.registry import check_cameras, describe, make
from rsp_robot.envs.rendering import QUALITIES, Quality, find_backend
from rsp_robot.envs.variation import Variation
from rsp_robot.envs.workers import run_tasks
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.files import read_json, write_json
from rsp_robot.progress import Progress
from rsp_robot.versions import versions

ATTEMPTS_PER_DEMONSTRATION = 5
FIRST_ATTEMPTS = 20
"""Collection gives up after ``20 + 5 * demonstrations`` attempts: an expert that fails so often has a wrong setting."""


@dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    task: str
    """Task id, for example metaworld/push-v3."""
    out: Path
    """The file to write, *.hdf5. Finished episodes wait in <out>.parts until the file is complete."""
    demonstrations: int = 100
    """How many successful episodes to record."""
    cameras: tuple[str, ...] = ()
    """Cameras to record; empty for the task's default camera."""
    image_size: int = 64
    """Side of the pictures in pixels."""
    quality: Quality = "lean"
    """lean: no multisampling, shadows or reflections, about ten times as fast in software. full: the suite's look."""
    vary: Variation = field(default_factory=Variation)
    """How much camera, light and colours differ from episode to episode."""
    action_noise: float = 0.1
    """Standard deviation of Gaussian noise added to the expert's actions, so that its corrections are seen too."""
    horizon: int | None = None
    """Steps after which an attempt counts as failed; the task's own by default."""
    seed: int = 0
    """First seed; attempts use seed, seed + 1, and so on."""
    steps_after_success: int = 5
    """Steps recorded after the first success."""
    keep_failures: bool = False
    """Record episodes that did not succeed as well, whole; by default they are only counted."""
    workers: int = 2
    """Simulation processes; the result does not depend on it."""
    expert: Path | None = None
    """Policy or run folder of `rsp-robot rl --encoder state` that demonstrates; the suite's scripted expert by
    default."""


def collect(config: CollectConfig, *, quiet: bool = False) -> Path:
    """Record the first successful episodes in seed order; call it again after a kill and it goes on where it was.

    Returns:
        ``config.out``, complete. If it was complete already with this configuration, nothing is done.

    Raises:
        UserError: a setting is wrong, ``out`` or its parts belong to other settings, the expert fails too often, or
            there is no OpenGL.
    """
    _check(config)
    out = Path(config.out)
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the file to write, for example {out / 'demonstrations.hdf5'}")
    wanted = _fingerprint(config)
    if out.exists():
        _refuse_other_settings(out, _recorded_fingerprint(out, wanted["versions"]), wanted)
        return out
    find_backend()  # once here, so that the workers need not look for it
    parts = _parts_folder(out)
    _open_parts(parts, wanted)
    order = _SeedOrder(config, parts)
    title, total = f"collect {config.task}", config.demonstrations
    with Progress(title, total, "demonstrations", done=order.successes, quiet=quiet) as bar:
        for seed, success in run_tasks(_start_worker, (config, parts), order.seeds(), config.workers):
            before = order.successes
            order.finished[seed] = success
            bar.update(order.successes - before, success=order.success_rate)
            if len(order.chosen()) == config.demonstrations:
                break
    chosen = order.chosen()
    if len(chosen) < config.demonstrations:
        raise UserError(
            f"the expert solved {config.task} in only {len(chosen)} of {order.attempts_allowed} episodes; "
            "raise horizon or lower action_noise (finished episodes are kept)"
        )
    info = _info(config, attempts=chosen[-1] - config.seed + 1)
    write_demonstrations(out, (_read_part(parts, seed) for seed in chosen), info)
    shutil.rmtree(parts)
    return out


class _SeedOrder:
    """Hands out seeds in order and decides from the finished ones, in seed order, which are kept."""

    def __init__(self, config: CollectConfig, parts: Path) -> None:
        self.config = config
        self.attempts_allowed = FIRST_ATTEMPTS + ATTEMPTS_PER_DEMONSTRATION * config.demonstrations
        self.finished: dict[int, bool] = {}
        for path in parts.iterdir():
            if path.suffix in (".hdf5", ".failed") and path.stem.isdigit():
                self.finished[int(path.stem)] = path.suffix == ".hdf5"

    @property
    def successes(self) -> int:
        """Successes so far, not more than are wanted."""
        return min(sum(self.finished.values()), self.config.demonstrations)

    @property
    def success_rate(self) -> float:
        """Successes among the finished episodes."""
        return sum(self.finished.values()) / max(1, len(self.finished))

    def chosen(self) -> list[int]:
        """Return the first successful seeds among those before which every seed is finished."""
        seeds: list[int] = []
        for seed in range(self.config.seed, self.config.seed + self.attempts_allowed):
            if seed not in self.finished or len(seeds) == self.config.demonstrations:
                break
            if self.finished[seed]:
                seeds.append(seed)
        return seeds

    def seeds(self) -> Iterator[int]:
        """Yield the seeds to try, until enough have succeeded; asked again after each result."""
        for seed in range(self.config.seed, self.config.seed + self.attempts_allowed):
            if len(self.chosen()) >= self.config.demonstrations:
                return
            if seed not in self.finished:
                yield seed


def record_episode(env: Any, expert: Any, seed: int, config: CollectConfig) -> Demonstration:
    """Let the expert act on one episode; ``first_success`` is None if it did not succeed within the horizon.

    The noise comes from a generator seeded by the episode, so an episode is the same whoever records it.
    """
    generator = np.random.default_rng([seed, 0xAC7])
    observation, _ = env.reset(seed=seed)
    expert.reset()
    seen: list[dict[str, np.ndarray]] = []
    states, executed, chosen, rewards = [], [], [], []
    first_success: int | None = None
    for step in range(env.horizon):
        wanted = expert.act()
        noise = config.action_noise * generator.standard_normal(wanted.shape)
        action = np.clip(wanted + noise, -1.0, 1.0).astype(np.float32)
        seen.append(observation)
        states.append(env.get_state())
        chosen.append(wanted)
        executed.append(action)
        observation, reward, _, truncated, info = env.step(action)
        rewards.append(reward)
        if info["success"] and first_success is None:
            first_success = step
        if truncated or (first_success is not None and step >= first_success + config.steps_after_success):
            break
    length = len(executed)
    return Demonstration(
        observations={key: np.stack([row[key] for row in seen]) for key in seen[0]},
        actions=np.stack(executed),
        rewards=np.asarray(rewards, np.float32),
        dones=np.arange(length) == length - 1,
        states=np.stack(states),
        seed=seed,
        first_success=first_success,
        expert_actions=np.stack(chosen).astype(np.float32),
    )


def _start_worker(setup: tuple[CollectConfig, Path]) -> Callable[[int], bool]:
    from rsp_robot.envs.experts import make_expert

    config, parts = setup
    env = make(
        config.task,
        cameras=config.cameras or None,
        image_size=config.image_size,
        quality=config.quality,
        horizon=config.horizon,
        state=True,
        variation=config.vary,
    )
    expert = make_expert(config.task, env, config.expert)

    def attempt(seed: int) -> bool:
        demonstration = record_episode(env, expert, seed, config)
        if demonstration.first_success is None and not config.keep_failures:
            write_json(parts / f"{seed:08d}.failed", {"seed": seed})
            return False
        write_demonstrations(_part(parts, seed), [demonstration], DemonstrationInfo(task=config.task))
        return True

    return attempt


def _check(config: CollectConfig) -> None:
    description = describe(config.task)
    check_cameras(description, config.cameras or None)
    if not describe_expert(config.task, config.expert):
        raise UserError(f"nobody demonstrates {config.task}; give an expert trained on states with --expert")
    if config.quality not in QUALITIES:
        raise unknown_name("quality", config.quality, QUALITIES)
    for name, least in (("demonstrations", 1), ("image_size", 16), ("horizon", 1), ("workers", 1)):
        if getattr(config, name) is not None and getattr(config, name) < least:
            raise UserError(f"{name}={getattr(config, name)} is out of range; choose at least {least}")
    for name in ("action_noise", "seed", "steps_after_success"):
        if not getattr(config, name) >= 0:
            raise UserError(f"{name}={getattr(config, name)} is out of range; choose 0 or more")


def _fingerprint(config: CollectConfig) -> dict[str, Any]:
    """Everything the episodes depend on: settings and simulators, not the place or the number of workers."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("out", "workers", "expert")}
    settings["cameras"] = list(config.cameras or (describe(config.task).default_camera,))
    settings["vary"] = config.vary.amounts
    settings["horizon"] = config.horizon or describe(config.task).horizon
    found = versions()
    settings["expert"] = describe_expert(config.task, config.expert)  # a learned one by its fingerprint, not its place
    return {**settings, "versions": {name: found.get(name, "") for name in describe(config.task).packages}}


def _recorded_fingerprint(out: Path, packages_of: Iterable[str]) -> dict[str, Any]:
    with DemonstrationFile(out) as file:
        info, count = file.info, len(file)
    keys = (
        "task",
        "image_size",
        "quality",
        "vary",
        "action_noise",
        "horizon",
        "seed",
        "steps_after_success",
        "keep_failures",
    )
    recorded: dict[str, Any] = {key: getattr(info, key) for key in keys}
    packages = {name: info.versions.get(name, "") for name in packages_of}
    recorded["expert"] = info.expert
    return {**recorded, "demonstrations": count, "cameras": list(info.cameras), "versions": packages}


def _refuse_other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        pairs = [f"{key} {json.dumps(found.get(key))} instead of {json.dumps(wanted[key])}" for key in differing]
        shown = ", ".join(pairs)
        raise UserError(f"{path} was made with other settings ({shown}); choose another out, or delete it")


def _open_parts(parts: Path, wanted: dict[str, Any]) -> None:
    settings = parts / "config.json"
    if settings.exists():
        _refuse_other_settings(parts, read_json(settings), wanted)
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_json(settings, wanted)


def _parts_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _part(parts: Path, seed: int) -> Path:
    return parts / f"{seed:08d}.hdf5"


def _read_part(parts: Path, seed: int) -> Demonstration:
    with DemonstrationFile(_part(parts, seed)) as file:
        return file.read(0)


def _info(config: CollectConfig, attempts: int) -> DemonstrationInfo:
    description = describe(config.task)
    return DemonstrationInfo(
        task=config.task,
        cameras=config.cameras or (description.default_camera,),
        image_size=config.image_size,
        quality=config.quality,
        vary=config.vary.amounts,
        action_noise=config.action_noise,
        horizon=config.horizon or description.horizon,
        fps=description.fps,
        seed=config.seed,
        steps_after_success=config.steps_after_success,
        keep_failures=config.keep_failures,
        attempts=attempts,
        expert=describe_expert(config.task, config.expert),
        versions=versions(),
    )
