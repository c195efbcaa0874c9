"""Pictures and films of the report, embedded as data URIs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsp_robot.experiments.comparison.results import Arm
from rsp_robot.experiments.report.markup import arm_class, note, tag, text

LARGEST_FILE = 24 * 2**20
"""Bytes above which a file is left out: the page should stay easy to open and to send."""
MOST_BYTES = 48 * 2**20
"""Bytes of all films together, for the same reason."""

IMAGINED_LEGEND = (
    "The current frame, the future that followed, its reconstruction from the posterior (which has seen that future), "
    "and samples from the prior (which has not). Where samples differ from one another and look like futures that "
    "could have followed, the latent carries what the current frame alone does not tell."
)
MARKS = {"success": "\u2713", "failure": "\u2715"}
NAME = re.compile(r"(?P<policy>.+)-(?P<outcome>success|failure)")


@dataclass(frozen=True)
class Film:
    """A filmed episode of an arm."""

    path: Path
    arm: str
    task: str
    outcome: str
    """``success`` or ``failure``."""
    details: tuple[str, ...] = ()
    """Which episode it is, in words."""


def data_uri(path: Path, mime: str) -> str | None:
    """The content of ``path`` as a ``data:`` URI; None where the file is missing, empty or very large."""
    if not path.is_file() or not 0 < path.stat().st_size <= LARGEST_FILE:
        return None
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def find_films(folder: Path, policy: str, task: str, arm: str) -> list[Film]:
    """The films of ``policy`` on ``task`` in ``folder``, successes first.

    A file of the same name with the ending ``.json`` says which episode it is (see
    :func:`rsp_robot.experiments.evaluation.recording.record_videos`); what it leaves open is told by the name
    ``<policy>-success.mp4`` or ``<policy>-failure.mp4``.
    """
    films = []
    for path in sorted(folder.glob("*.mp4")):
        match, known = NAME.fullmatch(path.stem), _sidecar(path.with_suffix(".json"))
        outcome = match["outcome"] if match else ""
        if isinstance(known.get("success_once"), bool):
            outcome = "success" if known["success_once"] else "failure"
        whose = known.get("policy", match["policy"] if match else "")
        if outcome and whose == policy and known.get("task", task) == task and data_uri(path, "video/mp4"):
            films.append(Film(path, arm, task, outcome, tuple(_which(known))))
    return sorted(films, key=lambda film: list(MARKS).index(film.outcome))


def _which(sidecar: Mapping[str, Any]) -> list[str]:
    parts = [f"{key} {sidecar[key]}" for key in ("episode", "seed") if isinstance(sidecar.get(key), int)]
    if isinstance(sidecar.get("first_success"), int):
        parts.insert(0, f"after {sidecar['first_success']} steps")
    if isinstance(sidecar.get("speed"), float) and sidecar["speed"] != 1:
        parts.append(f"speed ×{sidecar['speed']:g}")
    return parts


def film_grid(films: Sequence[Film], arms: Sequence[Arm], absences: Mapping[tuple[str, str], str]) -> str:
    """The films arm by arm, with choices of outcome, policy and task that the page's script brings to life.

    Args:
        films: what there is.
        arms: in the order of their colours.
        absences: by arm and outcome, what to say where there is no film of it.
    """
    tasks = list(dict.fromkeys(film.task for film in films))
    shown, left_out = _within_budget(films)
    groups = []
    for index, arm in enumerate(arms):
        cards = [_card(film, arm.label, len(tasks) > 1) for film in shown if film.arm == arm.name]
        outcomes = {film.outcome for film in films if film.arm == arm.name}
        for outcome in MARKS:
            reason = absences.get((arm.name, outcome))
            if reason and outcome not in outcomes:
                cards.insert(0 if outcome == "success" else len(cards), _empty(arm.name, outcome, reason))
        if cards:
            heading = tag("h3", tag("span", class_="dot"), text(arm.label))
            group = tag("div", heading, tag("div", *cards, class_="films"), class_=f"rollout {arm_class(index)}")
            groups.append((len(cards), group))
    narrow = max((count for count, _ in groups), default=0) <= 2
    rest = note(f"{left_out} more films are left out: the page would be too large to send.") if left_out else ""
    grid = tag("div", *(group for _, group in groups), class_="rollouts pairs" if narrow else "rollouts")
    return _choices(shown, arms, tasks) + grid + rest


def _within_budget(films: Sequence[Film]) -> tuple[list[Film], int]:
    shown, bytes_left = [], MOST_BYTES
    for film in films:
        bytes_left -= film.path.stat().st_size
        if bytes_left >= 0:
            shown.append(film)
    return shown, len(films) - len(shown)


def _choices(films: Sequence[Film], arms: Sequence[Arm], tasks: Sequence[str]) -> str:
    """Drop-down lists for what can be chosen; hidden until the script runs."""
    with_films = [(arm.name, arm.label) for arm in arms if any(film.arm == arm.name for film in films)]
    outcomes = [(key, word) for key, word in (("success", "successes"), ("failure", "failures"))
                if any(film.outcome == key for film in films)]  # fmt: skip
    lists = [
        _choice("outcome", "Outcome", outcomes),
        _choice("policy", "Policy", with_films),
        _choice("task", "Task", [(task, task) for task in tasks]),
    ]
    if not any(lists):
        return ""
    count = '<output aria-live="polite"></output>'
    return f'<form class="choices" hidden>{"".join(lists)}{count}</form>'


def _choice(key: str, heading: str, options: Iterable[tuple[str, str]]) -> str:
    listed = list(options)
    if len(listed) < 2:
        return ""
    written = [tag("option", "all", value="")] + [tag("option", text(label), value=name) for name, label in listed]
    return tag("label", text(heading), tag("select", *written, name=key))


def _card(film: Film, label: str, name_task: bool) -> str:
    mark = tag("span", MARKS[film.outcome], class_="mark", aria_hidden="true")
    task = tag("span", text(film.task), class_="task") if name_task else ""
    caption = tag("figcaption", mark, text(", ".join([film.outcome, *film.details])), task)
    spoken = text(f"{label}: rollout that ended in {film.outcome}") + (f", {text(film.task)}" if name_task else "")
    uri = data_uri(film.path, "video/mp4")
    # Boolean attributes are written without a value, as HTML has them.
    video = f'<video src="{uri}" autoplay muted loop playsinline controls aria-label="{spoken}"></video>'
    attributes = {"data_policy": film.arm, "data_task": film.task, "data_outcome": film.outcome}
    return tag("figure", tag("div", video, class_="frame"), caption, class_=f"film {film.outcome}", **attributes)


def _empty(arm: str, outcome: str, reason: str) -> str:
    mark = tag("span", MARKS[outcome], class_="mark", aria_hidden="true")
    frame = tag("div", note(reason), class_="frame empty")
    attributes = {"data_policy": arm, "data_outcome": outcome}
    return tag("figure", frame, tag("figcaption", mark, text(outcome)), class_=f"film {outcome}", **attributes)


def imagined_futures(run: Path) -> str:
    """What ``rsp-robot imagine`` left in ``media/`` of a run folder: a picture, and a film; empty where it did not.

    ``media/imagined.json`` may hold a ``"caption"`` that replaces the general legend.
    """
    uri = data_uri(run / "media" / "imagined.png", "image/png")
    if uri is None:
        return ""
    described = _sidecar(run / "media" / "imagined.json")
    caption = described.get("caption")
    legend = caption if isinstance(caption, str) and caption else IMAGINED_LEGEND
    picture = tag("img", src=uri, alt="Rows of frames: current, true future, reconstruction and imagined samples")
    shown = tag("figure", tag("div", picture, class_="strip"), tag("figcaption", text(legend)), class_="picture")
    moving = data_uri(run / "media" / "imagined.mp4", "video/mp4")
    if moving is None:
        return shown
    spoken = "The same columns while a video runs"
    video = f'<video src="{moving}" autoplay muted loop playsinline controls aria-label="{spoken}"></video>'
    film = tag("figure", tag("div", video, class_="strip"), tag("figcaption", f"{spoken}."), class_="picture")
    return shown + film


def _sidecar(path: Path) -> dict[str, Any]:
    """A JSON mapping beside a picture or film; empty where it is missing or no mapping (it only adds a caption)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
