"""Environments whose pictures are embeddings of a frozen encoder: one at a time, or a vector of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rsp_robot.errors import UserError
from rsp_robot.policies.rl.embedder import Embedder, join, ordered_keys, picture_keys

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder


def _embedder(
    space: gymnasium.Space[Any],
    encoder: FrozenEncoder | None,
    cameras: Sequence[str] | None,
    vectors: Sequence[str] | None,
    history: int,
    fusion: str,
    half: bool,
) -> Embedder:
    """Return an embedder of what a space holds: by default of all its pictures, and of all its vectors."""
    if not isinstance(space, gymnasium.spaces.Dict):
        raise UserError(f"observations must be a dictionary of pictures and vectors, got {space}")
    pictures = picture_keys(space)
    if cameras is None:
        cameras = pictures if encoder is not None else ()
    if vectors is None:
        vectors = [key for key in space.spaces if key not in pictures]
    return Embedder(encoder, cameras, vectors, history, fusion, half)


class EmbeddingVecEnv(VecEnvWrapper):
    """A vector of environments that shows embeddings instead of pictures.

    A replay buffer then stores a few hundred halves for each picture, and no picture is encoded more than once. Also
    embedded is ``infos[i]["terminal_observation"]``, the last one of an episode; the memory of earlier pictures ends
    with the episode::

        env = EmbeddingVecEnv(DummyVecEnv([make_env]), FrozenEncoder.load("runs/rsp-push"))
        SAC("MultiInputPolicy", env).learn(10_000)
    """

    def __init__(
        self,
        venv: VecEnv,
        encoder: FrozenEncoder | None,
        cameras: Sequence[str] | None = None,
        *,
        vectors: Sequence[str] | None = None,
        history: int = 1,
        fusion: str = "concat",
        half: bool = True,
    ) -> None:
        """Wrap ``venv``; the arguments are those of :class:`~rsp_robot.policies.rl.embedder.Embedder`."""
        self.embedder = _embedder(venv.observation_space, encoder, cameras, vectors, history, fusion, half)
        super().__init__(venv, observation_space=self.embedder.space(venv.observation_space))

    def reset(self) -> VecEnvObs:
        """Begin an episode in each environment."""
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        self.embedder.forget(range(self.num_envs))
        return self.embedder.embed(observations, range(self.num_envs))

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step begun by ``step_async``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        ended = [int(index) for index in np.flatnonzero(dones)]
        if ended:
            last = [infos[index]["terminal_observation"] for index in ended]
            embedded = self.embedder.embed({key: np.stack([row[key] for row in last]) for key in observations}, ended)
            for row, index in enumerate(ended):
                infos[index]["terminal_observation"] = {key: value[row] for key, value in embedded.items()}
            self.embedder.forget(ended)
        return self.embedder.embed(observations, range(self.num_envs)), rewards, dones, infos


class FlatVecEnv(VecEnvWrapper):
    """Shows the parts of embedded observations as one float32 vector, for algorithms that take no dictionaries."""

    def __init__(self, venv: VecEnv) -> None:
        space = venv.observation_space
        assert isinstance(space, gymnasium.spaces.Dict)
        parts = [space.spaces[key] for key in ordered_keys(list(space.spaces))]
        length = sum(int(np.prod(part.shape or ())) for part in parts)
        super().__init__(venv, observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (length,), np.float32))

    def reset(self) -> VecEnvObs:
        """Begin an episode in each environment."""
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        return join(observations)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step begun by ``step_async``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = join(infos[index]["terminal_observation"])
        return join(observations), rewards, dones, infos


class EmbeddingEnv(gymnasium.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """The same for one environment of Gymnasium's."""

    def __init__(
        self,
        env: gymnasium.Env[Any, np.ndarray],
        encoder: FrozenEncoder | None,
        cameras: Sequence[str] | None = None,
        *,
        vectors: Sequence[str] | None = None,
        history: int = 1,
        fusion: str = "concat",
        half: bool = True,
    ) -> None:
        """Wrap ``env``; the arguments are those of :class:`~rsp_robot.policies.rl.embedder.Embedder`."""
        super().__init__(env)
        self.embedder = _embedder(env.observation_space, encoder, cameras, vectors, history, fusion, half)
        self.observation_space = self.embedder.space(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.embedder.forget([0])
        return self._embed(observation), info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._embed(observation), float(reward), terminated, truncated, info

    def _embed(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = self.embedder.embed({key: np.asarray(value)[None] for key, value in observation.items()}, [0])
        return {key: value[0] for key, value in rows.items()}
