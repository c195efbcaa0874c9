"""One reinforcement learning run: from environments and an encoder to a policy folder, resumable at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from rsp_robot.devices import pick_device
from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import content_hash
from rsp_robot.policies.frozenness import FrozenGuard
from rsp_robot.policies.own_encoder import locate
from rsp_robot.policies.policy import save_policy_folder
from rsp_robot.policies.rl.actor import actor_modules, export_layers
from rsp_robot.policies.rl.algorithms import FLAT, OFF_POLICY, build, find_algorithm, learning_starts
from rsp_robot.policies.rl.callback import Recorder
from rsp_robot.policies.rl.checkpoint import checkpoint_steps, latest_checkpoint, load_checkpoint
from rsp_robot.policies.rl.cloning import Transitions, add_to_buffer, clone_actor, read_transitions, train_critic
from rsp_robot.policies.rl.config import UNCHANGING, RLConfig
from rsp_robot.policies.rl.embedder import Embedder
from rsp_robot.policies.rl.embedding_env import EmbeddingVecEnv, FlatVecEnv
from rsp_robot.policies.rl.extractor import FrozenEncoderExtractor
from rsp_robot.policies.rl.normaliser import RunningNorm
from rsp_robot.policies.rl.rl_policy import KIND
from rsp_robot.progress import Progress
from rsp_robot.run_folder import RunFolder

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.policies.embedding_cache import EmbeddingCache


@dataclass(frozen=True)
class TaskFacts:
    """What a policy remembers of where it was trained."""

    task: str = ""
    """Task id."""
    image_size: int | None = None
    """Side of the pictures in pixels."""
    quality: str | None = None
    """Rendering quality."""
    horizon: int | None = None
    """Steps of the environment in an episode."""
    simulators: Mapping[str, str] = field(default_factory=dict)
    """Versions of the simulators."""


def train_rl(
    environments: Callable[[], VecEnv],
    out: str | os.PathLike[str],
    config: RLConfig | None = None,
    *,
    encoder: FrozenEncoder | None = None,
    cameras: tuple[str, ...] = (),
    vectors: tuple[str, ...] = ("proprio",),
    evaluation: Callable[[], VecEnv] | None = None,
    demonstrations: str | os.PathLike[str] | None = None,
    facts: TaskFacts | None = None,
    encoder_source: str | os.PathLike[str] | None = None,
    cache: EmbeddingCache | None = None,
    resume: bool = True,
) -> Path:
    """Train a policy and write its folder.

    The same call continues a run that was killed, from its latest checkpoint with the replay buffer as it was; a
    finished run is returned at once, and goes on where more steps are asked for. On one machine the same settings give
    the same policy; a run that was continued differs, as its environments begin new episodes.

    Args:
        environments: makes the environments to learn in: dictionaries of pictures and vectors, actions in [-1, 1],
            episodes reported as :class:`~rsp_robot.policies.rl.episodes.EpisodeWrapper` does, which also has to hold
            the actions where ``config.action_repeat`` says so.
        out: the run folder.
        config: the run.
        encoder: the frozen encoder; None to learn from vectors alone.
        cameras: keys of the pictures that it encodes, in order; with an encoder at least one.
        vectors: keys of the other parts that the policy sees: ``proprio``, ``state``, both or none.
        evaluation: makes the environments of evaluations.
        demonstrations: file to start from: the actor first imitates it, and off-policy methods have it as experience.
        facts: of the task, for the policy's folder.
        encoder_source: where the encoder can be loaded from; by default the encoder's own attribute ``source``.
        cache: of the demonstrations' embeddings; the user's own by default.
        resume: go on with ``out`` where it holds this run.

    Returns:
        the policy folder, ``<out>/policy``.

    Raises:
        UserError: a setting that does not fit, a folder with another run, demonstrations that lack what the policy
            sees, a learner that diverged.
        RuntimeError: the encoder's weights changed meanwhile.
    """
    config, facts, folder = config or RLConfig(), facts or TaskFacts(), Path(out)
    find_algorithm(config.algorithm)
    embedder = Embedder(encoder, cameras, vectors, config.history, config.fusion, config.half)
    if config.replay == "pictures" and (encoder is None or demonstrations is not None or config.algorithm in FLAT):
        raise UserError(
            f"replay pictures needs an encoder, no demonstrations and another algorithm than {', '.join(FLAT)}; use "
            "replay embeddings"
        )
    if config.replay == "pictures":
        cameras = tuple(sorted(cameras))  # the order in which the networks join them
    fingerprint = None if encoder is None else encoder.fingerprint
    settings = {key: value for key, value in asdict(config).items() if key in UNCHANGING}
    settings |= {"task": facts.task, "horizon": facts.horizon, "image_size": facts.image_size, "quality": facts.quality}
    settings |= {"cameras": list(cameras), "vectors": list(vectors), "encoder": fingerprint or "none"}
    settings["demonstrations"] = None if demonstrations is None else content_hash(demonstrations)
    run = RunFolder.open(folder, settings, resume=resume)
    policy_folder = folder / "policy"
    checkpoint = latest_checkpoint(run.checkpoints)
    finished = (policy_folder / "config.json").is_file() and checkpoint_steps(checkpoint) >= config.steps
    if finished:
        return policy_folder
    guard = None if encoder is None else FrozenGuard(encoder)
    shown = None
    if demonstrations is not None:
        shown = read_transitions(demonstrations, embedder, config.action_repeat, config.reward_scale, cache)
    device = pick_device(config.device)
    env = environments()
    spaces: Any = getattr(env.observation_space, "spaces", {})
    env = _embedded(env, embedder, config)
    recorder: Recorder | None = None
    try:
        model, norm = _set_up(config, env, encoder, device, 0 if shown is None else len(shown))
        held: dict[str, Any] = {}
        if checkpoint is not None:
            held = load_checkpoint(checkpoint, model, norm)
            # Not from the first seed: the episodes played already would be played again.
            env.seed(config.seed + 1_000_003 * (1 + held.get("resumed", 0)))
            held["resumed"] = held.get("resumed", 0) + 1
        if shown is not None:
            model.learning_starts = learning_starts(config, cloned=True)
            if checkpoint is None:
                held["clone_loss"] = _start_from(shown, model, norm, config)
        run.forget_after(model.num_timesteps if checkpoint is not None else -1)
        with Progress(f"{config.algorithm} {folder.name}", config.steps, "steps", model.num_timesteps) as bar:
            made = None if evaluation is None else lambda: _embedded(evaluation(), embedder, config)
            recorder = Recorder(config, run, norm, bar, made if config.evaluate_every else None, held)
            if config.steps > model.num_timesteps:
                _learn(model, config.steps - model.num_timesteps, recorder)
            final = recorder.finish()
    finally:
        if recorder is not None:
            recorder.close()
        env.close()
        run.close()
    frozen = {} if guard is None else guard.check()
    kinds, layers = export_layers(actor_modules(model))
    description = {
        "kind": KIND,
        "algorithm": config.algorithm,
        "steps": int(model.num_timesteps),
        "task": facts.task,
        "cameras": list(cameras),
        "image_size": facts.image_size if cameras else None,
        "quality": facts.quality if cameras else None,
        "simulators": dict(facts.simulators),
        "encoder": _describe_encoder(encoder, encoder_source, policy_folder, frozen),
        "head": {
            "layers": kinds,
            "vectors": list(vectors),
            "widths": [spaces[key].shape[0] for key in vectors],
            "history": config.history,
            "fusion": config.fusion,
            "half": config.half and config.replay == "embeddings",
            "action_repeat": config.action_repeat,
        },
        "evaluation": final,
        "training": {**settings, **asdict(config)},
    }
    tensors = {f"actor.{name}": value for name, value in layers.items()}
    tensors |= {"norm.mean": norm.applied_mean, "norm.std": norm.applied_std}
    return save_policy_folder(policy_folder, description, tensors)


def _embedded(venv: VecEnv, embedder: Embedder, config: RLConfig) -> VecEnv:
    """Return the environments as the learner is to see them."""
    if config.replay == "pictures":
        wanted, shown = {*embedder.cameras, *embedder.vectors}, set(getattr(venv.observation_space, "spaces", {}))
        if wanted != shown:
            raise UserError(
                f"replay pictures takes all that the environments show ({', '.join(sorted(shown))}), the policy is to "
                f"see {', '.join(sorted(wanted))}; use replay embeddings"
            )
        return venv
    embedded = EmbeddingVecEnv(
        venv, embedder.encoder, embedder.cameras, vectors=embedder.vectors, history=embedder.history,
        fusion=embedder.fusion, half=embedder.half,
    )  # fmt: skip
    return FlatVecEnv(embedded) if config.algorithm in FLAT else embedded


def _set_up(
    config: RLConfig, env: VecEnv, encoder: FrozenEncoder | None, device: torch.device, more_transitions: int
) -> tuple[Any, RunningNorm]:
    """Build the learner, and the statistics that all its networks use."""
    if env.num_envs != config.n_envs:
        raise UserError(f"n_envs={config.n_envs} but {env.num_envs} environments were made; make the two agree")
    actions: Any = env.action_space
    if not (hasattr(actions, "low") and np.all(actions.low == -1) and np.all(actions.high == 1)):
        raise UserError(f"actions must lie in [-1, 1], the environment takes {actions}; rescale them")
    inside = encoder if config.replay == "pictures" else None
    space: Any = env.observation_space
    norm = RunningNorm(FrozenEncoderExtractor(space, inside).features_dim, device)
    return build(config, env, inside, norm, str(device), more_transitions), norm


def _learn(model: Any, steps: int, recorder: Recorder) -> None:
    """Take ``steps`` more decisions, counted on from those before."""
    never: Any = None
    model.learn(steps, callback=recorder, log_interval=never, reset_num_timesteps=False)


def _start_from(shown: Transitions, model: Any, norm: RunningNorm, config: RLConfig) -> float:
    """Clone the actor and fill the buffer from demonstrations; return the cloning error."""
    norm.update(shown.features)
    norm.publish()
    loss = clone_actor(model, norm, shown, config.clone, config.seed)
    if config.algorithm in OFF_POLICY:
        add_to_buffer(model.replay_buffer, shown)
        if config.clone.critic_steps:
            train_critic(model, config.clone.critic_steps)
    return loss


def _describe_encoder(
    encoder: FrozenEncoder | None, given: str | os.PathLike[str] | None, policy: Path, frozen: Mapping[str, str]
) -> dict[str, Any] | None:
    """Say which encoder the policy looks through, where it is, and that it was not changed."""
    if encoder is None:
        return None
    source = given if given is not None else getattr(encoder, "source", None)
    return {
        "fingerprint": encoder.fingerprint,
        "dim": int(encoder.dim),
        "pooling": getattr(encoder, "pooling", None),
        "source": locate(source, policy),
        **frozen,
    }
