"""What ``--data`` says: one place with videos, or several with weights."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

from rsp_robot.errors import UserError
from rsp_robot.videos.moving_digits import PREFIX, MovingDigits


class Part(NamedTuple):
    """One of the places."""

    path: Path
    weight: float | None
    """Its share of the samples, all shares together being 1; None where none was given: every video counts alike."""


def parse_spec(spec: str | os.PathLike[str]) -> tuple[Part, ...]:
    """Read ``PATH``, ``PATH,PATH,...`` or ``PATH=WEIGHT,PATH=WEIGHT,...``; a path that exists as written is one path.

    Moving digits (``digits:<motion>``) stand in the place of a path.

    >>> [(part.path.name, part.weight) for part in parse_spec("kitchen=3,tabletop=1")]
    [('kitchen', 0.75), ('tabletop', 0.25)]

    Raises:
        UserError: a weight is not a positive number, or only some of the places have one.
    """
    text = os.fspath(spec)
    if os.path.exists(text) or ("," not in text and "=" not in text):
        return (Part(Path(text), None),)
    parts = [_part(word.strip()) for word in text.split(",") if word.strip()]
    weights = [part.weight for part in parts if part.weight is not None]
    if not parts:
        raise UserError(f"--data {text!r} names nothing; give a file or a folder")
    if not weights:
        return tuple(parts)
    if len(weights) < len(parts):
        bare = next(part.path for part in parts if part.weight is None)
        raise UserError(f"{bare} has no weight and others have; write {bare}=WEIGHT, or no weight at all")
    return tuple(Part(part.path, weight / sum(weights)) for part, weight in zip(parts, weights, strict=True))


def _part(word: str) -> Part:
    path, equals, weight = word.rpartition("=")
    if not equals or os.path.exists(word):
        return Part(Path(word), None)
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"{word!r} has the weight {weight!r}; give a positive number, for example {path}=0.5")
    return Part(Path(path), number)


def is_digits(path: Path) -> bool:
    """Whether this is no place but moving digits, made on the fly."""
    return str(path).startswith(PREFIX)


def resolved(spec: str | os.PathLike[str]) -> str:
    """Return the same places as absolute paths: what says whether two runs learn from the same data."""
    return ",".join(_resolved(part) for part in parse_spec(spec))


def _resolved(part: Part) -> str:
    digits = is_digits(part.path)
    place = MovingDigits.parse(str(part.path)).spec if digits else str(part.path.resolve())
    return place + ("" if part.weight is None else f"={part.weight:.6g}")
