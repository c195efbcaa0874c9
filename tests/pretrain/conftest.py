from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.backbones import vit
from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations
from rsp_robot.videos import Group, UnreadableVideo, VideoInfo


class CountingVideos:
    """Videos in memory; the red channel of a frame tells its video, the green one its index."""

    def __init__(
        self,
        lengths: Sequence[int],
        sizes: Sequence[tuple[int, int]] | None = None,
        fps: Sequence[float] | None = None,
        groups: Sequence[tuple[int, float | None]] = (),
        episodes: Sequence[str] | None = None,
    ) -> None:
        sizes = sizes or [(4, 6)] * len(lengths)
        fps = fps or [10.0] * len(lengths)
        episodes = episodes or [f"demo_{number}" for number in range(len(lengths))]
        self.videos = tuple(
            VideoInfo("toy", "toy", str(number), length, *size, fps=rate, episode=episode)
            for number, (length, size, rate, episode) in enumerate(zip(lengths, sizes, fps, episodes, strict=True))
        )
        starts = np.cumsum([0, *(count for count, _ in groups)]).tolist()
        self.groups = tuple(
            Group(f"place {number}", starts[number], starts[number + 1], weight)
            for number, (_, weight) in enumerate(groups)
        ) or (Group("", 0, len(lengths), None),)
        self.quarantined = ()
        self.frames_read = 0
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.videos)

    def summary(self) -> str:
        return f"{len(self)} videos"

    def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
        info = self.videos[video]
        if video in self.broken:
            raise UnreadableVideo(f"video {video} is broken")
        assert all(0 <= frame < info.frames for frame in frames)
        self.frames_read += len(frames)
        pictures = np.zeros((len(frames), info.height, info.width, 3), np.uint8)
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
