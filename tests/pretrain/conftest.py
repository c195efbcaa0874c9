from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.backbones import vit
from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations


class CountingVideos:
    """Videos in memory; the red channel of a frame tells its video, the green one its index."""

    def __init__(self, lengths: Sequence[int], sizes: Sequence[tuple[int, int]] | None = None) -> None:
        self.lengths = list(lengths)
        self.sizes = list(sizes or [(4, 6)] * len(self.lengths))
        self.frames_read = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def length(self, video: int) -> int:
        return self.lengths[video]

    def fps(self, video: int) -> float:
        return 10.0

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        assert all(0 <= frame < self.lengths[video] for frame in frames)
        self.frames_read += len(frames)
        pictures = np.zeros((len(frames), *self.sizes[video], 3), np.uint8)
        pictures[..., 0] = video
        pictures[..., 1] = np.asarray(frames, np.uint8)[:, None, None]
        return pictures


@pytest.fixture
def make_videos() -> type[CountingVideos]:
    return CountingVideos


@pytest.fixture
def toy_arch(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an architecture that trains in milliseconds."""
    monkeypatch.setitem(vit.VARIANTS, "vit-toy", {"width": 16, "depth": 1, "heads": 2})
    return "vit-toy"


@pytest.fixture
def make_demonstrations(tmp_path: Path) -> Callable[..., Path]:
    """Write demonstrations of a bright square that moves over noise, 16 pixels a side."""

    def make(lengths: Sequence[int] = (9, 12, 14), name: str = "demos.hdf5") -> Path:
        rng = np.random.default_rng(0)
        demonstrations = []
        for seed, length in enumerate(lengths):
            frames = rng.integers(0, 120, (length, 16, 16, 3), dtype=np.uint8)
            for t in range(length):
                frames[t, 2 + seed : 7 + seed, t % 11 : t % 11 + 5] = (250, 200, 40 * seed)
            demonstrations.append(
                Demonstration(
                    observations={"front": frames, "proprio": np.zeros((length, 2), np.float32)},
                    actions=np.zeros((length, 2), np.float32),
                    rewards=np.zeros(length, np.float32),
                    dones=np.arange(length) == length - 1,
                    states=np.zeros((length, 1)),
                    seed=seed,
                )
            )
        info = DemonstrationInfo(task="toy/slide", cameras=("front",), image_size=16, quality="lean")
        write_demonstrations(tmp_path / name, demonstrations, info)
        return tmp_path / name

    return make
