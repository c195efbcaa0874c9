"""Pictures and videos of the report, embedded as data URIs; a calm note where one is missing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from rsp_robot.experiments.report.markup import arm_class, note, tag, text
from rsp_robot.experiments.results import Arm, ArmSummary, Results

LARGEST_FILE = 24 * 2**20
"""Bytes above which a file is left out: the page should stay easy to open and to send."""

IMAGINED_LEGEND = (
    "The current frame, the future that followed, its reconstruction from the posterior (which has seen that future), "
    "and samples from the prior (which has not). Where samples differ from one another and look like futures that "
    "could have followed, the latent carries what the current frame alone does not tell."
)


def data_uri(path: Path, mime: str) -> str | None:
    """The content of ``path`` as a ``data:`` URI; None where the file is missing, empty or very large."""
    if not path.is_file() or not 0 < path.stat().st_size <= LARGEST_FILE:
        return None
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def imagined_futures(pretrain_folder: Path) -> str:
    """The picture of imagined futures that pretraining left in ``media/imagined.png``.

    ``media/imagined.json`` may hold a ``"caption"`` that replaces the general legend.
    """
    uri = data_uri(pretrain_folder / "media" / "imagined.png", "image/png")
    if uri is None:
        return note("No picture of imagined futures was made in this run.")
    described = _sidecar(pretrain_folder / "media" / "imagined.json").get("caption")
    legend = described if isinstance(described, str) and described else IMAGINED_LEGEND
    picture = tag("img", src=uri, alt="Rows of frames: current, true future, reconstruction and imagined samples")
    return tag("figure", picture, tag("figcaption", text(legend)), class_="picture")


def rollout_videos(run_folder: Path, results: Results) -> str:
    """A success and a failure of every arm, from ``media/<arm>-success.mp4`` and ``media/<arm>-failure.mp4``.

    A file of the same name with the ending ``.json`` says which episode it is (see
    :func:`rsp_robot.experiments.recording.record_videos`); its episode, seed, first success and speed are shown.
    """
    groups = []
    for index, (arm, summary) in enumerate(zip(results.arms, results.summary.arms, strict=True)):
        heading = tag("h3", tag("span", class_="dot"), text(arm.label))
        videos = [_video(run_folder, arm, outcome, _absence(summary, outcome)) for outcome in ("success", "failure")]
        groups.append(tag("div", heading, tag("div", *videos, class_="pair"), class_=f"rollout {arm_class(index)}"))
    return tag("div", *groups, class_="rollouts")


def _video(run_folder: Path, arm: Arm, outcome: str, absence: str) -> str:
    path = run_folder / "media" / f"{arm.name}-{outcome}.mp4"
    uri = data_uri(path, "video/mp4")
    mark = tag("span", {"success": "\u2713", "failure": "\u2715"}[outcome], class_="mark", aria_hidden="true")
    caption = tag("figcaption", mark, text(", ".join([outcome, *_which(path)])))
    if uri is None:
        return tag("figure", tag("div", note(absence), class_="frame empty"), caption, class_=outcome)
    # Boolean attributes are written without a value, as HTML has them.
    video = (
        f'<video src="{uri}" autoplay muted loop playsinline controls '
        f'aria-label="{text(arm.label)}: rollout that ended in {outcome}"></video>'
    )
    return tag("figure", tag("div", video, class_="frame"), caption, class_=outcome)


def _absence(summary: ArmSummary, outcome: str) -> str:
    count = summary.successes if outcome == "success" else summary.episodes - summary.successes
    if count == 0:
        return f"No {outcome} in {summary.episodes} episodes."
    return f"No video of a {outcome} was recorded."


def _which(video: Path) -> list[str]:
    sidecar = _sidecar(video.with_suffix(".json"))
    parts = [f"{key} {sidecar[key]}" for key in ("episode", "seed") if isinstance(sidecar.get(key), int)]
    if isinstance(sidecar.get("first_success"), int):
        parts.insert(0, f"after {sidecar['first_success']} steps")
    if isinstance(sidecar.get("speed"), float) and sidecar["speed"] != 1:
        parts.append(f"speed ×{sidecar['speed']:g}")
    return parts


def _sidecar(path: Path) -> dict[str, Any]:
    """A JSON mapping beside a picture or video; empty where it is missing or no mapping (it only adds a caption)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
