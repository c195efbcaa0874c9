"""Show what was found on moving digits: the table, the claims, and a picture of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from rsp_robot.experiments.digits.judge import PSNR, RANK, SPEED, SSIM, WAY, Film, Row
from rsp_robot.video_metrics import estimate

TITLES = {
    WAY: "Which way it went at the switch, share right",
    PSNR: "PSNR of the prediction in dB, best of the samples",
    SSIM: "SSIM of the prediction, best of the samples",
    RANK: "How many numbers the embeddings use: RankMe, with their standard deviation",
    SPEED: "The velocity told from three frames, R² on unseen clips; mean square error in (pixels per frame)²",
}
SIDE, LEFT, GUTTER, HEADER, SPACE, MOST_WIDTH = 64, 88, 2, 26, 6, 1340
"""Pixels of the picture: a frame, the labels, around a frame, a title, below a group, all of it across."""
STEP = SIDE + 2 * GUTTER
PREDICTED, GIVEN = (230, 120, 20), (120, 120, 120)
"""Colours of the frames around pictures."""


class Claim(NamedTuple):
    """A comparison of two rows that the literature expects to come out one way."""

    question: str
    better: str
    """Variant that should have the larger number."""
    worse: str
    says: str


CLAIMS = (
    Claim(WAY, "vj-vcr", "vj-vcr-no-latent", "with a latent VJ-VCR tells which way, without one it cannot"),
    Claim(PSNR, "srvp", "srvp-no-noise", "SRVP predicts better than its deterministic version"),
    Claim(RANK, "vj-vcr-features", "vj-vcr-no-variance", "without the variance term the features collapse"),
)


class Judged(NamedTuple):
    """A claim with its two rows."""

    claim: Claim
    better: Row
    worse: Row
    difference: tuple[float, float, float] | None
    """Mean difference clip by clip with its 95 % interval, where the same clips were judged."""
    holds: bool
    """Whether the interval of the difference, or else the two intervals, leave no doubt."""


def judge_claims(rows: Sequence[Row]) -> list[Judged]:
    """Put the rows of every claim side by side; claims of which a row is missing are left out."""
    known = {(row.question, row.variant): row for row in rows}
    found = []
    for claim in CLAIMS:
        better, worse = (known.get((claim.question, name)) for name in (claim.better, claim.worse))
        if better is None or worse is None:
            continue
        difference = None
        holds = better.low > worse.high
        if better.each and len(better.each) == len(worse.each):
            mean, half, _ = estimate(np.subtract(better.each, worse.each))
            difference, holds = (mean, mean - half, mean + half), mean - half > 0
        found.append(Judged(claim, better, worse, difference, holds))
    return found


def print_rows(rows: Sequence[Row], names: Mapping[str, str], console: Console) -> None:
    """Print a table for each question, and the claims."""
    for question, title in TITLES.items():
        chosen = [row for row in rows if row.question == question]
        if not chosen:
            continue
        console.print(f"[bold]{title}[/]")
        table = Table(box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for heading in ("", "95 % interval", "n"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for row in chosen:
            value, low, high = (number(question, value) for value in (row.value, row.low, row.high))
            table.add_row(names.get(row.variant, row.variant), value, f"{low} to {high}", str(row.n), row.of)
        console.print(table, highlight=False)
        console.print()
    for found in judge_claims(rows):
        console.print(claim_line(found), highlight=False, markup=False, soft_wrap=True)


def claim_line(found: Judged) -> str:
    """Say whether a claim holds here, with the numbers."""
    question, one, other = found.claim.question, found.better, found.worse
    text = f"{'holds' if found.holds else 'NOT shown'}: {found.claim.says}"
    text += f" ({number(question, one.value)} against {number(question, other.value)}"
    if found.difference is not None:
        mean, low, high = (number(question, value) for value in found.difference)
        text += f"; clip by clip {mean}, {low} to {high}"
    return text + ")"


def number(question: str, value: float) -> str:
    """A number as the question wants it.

    >>> number("way", 0.975), number("psnr", 17.333), number("ssim", 0.71234), number("rank", 31.26)
    ('97.5 %', '17.33', '0.712', '31.3')
    """
    if question == WAY:
        return f"{100 * value:.1f} %"
    return f"{value:.{ {PSNR: 2, SSIM: 3, RANK: 1}.get(question, 3) }f}"


def draw_films(sections: Mapping[str, Sequence[Sequence[Film]]]) -> np.ndarray:
    """Draw films as rows of frames, uint8 ``(H, W, 3)``: a title for each section, predicted frames framed in orange.

    Args:
        sections: by title, groups of films that belong together; short groups stand side by side.
    """
    lines = {title: _in_lines(groups) for title, groups in sections.items()}
    width = max(sum(map(_width, line)) for found in lines.values() for line in found)
    heights = [len(line[0]) * STEP + SPACE for found in lines.values() for line in found]
    canvas = Image.new("RGB", (width, HEADER * len(lines) + sum(heights)), "white")
    pen, font, y = ImageDraw.Draw(canvas), ImageFont.load_default(14), 0
    for title, found in lines.items():
        pen.text((GUTTER, y + HEADER // 2), title, fill="black", anchor="lm", font=font)
        y += HEADER
        for line in found:
            x = 0
            for group in line:
                _draw_group(canvas, pen, group, x, y)
                x += _width(group)
            y += len(line[0]) * STEP + SPACE
    return np.asarray(canvas)


def _width(group: Sequence[Film]) -> int:
    return LEFT + STEP * max(len(film.frames) for film in group)


def _in_lines(groups: Sequence[Sequence[Film]]) -> list[list[Sequence[Film]]]:
    """Put as many groups side by side as fit."""
    lines: list[list[Sequence[Film]]] = []
    for group in groups:
        if lines and sum(map(_width, lines[-1])) + _width(group) <= MOST_WIDTH:
            lines[-1].append(group)
        else:
            lines.append([group])
    return lines


def _draw_group(canvas: Image.Image, pen: ImageDraw.ImageDraw, group: Sequence[Film], left: int, top: int) -> None:
    font = ImageFont.load_default(14)
    for row, film in enumerate(group):
        y = top + row * STEP
        pen.text((left + LEFT - 8, y + STEP // 2), film.label, fill="black", anchor="rm", font=font)
        for place, frame in enumerate(film.frames):
            x = left + LEFT + place * STEP
            colour = PREDICTED if place >= film.predicted_from else GIVEN
            pen.rectangle((x, y, x + STEP - 1, y + STEP - 1), fill=colour)
            shown = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            canvas.paste(shown, (x + GUTTER, y + GUTTER))
