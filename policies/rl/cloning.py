"""Starting a learner from demonstrations: the actor imitates them, and they are the first experience it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import content_hash, embed_demonstrations
from rsp_robot.policies.history import fuse, window_rows
from rsp_robot.policies.rl.actor import actor_modules
from rsp_robot.policies.rl.embedder import EMBEDDING, Embedder, join, to_half
from rsp_robot.progress import Progress
from rsp_robot.threads import one_thread

if TYPE_CHECKING:
    from rsp_robot.policies.embedding_cache import EmbeddingCache
    from rsp_robot.policies.rl.config import CloneConfig
    from rsp_robot.policies.rl.normaliser import RunningNorm


@dataclass(frozen=True)
class Transitions:
    """Decisions of a demonstrator as a learner would have stored them."""

    observations: dict[str, np.ndarray]
    """``{key: (N, ...)}``, embedded."""
    next_observations: dict[str, np.ndarray]
    """What each of the first ``M`` of them led to; rows as in :attr:`follows`."""
    follows: np.ndarray
    """int64 ``(M,)``: rows of the decisions after which another one was recorded."""
    actions: np.ndarray
    """float32 ``(N, A)`` in [-1, 1]."""
    rewards: np.ndarray
    """float32 ``(N,)``, scaled."""

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def features(self) -> np.ndarray:
        """The joined observations, float32 ``(N, F)``."""
        return join(self.observations)


def decisions(length: int, repeat: int) -> np.ndarray:
    """Return the steps at which a policy that holds its actions would have decided.

    >>> decisions(5, 2).tolist()
    [0, 2, 4]
    """
    return np.arange(0, length, repeat)


def read_transitions(
    path: str | os.PathLike[str],
    embedder: Embedder,
    action_repeat: int = 1,
    reward_scale: float = 1.0,
    cache: EmbeddingCache | None = None,
) -> Transitions:
    """Read demonstrations the way the learner will see its own experience.

    Where actions are held for several steps, a decision's action is the mean of the demonstrated ones, and its reward
    their sum. The last decision of each demonstration has no successor on record and is not among the transitions.

    Args:
        path: demonstration file.
        embedder: of the learner.
        action_repeat: steps of the environment per decision.
        reward_scale: factor on the rewards.
        cache: of embeddings, see :func:`~rsp_robot.policies.embeddings.embed_demonstrations`.

    Raises:
        UserError: the file lacks a camera or a vector that the learner sees, or a value is not finite.
    """
    rows: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[np.ndarray] = []
    vectors: dict[str, list[np.ndarray]] = {key: [] for key in embedder.vectors}
    with DemonstrationFile(path) as file:
        for camera in embedder.cameras:
            if camera not in file.cameras:
                raise UserError(f"{path} has no camera {camera!r}, only {', '.join(file.cameras)}; collect it again")
        start = 0
        for index in range(len(file)):
            demonstration = file.read(index)
            length = len(demonstration)
            picked = decisions(length, action_repeat)
            rows.append(start + picked)
            actions.append(np.stack([demonstration.actions[i : i + action_repeat].mean(axis=0) for i in picked]))
            rewards.append(np.add.reduceat(demonstration.rewards, picked))
            for key, parts in vectors.items():
                if key not in demonstration.observations:
                    raise UserError(f"{path} holds no obs/{key}, which the policy sees; collect it again with {key}")
                parts.append(demonstration.observations[key][picked])
            start += length
        observations = _embed(file, path, embedder, rows, cache)
    observations |= {key: np.concatenate(parts).astype(np.float32) for key, parts in vectors.items()}
    joined = np.clip(np.concatenate(actions).astype(np.float32), -1.0, 1.0)
    if not (np.isfinite(joined).all() and all(np.isfinite(value).all() for value in observations.values())):
        raise UserError(f"{path} has actions or observations that are not finite; collect it again")
    lengths = np.array([len(part) for part in rows])
    last = np.cumsum(lengths) - 1
    follows = np.setdiff1d(np.arange(int(lengths.sum())), last)
    return Transitions(
        observations,
        {key: value[follows + 1] for key, value in observations.items()},
        follows,
        joined,
        np.concatenate(rewards).astype(np.float32) * np.float32(reward_scale),
    )


def _embed(
    file: DemonstrationFile,
    path: str | os.PathLike[str],
    embedder: Embedder,
    rows: list[np.ndarray],
    cache: EmbeddingCache | None,
) -> dict[str, np.ndarray]:
    """Return the fused embeddings of the rows, as the embedder gives them one step at a time."""
    if embedder.encoder is None:
        return {}
    digest = content_hash(Path(path))
    columns = []
    for camera in embedder.cameras:
        whole = embed_demonstrations(file, digest, embedder.encoder, camera, cache)
        columns.append(whole[np.concatenate(rows)].reshape(sum(map(len, rows)), -1).astype(np.float32))
    pictures = torch.from_numpy(np.stack(columns, axis=1))
    lengths = torch.tensor([len(part) for part in rows])
    last = torch.repeat_interleave(lengths.cumsum(0) - 1, lengths)
    first = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    fused = np.empty((len(pictures), embedder.dim), np.float32)
    for piece in torch.arange(len(pictures)).split(4096):
        windows = pictures[window_rows(piece, first, last, embedder.history - 1, 1)]
        fused[piece.numpy()] = fuse(windows, embedder.history, embedder.fusion).flatten(1).numpy()
    return {EMBEDDING: to_half(fused) if embedder.half else fused}


def clone_actor(model: Any, norm: RunningNorm, transitions: Transitions, config: CloneConfig, seed: int) -> float:
    """Train the actor to give the demonstrated actions; return the mean squared error of the last steps.

    Only the layers of the actor are trained, with an optimiser of their own. The deviation of a stochastic actor is set
    to ``config.std``.
    """
    generator = torch.Generator().manual_seed(seed)
    features, actions = torch.from_numpy(transitions.features), torch.from_numpy(transitions.actions)
    layers = actor_modules(model)
    optimiser = torch.optim.Adam(layers.parameters(), lr=config.lr)
    losses: list[torch.Tensor] = []
    model.policy.set_training_mode(True)
    with one_thread(), Progress("clone", total=config.steps, unit="steps") as bar:
        for step in range(config.steps):
            picked = torch.randint(len(features), (config.batch_size,), generator=generator)
            predicted = layers(norm.apply(features[picked].to(model.device)))
            loss = mse_loss(predicted, actions[picked].to(model.device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses = [*losses[-99:], loss.detach()]
            if (step + 1) % 100 == 0 or step + 1 == config.steps:
                bar.update(step + 1 - bar.done, loss=float(torch.stack(losses).mean()))
    model.policy.set_training_mode(False)
    _set_std(model, config.std)
    if hasattr(model, "actor_target"):
        model.actor_target.load_state_dict(model.actor.state_dict())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def _set_std(model: Any, std: float) -> None:
    """Let a Gaussian actor explore with this deviation (before squashing), whatever it sees."""
    actor = getattr(model.policy, "actor", model.policy)
    log_std = getattr(actor, "log_std", None)
    if isinstance(log_std, torch.nn.Linear):
        log_std.weight.zero_()
        log_std.bias.fill_(float(np.log(std)))
    elif log_std is not None:
        log_std.fill_(float(np.log(std)))


def add_to_buffer(buffer: Any, transitions: Transitions) -> int:
    """Put the transitions into a replay buffer; return how many. Where several environments share it, columns fill up.

    The last column is completed with the first transitions again.
    """
    rows, columns = len(transitions.follows), buffer.n_envs
    order = np.resize(np.arange(rows), -(-rows // columns) * columns)
    infos: list[dict[str, Any]] = [{} for _ in range(columns)]
    for start in range(0, len(order), columns):
        after = order[start : start + columns]
        before = transitions.follows[after]
        seen = {key: value[before] for key, value in transitions.observations.items()}
        following = {key: value[after] for key, value in transitions.next_observations.items()}
        flat = not isinstance(buffer.observations, dict)
        buffer.add(
            join(seen) if flat else seen,
            join(following) if flat else following,
            transitions.actions[before],
            transitions.rewards[before],
            np.zeros(columns, np.float32),
            infos,
        )
    return len(order)


def train_critic(model: Any, steps: int) -> None:
    """Update the critic on what the buffer holds, and give the actor its weights back afterwards."""
    actor = {name: value.clone() for name, value in model.actor.state_dict().items()}
    optimiser = model.actor.optimizer
    with one_thread(), Progress("critic", total=steps, unit="updates") as bar:
        for start in range(0, steps, 50):
            count = min(50, steps - start)
            model.train(gradient_steps=count, batch_size=model.batch_size)
            model.actor.load_state_dict(actor)
            bar.update(count)
    optimiser.state.clear()
    if hasattr(model, "actor_target"):
        model.actor_target.load_state_dict(actor)
