"""Parts of ``rsp-robot bench policy``: cloning and SAC, with embeddings that are kept and with pictures."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rsp_robot.demonstrations import Demonstration, DemonstrationFile, DemonstrationInfo, write_demonstrations
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.bench.measure import seconds, synchronise
from rsp_robot.policies.bc_config import BCConfig
from rsp_robot.policies.bc_data import assemble, read_frames
from rsp_robot.policies.bc_data import measure as measure_scalings
from rsp_robot.policies.behaviour_cloning import make_network
from rsp_robot.policies.embedding_cache import EmbeddingCache
from rsp_robot.policies.embeddings import content_hash, embed_demonstrations
from rsp_robot.policies.episodes import read_recording
from rsp_robot.policies.fitting import fit
from rsp_robot.policies.network import PolicyNetwork
from rsp_robot.policies.rl.algorithms import build
from rsp_robot.policies.rl.config import RLConfig
from rsp_robot.policies.rl.embedding_env import EmbeddingVecEnv
from rsp_robot.policies.rl.extractor import FrozenEncoderExtractor
from rsp_robot.policies.rl.normaliser import RunningNorm
from rsp_robot.policies.sight import FROZEN, Sight
from rsp_robot.threads import one_thread

CAMERA = "camera"
PROPRIO, ACTIONS, EPISODE = 4, 4, 64
EMBEDDINGS_PER_PICTURES = 10
"""Steps of SAC with embeddings that are timed for each one with pictures."""


@dataclass(frozen=True)
class Cloning:
    """Behaviour cloning on the same data and batches, one thread each."""

    cached: float
    """Seconds from demonstrations to a policy with an empty cache: every picture is encoded once."""
    kept: float
    """The same when the embeddings are in the cache already."""
    reencoded: float
    """Seconds when every batch is encoded anew."""
    epochs: int
    encoded: tuple[int, int]
    """Pictures encoded with the cache and without."""
    apart: float
    """Largest difference of the two policies' weights, relative to the largest weight: the same was learned."""

    @property
    def speed_up(self) -> float:
        """How many times faster it is with the cache, which begins empty."""
        return self.reencoded / self.cached


@dataclass(frozen=True)
class Learning:
    """SAC with embeddings in its replay buffer, and with pictures that are encoded in every update."""

    embeddings: tuple[float, ...]
    """Seconds per step with its update."""
    pictures: tuple[float, ...]
    """The same."""
    embeddings_bytes: float
    """Bytes of the replay buffer per transition."""
    pictures_bytes: float
    """The same."""

    @property
    def speed_up(self) -> float:
        """How many times more steps per second, by the medians."""
        return median(self.pictures) / median(self.embeddings)

    @property
    def share_of_bytes(self) -> float:
        """Bytes per transition as a share of those with pictures."""
        return self.embeddings_bytes / self.pictures_bytes


