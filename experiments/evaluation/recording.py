"""Films of rollouts for people: a success and a failure of each policy, played again and written as MP4."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsp_robot.envs.rendering import find_backend
from rsp_robot.experiments.evaluation.acting import evaluation_mode
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, worker_count
from rsp_robot.experiments.evaluation.roles import cast_roles
from rsp_robot.experiments.evaluation.rows import Row
from rsp_robot.experiments.evaluation.simulation_worker import Episode, Film, Scene
from rsp_robot.experiments.evaluation.workers import play_episodes
from rsp_robot.files import read_json, write_json
from rsp_robot.films import write_mp4
from rsp_robot.progress import Progress

if TYPE_CHECKING:
    from rsp_robot.experiments.evaluation.roles import AnyPolicy

FRAMES_PER_S = 30.0
HOLD_S = 0.7
KINDS = ("success", "failure")


def choose_episodes(rows: Sequence[Row], policy: str, task: str | None = None) -> dict[str, Row]:
    """Return a policy's first success and first failure, where there is one: ``{"success": row, "failure": row}``."""
    own = [row for row in rows if row["policy"] == policy and task in (None, row["task"]) and not row["error"]]
    own.sort(key=lambda row: row["episode"])
    chosen = {}
    for kind, wanted in zip(KINDS, (True, False), strict=True):
        row = next((row for row in own if row["success_once"] is wanted), None)
        if row is not None:
            chosen[kind] = row
    return chosen


def film_name(policy: str, task: str, kind: str, several: bool) -> str:
    """Return the name of a film; it has the task in it where there are several.

    >>> film_name("rsp", "metaworld/push-v3", "success", several=False)
    'rsp-success.mp4'
    >>> film_name("rsp", "metaworld/push-v3", "success", several=True)
    'rsp-metaworld-push-v3-success.mp4'
    """
    return f"{policy}-{task.replace('/', '-')}-{kind}.mp4" if several else f"{policy}-{kind}.mp4"


def _caption(row: Row, scene: Scene) -> dict[str, Any]:
    """Return what is written beside a film; a film with the same caption need not be made again."""
    keys = ("policy", "task", "episode", "seed", "initial_state", "success_once", "first_success", "length")
    return {key: row[key] for key in keys} | {"quality": scene.quality}


def record_videos(
    policies: Mapping[str, AnyPolicy],
    config: EvaluateConfig,
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    size: int = 240,
    camera: str | None = None,
    speed: float = 0.5,
) -> dict[tuple[str, str, str], Path]:
    """Play the first success and the first failure of each policy in each task again, filmed from a larger picture.

    What the policy sees is as in the evaluation, so the episode is the same; where its outcome is not that of its row,
    the film is left out with a warning. Films are called as :func:`film_name` says, with a ``.json`` beside each that
    says which episode it is; those there already are kept. A film of a kind that the rows do not have is removed.

    Args:
        policies: by name, as they were evaluated.
        config: of the evaluation.
        rows: what :func:`~rsp_robot.experiments.evaluation.evaluate.evaluate` returned.
        folder: for the films.
        size: side of the pictures in pixels.
        camera: which camera films; by default the policy's first, or the task's default for a blind one.
        speed: of the film; 0.5 is half of the simulated time.

    Returns:
        ``{(policy, task, "success" or "failure"): file}``.
    """
    roles = cast_roles(policies, config.tasks, config.pictures, config.allow_mismatch)
    several = len({task for _, task in roles}) > 1
    films: dict[tuple[str, str, str], Path] = {}
    wanted: dict[Episode, tuple[Path, dict[str, Any], Row]] = {}
    for (name, task), role in roles.items():
        chosen = choose_episodes(rows, name, task)
        for kind in KINDS:
            path = Path(folder) / film_name(name, task, kind, several)
            caption = path.with_suffix(".json")
            if kind in chosen:
                row = chosen[kind]
                settings = _caption(row, role.scene) | {"size": size, "camera": camera, "speed": speed}
                if path.exists() and caption.exists() and read_json(caption) == settings:
                    films[name, task, kind] = path
                    continue
                film = Film(camera, size, FRAMES_PER_S / speed)
                episode = Episode(name, row["episode"], row["seed"], role.scene, config.stop_on_success, film)
                wanted[episode] = (path, settings, row)
            path.unlink(missing_ok=True)
            caption.unlink(missing_ok=True)
    if not wanted:
        return films
    find_backend()
    played = play_episodes(
        {key: role.policy for key, role in roles.items()},
        list(wanted),
        worker_count(config),
        config.step_timeout_s,
        config.attempts,
    )
    with (
        evaluation_mode(role.policy for role in roles.values()),
        closing(played),
        Progress("film rollouts", total=len(wanted), unit="films") as bar,
    ):
        for episode, outcome in played:
            bar.update(1)
            path, settings, row = wanted[episode]
            kind = KINDS[0] if row["success_once"] else KINDS[1]
            if isinstance(outcome, str):
                warnings.warn(f"no film of {episode.policy} ({kind}): {outcome}", stacklevel=2)
                continue
            seen = (outcome.initial_state, outcome.success_once, outcome.first_success, outcome.length)
            if seen != (row["initial_state"], row["success_once"], row["first_success"], row["length"]):
                warnings.warn(
                    f"no film of {episode.policy} ({kind}): episode {episode.number} did not go as in its row",
                    stacklevel=2,
                )
                continue
            assert outcome.frames is not None
            fps = outcome.fps * speed
            held = np.repeat(outcome.frames[-1:], round(HOLD_S * fps), axis=0)
            write_mp4(path, np.concatenate([outcome.frames, held]), fps)
            write_json(path.with_suffix(".json"), settings)
            films[episode.policy, episode.task, kind] = path
    return films
