from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations


class TinyEncoder(nn.Module):
    """Stands in for a FrozenEncoder: mean colour of each quarter of the picture, through a fixed linear map."""

    dim = 6
    embedding_shape = (6,)
    pooling = "mean"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(12, self.dim, generator=generator), requires_grad=False)
        self.passes: list[int] = []
        self.fingerprint = self.weights_checksum()
        self.source: Path | None = None

    def weights_checksum(self) -> str:
        return hashlib.sha256(self.weight.numpy().tobytes()).hexdigest()[:16]

    def forward(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        self.passes.append(len(frames))
        pictures = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255
        return nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1) @ self.weight


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tests' embeddings apart from the user's."""
    monkeypatch.setenv("RSP_ROBOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def make_encoder() -> type[TinyEncoder]:
    return TinyEncoder


def record(seed: int, length: int, cameras: tuple[str, ...], blind_task: bool) -> Demonstration:
    """Actions point from the position (felt) to the goal (seen, as a colour)."""
    rng = np.random.default_rng(seed)
    goal = rng.uniform(-1, 1, 2)
    position = rng.uniform(-1, 1, (length, 2))
    wanted = -position if blind_task else goal - position
    observations: dict[str, np.ndarray] = {"proprio": np.c_[position, np.ones(length)].astype(np.float32)}
    for camera in cameras:
        frames = np.zeros((length, 16, 16, 3), np.uint8)
        frames[..., :2] = (128 + 60 * goal).astype(np.uint8)
        frames[..., 2] = rng.integers(0, 255, (length, 1, 1))
        observations[camera] = frames
    observations["state"] = np.c_[position, np.tile(goal, (length, 1))].astype(np.float32)
    return Demonstration(
        observations=observations,
        actions=(0.4 * wanted + rng.normal(0, 0.01, (length, 2))).astype(np.float32),
        rewards=np.zeros(length, np.float32),
        dones=np.arange(length) == length - 1,
        states=np.zeros((length, 1)),
        seed=seed,
        expert_actions=(0.4 * wanted).astype(np.float32),
    )


@pytest.fixture
def make_data(tmp_path: Path):
    def make(
        name: str = "demos.hdf5", count: int = 20, cameras: tuple[str, ...] = ("front",), blind_task: bool = False,
        versions: dict[str, str] | None = None, first_seed: int = 0, task: str = "toy/reach",
    ) -> Path:  # fmt: skip
        demonstrations = [record(first_seed + seed, 10 + seed % 3, cameras, blind_task) for seed in range(count)]
        info = DemonstrationInfo(
            task=task, cameras=cameras, image_size=16 if cameras else 0, quality="lean", versions=versions or {}
        )
        write_demonstrations(tmp_path / name, demonstrations, info)
        return tmp_path / name

    return make