def measure_cloning(
    encoder: FrozenEncoder, scene: np.ndarray, epochs: int, batch: int, device: torch.device
) -> Cloning:
    """Clone the same demonstrations from kept embeddings and from pictures.

    Args:
        encoder: the frozen encoder.
        scene: the pictures, uint8 ``(N, H, W, 3)``.
        epochs: passes over them.
        batch: pictures per minibatch.
        device: where to train.
    """
    steps = max(1, epochs * len(scene) // batch)
    config = BCConfig(steps=steps, batch_size=batch, log_every=steps, device=str(device))
    with tempfile.TemporaryDirectory(prefix="rsp-bench-") as folder:
        data = _write_scene(Path(folder) / "scene.hdf5", scene)
        cache = EmbeddingCache(Path(folder) / "cache", limit_bytes=2**62)
        made: dict[str, PolicyNetwork] = {}

        def run(name: str, kept_in: EmbeddingCache | None) -> float:
            def work() -> None:
                made[name] = clone(data, encoder, config, kept_in, device)

            return seconds(work, device)

        cached, kept = run("cached", cache), run("kept", cache)
        reencoded = run("reencoded", None)
    weights = [
        torch.cat([p.detach().flatten() for p in made[name].head.parameters()]) for name in ("kept", "reencoded")
    ]
    apart = float((weights[0] - weights[1]).abs().max() / weights[0].abs().max())
    return Cloning(cached, kept, reencoded, epochs, (len(scene), steps * batch), apart)


def clone(
    data: Path, encoder: FrozenEncoder, config: BCConfig, cache: EmbeddingCache | None, device: torch.device
) -> PolicyNetwork:
    """Train a policy from the cache, or without one on pictures that are encoded in every batch."""
    sight = Sight(FROZEN, encoder, augmented=cache is None)
    with DemonstrationFile(data) as file:
        files = [file]
        recording = read_recording(files, config.labels)
        generator = torch.Generator().manual_seed(config.seed)
        network = make_network(recording, 1, sight, config, generator)
        if cache is None:
            pictures = read_frames(files, [CAMERA])
        else:
            pictures = [[embed_demonstrations(file, content_hash(data), encoder, CAMERA, cache, threads=1)]]
        scalings = measure_scalings(files, recording, config.normalise_actions)
        live = sight.live or len(network.shape.embedding) > 1
        found = assemble(files, recording, scalings, pictures, live=live)
    nothing = torch.zeros(0, dtype=torch.int64)  # validation would encode pictures besides
    every = torch.cat([found.train, found.valid]).sort().values
    fit(network.to(device), replace(found, train=every, valid=nothing).to(device), config, generator, title="clone")
    return network


def _write_scene(path: Path, scene: np.ndarray) -> Path:
    rng = np.random.default_rng(1)
    demonstrations = []
    for frames in np.split(scene, range(EPISODE, len(scene), EPISODE)):
        length = len(frames)
        demonstrations.append(
            Demonstration(
                observations={"proprio": rng.normal(size=(length, PROPRIO)).astype(np.float32), CAMERA: frames},
                actions=rng.uniform(-1, 1, (length, ACTIONS)).astype(np.float32),
                rewards=np.zeros(length, np.float32),
                dones=np.arange(length) == length - 1,
                states=np.zeros((length, 0)),
            )
        )
    write_demonstrations(path, demonstrations, DemonstrationInfo(cameras=(CAMERA,), image_size=scene.shape[1]))
    return path


class Pictures(gymnasium.Env[Any, np.ndarray]):
    """An environment that costs almost nothing: noise to look at, no way to succeed."""

    def __init__(self, side: int) -> None:
        box = gymnasium.spaces.Box
        self.observation_space = gymnasium.spaces.Dict(
            {
                CAMERA: box(0, 255, (side, side, 3), np.uint8),
                "proprio": box(-np.inf, np.inf, (PROPRIO,), np.float32),
            }
        )
        self.action_space = box(-1, 1, (ACTIONS,), np.float32)
        self._rng = np.random.default_rng(0)
        self._side, self._steps = side, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode."""
        self._steps = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Any:
        """Advance by one action."""
        self._steps += 1
        return self._observe(), float(-np.square(action).mean()), False, self._steps >= EPISODE, {}

    def _observe(self) -> dict[str, np.ndarray]:
        frame = self._rng.integers(0, 256, (self._side, self._side, 3), np.uint8)
        return {CAMERA: frame, "proprio": self._rng.normal(size=PROPRIO).astype(np.float32)}


class _Clock(BaseCallback):
    """Notes when each step was taken."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.times: list[float] = []

    def _on_step(self) -> bool:
        synchronise(self.device)
        self.times.append(time.perf_counter())
        return True


def measure_learning(encoder: FrozenEncoder, picture: int, steps: int, batch: int, device: torch.device) -> Learning:
    """Time SAC with one update per step, pictures against embeddings.

    Args:
        encoder: the frozen encoder.
        picture: side of the pictures in pixels.
        steps: timed with pictures; ten times as many with embeddings.
        batch: transitions per update.
        device: where to learn.
    """
    made = DummyVecEnv([lambda: Pictures(picture)])
    pictures = _run_sac(made, encoder, "pictures", steps, batch, device)
    made = DummyVecEnv([lambda: Pictures(picture)])
    embeddings = _run_sac(
        EmbeddingVecEnv(made, encoder), encoder, "embeddings", steps * EMBEDDINGS_PER_PICTURES, batch, device
    )
    return Learning(embeddings[0], pictures[0], embeddings[1], pictures[1])


def _run_sac(
    env: VecEnv, encoder: FrozenEncoder, replay: Any, steps: int, batch: int, device: torch.device
) -> tuple[tuple[float, ...], float]:
    """Fill the buffer with a batch, then return the seconds of each further step, and the bytes per transition."""
    first = batch + 2  # the first updates warm up
    config = RLConfig(
        steps=first + steps, replay=replay, batch_size=batch, learning_starts=batch, buffer_size=first + steps
    )
    inside = encoder if replay == "pictures" else None
    space: Any = env.observation_space
    norm = RunningNorm(FrozenEncoderExtractor(space, inside).features_dim, device)
    model: Any = build(config, env, inside, norm, str(device))
    clock = _Clock(device)
    never: Any = None
    with one_thread():
        model.learn(first + steps + 1, callback=clock, log_interval=never)
    spent = tuple(float(value) for value in np.diff(clock.times[first:]))
    env.close()
    return spent, _buffer_bytes(model.replay_buffer) / model.replay_buffer.buffer_size


def _buffer_bytes(buffer: Any) -> int:
    """Bytes of all arrays of a replay buffer."""
    held = 0
    for value in vars(buffer).values():
        arrays = value.values() if isinstance(value, dict) else [value]
        held += sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
    return held
