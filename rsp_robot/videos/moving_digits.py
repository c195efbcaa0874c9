"""Moving digits: films of handwritten digits that drift over a black canvas, made when they are read, never stored.

The data set of stochastic video prediction (Srivastava et al. 2015; Denton and Fergus 2018) with scikit-learn's
digits, which come with the package: nothing is downloaded. Every clip is a pure function of a seed and its number, and
everything that moved it is known, so that a probe can ask features for it.

``bounce``
    straight lines, reflected by the walls: the future follows from two frames.
``stochastic``
    at a wall the new velocity is drawn at random (Franceschi et al. 2020, stochastic Moving MNIST).
``switch``
    the digit runs sideways for three frames and then, at random, goes one of a few ways, always the same ones (the
    switch of VJ-VCR, Drozdov et al. 2024): by default down or up. Nothing in the first frames says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, checked_indices

Motion = Literal["bounce", "stochastic", "switch"]
MOTIONS: tuple[Motion, ...] = get_args(Motion)
Split = Literal["train", "test"]
PREFIX = "digits:"
USUAL_DIGITS = {"bounce": 2, "stochastic": 2, "switch": 1}
DIGIT_SHARE = 28 / 64
"""Side of a digit as a share of the canvas."""
TEST_SHARE = 0.2
"""Share of the handwritten digits that only test clips show."""
FPS = 10.0
"""What the films say their rate is; speeds are in pixels per frame."""
SLOWEST = 0.5
"""Slowest speed of ``switch`` and away from a wall, as a share of the fastest."""

_SPEC = re.compile(
    r"digits:(?P<motion>[a-z]+?)(?::(?P<digits>\d+))?(?::(?P<split>train|test))?"
    r"(?:/(?P<videos>\d+))?(?:x(?P<frames>\d+))?(?:@(?P<size>\d+))?(?:#(?P<seed>\d+))?"
)


class Truth(NamedTuple):
    """What made a clip: ``T`` frames of ``D`` digits."""

    positions: np.ndarray
    """float32 ``(T, D, 2)``: x and y of the centres in pixels from the top left corner."""
    velocities: np.ndarray
    """float32 ``(T, D, 2)``: with which they leave the frame, in pixels per frame."""
    labels: np.ndarray
    """int64 ``(D,)``: which digits they are, 0 to 9."""
    switched: int
    """Which way it went at the switch, 0 to ``directions - 1``; -1 where there is none."""


@dataclass(frozen=True)
class MovingDigits:
    """Clips by number; ``MovingDigits("switch").clip(7)`` is the same film everywhere.

    >>> MovingDigits.parse("digits:switch/2000x15@64#1").spec
    'digits:switch:1/2000x15@64#1'
    """

    motion: Motion = "stochastic"
    """bounce, stochastic or switch."""
    videos: int = 2000
    """Number of clips."""
    frames: int = 20
    """Frames of each."""
    size: int = 64
    """Side of the canvas in pixels; digits are 28/64 of it."""
    digits: int = 0
    """Digits in a clip; by default (0) two, and one where there is a switch."""
    seed: int = 0
    """Decides everything."""
    split: Split = "train"
    """Which handwritten digits are shown: four fifths of them, or (test) the others."""
    max_speed: float = 4.0
    """Fastest motion along an axis in pixels per frame on a canvas of 64."""
    directions: int = 2
    """Ways to go at the switch, evenly around the circle from downwards on."""
    switch_after: int = 3
    """Frames before the switch."""

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise unknown_name("motion", self.motion, MOTIONS)
        if self.split not in get_args(Split):
            raise unknown_name("split", self.split, get_args(Split))
        if not self.digits:
            object.__setattr__(self, "digits", USUAL_DIGITS[self.motion])
        for name, least in (("videos", 1), ("frames", 1), ("size", 16), ("digits", 1), ("seed", 0), ("directions", 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of moving digits must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.max_speed < 64 * (1 - DIGIT_SHARE):
            raise UserError(f"max_speed {self.max_speed:g} must lie in (0, {64 * (1 - DIGIT_SHARE):g}); 4 is usual")
        if self.switch_after < 1:
            raise UserError(f"switch_after must be at least 1, not {self.switch_after}; 3 is usual")

    @classmethod
    def parse(cls, spec: str) -> MovingDigits:
        """Read ``digits:<motion>[:digits][:split][/videos][xframes][@size][#seed]``.

        Raises:
            UserError: it cannot be read, or asks for what there is not.
        """
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise UserError(f"cannot read {spec!r}; write digits:<motion>[:digits][/videos][xframes][@size][#seed]")
        given = {name: text for name, text in match.groupdict().items() if text is not None}
        return cls(**{name: int(text) if text.isdigit() else text for name, text in given.items()})  # type: ignore[arg-type]

    @property
    def spec(self) -> str:
        """What ``--data`` takes; max_speed, directions and switch_after are not in it."""
        split = "" if self.split == "train" else f":{self.split}"
        return f"{PREFIX}{self.motion}:{self.digits}{split}/{self.videos}x{self.frames}@{self.size}#{self.seed}"

    @property
    def side(self) -> int:
        """Side of a digit in pixels."""
        return round(DIGIT_SHARE * self.size)

    def infos(self) -> list[VideoInfo]:
        """Return what is known of each clip, as :func:`rsp_robot.videos.open_videos` lists it.

        Raises:
            UserError: scikit-learn is not installed.
        """
        handwritten(self.side)
        made = VideoInfo(
            format=DigitsFormat.name,
            path=self.spec,
            key="",
            frames=self.frames,
            height=self.size,
            width=self.size,
            fps=FPS,
            task=self.motion,
            detail=asdict(self),
        )
        return [replace(made, key=f"{number:06d}") for number in range(self.videos)]

    # -- one clip ------------------------------------------------------------------------------------------------------

    def clip(self, number: int, frames: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Draw a clip, or some frames of it in any order: uint8 ``(T, size, size, 3)``.

        Raises:
            IndexError: there is no such clip or frame.
            UserError: scikit-learn is not installed.
        """
        made = self._make(number)
        wanted = np.arange(self.frames) if frames is None else checked_indices(frames, self.frames)
        canvas = np.zeros((len(wanted), self.size + 1, self.size + 1), np.uint8)
        pictures = handwritten(self.side).pictures
        for digit, picture in enumerate(made.pictures):
            corners = made.corners[wanted, digit]
            whole = corners.astype(np.int64)
            patches = _shifted(pictures[picture], corners - whole)
            reach = self.side + 1
            for frame, patch, (x, y) in zip(canvas, patches, whole.tolist(), strict=True):
                part = frame[y : y + reach, x : x + reach]
                np.maximum(part, patch, out=part)  # where digits overlap, the brightest counts
        return np.repeat(canvas[:, : self.size, : self.size, None], 3, axis=3)

    def truth(self, number: int) -> Truth:
        """Return what made a clip.

        Raises:
            IndexError: there is no such clip.
            UserError: scikit-learn is not installed.
        """
        made = self._make(number)
        labels = handwritten(self.side).labels[made.pictures]
        positions = (made.corners + self.side / 2).astype(np.float32)
        return Truth(positions, made.velocities.astype(np.float32), labels, made.switched)

    def _make(self, number: int) -> _Made:
        if not 0 <= number < self.videos:
            raise IndexError(f"clip {number} of {self.videos}")
        rng = np.random.default_rng((self.seed, number, get_args(Split).index(self.split)))
        pictures = rng.choice(handwritten(self.side).numbers[self.split], self.digits)
        room, fastest = float(self.size - self.side), self.max_speed * self.size / 64
        if self.motion == "switch":
            return _Made(pictures, *self._switch(rng, room, fastest))
        start = rng.uniform(0, room, (self.digits, 2))
        velocity = rng.uniform(-fastest, fastest, (self.digits, 2))
        if self.motion == "bounce":
            return _Made(pictures, *_reflected(start, velocity, np.arange(self.frames), room), -1)
        return _Made(pictures, *_stochastic(rng, start, velocity, self.frames, room, fastest), -1)

    def _switch(self, rng: np.random.Generator, room: float, fastest: float) -> tuple[np.ndarray, np.ndarray, int]:
        """Draw trajectories ``(T, D, 2)``, velocities and the way to go, which all digits of a clip share."""
        start = np.stack([rng.uniform(0, room, self.digits), rng.uniform(room / 4, 3 * room / 4, self.digits)], axis=1)
        speed = rng.uniform(SLOWEST * fastest, fastest, (self.digits, 1))
        sideways = speed * np.stack([rng.choice([-1.0, 1.0], self.digits), np.zeros(self.digits)], axis=1)
        way = int(rng.integers(self.directions))
        angle = np.pi / 2 + 2 * np.pi * way / self.directions
        onwards = speed * np.array([np.cos(angle), np.sin(angle)])
        before = np.arange(min(self.switch_after, self.frames))
        corners, velocities = _reflected(start, sideways, before, room)
        last = len(before) - 1
        after, leaving = _reflected(corners[last], onwards, np.arange(self.frames - last), room)
        return np.concatenate([corners[:last], after]), np.concatenate([velocities[:last], leaving]), way


class _Made(NamedTuple):
    pictures: np.ndarray
    """``(D,)``: which of the handwritten digits."""
    corners: np.ndarray
    """``(T, D, 2)``: x and y of the top left corners."""
    velocities: np.ndarray
    """``(T, D, 2)``."""
    switched: int


def _reflected(
    start: np.ndarray, velocity: np.ndarray, times: np.ndarray, room: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities ``(T, D, 2)`` between walls at 0 and ``room``: the straight line, folded."""
    unfolded = (start + velocity * times[:, None, None]) % (2 * room)
    return room - np.abs(unfolded - room), np.where(unfolded < room, velocity, -velocity)


def _stochastic(
    rng: np.random.Generator, start: np.ndarray, velocity: np.ndarray, frames: int, room: float, fastest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities ``(T, D, 2)``: a digit that would pass a wall stops at it and leaves at random."""
    positions, velocities = np.empty((2, frames, *start.shape))
    for digit in range(len(start)):
        place, speed = start[digit].tolist(), velocity[digit].tolist()
        for frame in range(frames):
            if frame:
                place = [place[axis] + speed[axis] for axis in (0, 1)]
                outside = [(where >= room) - (where <= 0) for where in place]
                if any(outside):
                    place = [min(max(where, 0.0), room) for where in place]
                    speed = rng.uniform(-fastest, fastest, 2).tolist()
                    for axis in (0, 1):
                        if outside[axis]:
                            speed[axis] = -outside[axis] * max(abs(speed[axis]), SLOWEST * fastest)
            positions[frame, digit], velocities[frame, digit] = place, speed
    return positions, velocities


def _shifted(picture: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Move a picture ``(s, s)`` by parts of a pixel ``(T, 2)`` (x, y), bilinearly: uint8 ``(T, s + 1, s + 1)``."""
    x, y = shifts.astype(np.float32).T[:, :, None, None]
    padded = np.pad(picture, 1)
    across = padded[:, 1:] + x * (padded[:, :-1] - padded[:, 1:])
    return np.rint(across[:, 1:] + y * (across[:, :-1] - across[:, 1:])).astype(np.uint8)


# -- the handwritten digits --------------------------------------------------------------------------------------------


class Handwritten(NamedTuple):
    """scikit-learn's digits (Alpaydin and Kaynak 1998), 1,797 of them."""

    pictures: np.ndarray
    """float32 ``(N, side, side)`` in [0, 255]."""
    labels: np.ndarray
    """int64 ``(N,)``."""
    numbers: Mapping[str, np.ndarray]
    """Which of them each split shows."""


@lru_cache(maxsize=8)
def handwritten(side: int) -> Handwritten:
    """Return the digits, enlarged smoothly from 8x8 to a side in pixels.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "moving digits are made of scikit-learn's, which is not installed; pip install 'rsp-robot[digits]'"
        ) from None
    from PIL import Image

    found = load_digits()
    small = np.asarray(found.images, np.float32) * (255 / 16)
    bicubic = Image.Resampling.BICUBIC
    large = [np.asarray(Image.fromarray(picture).resize((side, side), bicubic)) for picture in small]
    mixed = np.random.default_rng(0).permutation(len(small))
    held_out = round(TEST_SHARE * len(small))
    numbers = {"train": np.sort(mixed[held_out:]), "test": np.sort(mixed[:held_out])}
    return Handwritten(np.clip(np.stack(large), 0, 255), np.asarray(found.target, np.int64), numbers)


class DigitsFormat:
    """Moving digits among the formats of videos; they lie in no file."""

    name: ClassVar[str] = "digits"

    def claims(self, path: Path) -> bool:
        """No: nothing on disk is made of digits."""
        return False

    def inspect(self, path: Path) -> Iterator[VideoInfo | Quarantined]:
        """Refuse."""
        raise UnreadableVideo(f"{path} is no file of moving digits; write --data digits:<motion>")

    def read(self, video: VideoInfo, frames: np.ndarray) -> np.ndarray:
        """Return frames as uint8 ``(K, H, W, 3)``; see :class:`rsp_robot.videos.info.Format`."""
        return _made_of(tuple(video.detail.items())).clip(int(video.key), frames)


@lru_cache(maxsize=64)
def _made_of(settings: tuple[tuple[str, Any], ...]) -> MovingDigits:
    return MovingDigits(**dict(settings))
