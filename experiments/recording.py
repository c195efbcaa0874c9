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
from rsp_robot.experiments.evaluate import EvaluateConfig, Row, settle, worker_count
from rsp_robot.experiments.simulation_worker import Episode, Film
from rsp_robot.experiments.workers import play_episodes, sees_state
from rsp_robot.files import read_json, write_json
from rsp_robot.films import write_mp4
from rsp_robot.progress import Progress

if TYPE_CHECKING:
    from rsp_robot.policies.policy import Policy

FRAMES_PER_S = 30.0
HOLD_S = 0.7
KINDS = ("success", "failure")


def choose_episodes(rows: Sequence[Row], policy: str) -> dict[str, Row]:
    """Return a policy's first success and first failure, where there is one: ``{"success": row, "failure": row}``."""
    own = sorted((row for row in rows if row["policy"] == policy and not row["error"]), key=lambda row: row["episode"])
    chosen = {}
    for kind, wanted in zip(KINDS, (True, False), strict=True):
        row = next((row for row in own if row["success_once"] is wanted), None)
        if row is not None:
            chosen[kind] = row
    return chosen


def _caption(row: Row, config: EvaluateConfig) -> dict[str, Any]:
    """Return what is written beside a film; a film with the same caption need not be made again."""
    keys = ("policy", "task", "episode", "seed", "initial_state", "success_once", "first_success", "length")
    return {key: row[key] for key in keys} | {"quality": config.quality}


def record_videos(
    policies: Mapping[str, Policy],
    config: EvaluateConfig,
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    size: int = 240,
    camera: str | None = None,
    speed: float = 0.5,
) -> dict[tuple[str, str], Path]:
    """Play the first success and the first failure of each policy again and film them from a larger picture.

    What the policy sees is as in the evaluation, so the episode is the same; where its outcome is not that of its row,
    the film is left out with a warning. Films are ``<policy>-success.mp4`` and ``<policy>-failure.mp4``, with a
    ``.json`` beside each that says which episode it is; those there already are kept. A film of a kind that the rows do
    not have is removed.

    Args:
        policies: by name, as they were evaluated.
        config: of the evaluation.
        rows: what :func:`~rsp_robot.experiments.evaluate.evaluate` returned.
        folder: for the films.
        size: side of the pictures in pixels.
        camera: which camera films; by default the policy's first, or the task's default for a blind one.
        speed: of the film; 0.5 is half of the simulated time.

    Returns:
        ``{(policy, "success" or "failure"): file}``.
    """
    config = settle(policies, config)
    films: dict[tuple[str, str], Path] = {}
    wanted: dict[Episode, tuple[str, Row]] = {}
    for name, policy in policies.items():
        chosen = choose_episodes(rows, name)
        for kind in KINDS:
            path = Path(folder) / f"{name}-{kind}.mp4"
            caption = path.with_suffix(".json")
            if kind in chosen:
                settings = _caption(chosen[kind], config) | {"size": size, "camera": camera, "speed": speed}
                if path.exists() and caption.exists() and read_json(caption) == settings:
                    films[name, kind] = path
                    continue
                row = chosen[kind]
                film = Film(camera, size, FRAMES_PER_S / speed)
                wanted[Episode(name, row["episode"], row["seed"], tuple(policy.cameras), film, sees_state(policy))] = (
                    kind,
                    row,
                )
            path.unlink(missing_ok=True)
            caption.unlink(missing_ok=True)
    if not wanted:
        return films
    find_backend()
    played = play_episodes(
        policies, list(wanted), config.setup(), worker_count(config), config.step_timeout_s, config.attempts
    )
    with closing(played), Progress("film rollouts", total=len(wanted), unit="films") as bar:
        for episode, outcome in played:
            bar.update(1)
            kind, row = wanted[episode]
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
            path = Path(folder) / f"{episode.policy}-{kind}.mp4"
            fps = outcome.fps * speed
            held = np.repeat(outcome.frames[-1:], round(HOLD_S * fps), axis=0)
            write_mp4(path, np.concatenate([outcome.frames, held]), fps)
            settings = _caption(row, config) | {"size": size, "camera": camera, "speed": speed}
            write_json(path.with_suffix(".json"), settings)
            films[episode.policy, kind] = path
    return films
