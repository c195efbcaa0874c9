"""Stable-Baselines3's algorithms by name, and how ours is set up."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.logger import Logger
from torch import nn

from rsp_robot.errors import UserError, unknown_name
from rsp_robot.policies.rl.config import RLConfig
from rsp_robot.policies.rl.extractor import FrozenEncoderExtractor

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.policies.rl.normaliser import RunningNorm

ALGORITHMS = {
    "ppo": "stable_baselines3:PPO",
    "a2c": "stable_baselines3:A2C",
    "sac": "stable_baselines3:SAC",
    "td3": "stable_baselines3:TD3",
    "ddpg": "stable_baselines3:DDPG",
    "tqc": "sb3_contrib:TQC",
    "crossq": "sb3_contrib:CrossQ",
    "trpo": "sb3_contrib:TRPO",
}
ENTROPY = ("sac", "tqc", "crossq")
OFF_POLICY = ("sac", "td3", "ddpg", "tqc", "crossq")
FLAT = ("crossq",)
"""They take no dictionaries."""
LEARNING_RATES = {"a2c": 7e-4, "ddpg": 1e-3, "crossq": 1e-3}
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}
LARGEST_BUFFER = 1_000_000
A2C_STEPS = 5


def find_algorithm(name: str) -> Any:
    """Import an algorithm's class.

    Raises:
        UserError: unknown, not for continuous actions, or sb3-contrib is not installed.
    """
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    module, _, attribute = ALGORITHMS[name].partition(":")
    if find_spec(module) is None:
        raise UserError(f"algorithm {name} needs sb3-contrib, which is not installed; pip install 'rsp-robot[contrib]'")
    return getattr(import_module(module), attribute)


def activation(config: RLConfig) -> type[nn.Module]:
    """Return the activation between the layers."""
    return ACTIVATIONS[config.activation or ("relu" if config.algorithm in OFF_POLICY else "tanh")]


def entropy(config: RLConfig) -> float | str:
    """Return the entropy coefficient as Stable-Baselines3 takes it.

    Raises:
        UserError: it is neither ``auto``, ``auto_<number>`` nor a number.
    """
    text = config.entropy
    number = text.removeprefix("auto_") if text.startswith("auto_") else text
    try:
        value = None if text == "auto" else float(number)
    except ValueError:
        raise UserError(f"entropy={text!r} is not understood; write auto, auto_0.1 or a number") from None
    if config.algorithm in ENTROPY:
        return text if text.startswith("auto") or value is None else value
    return 0.0 if text.startswith("auto") or value is None else value


def learning_starts(config: RLConfig, cloned: bool = False) -> int:
    """Return how many decisions are taken at random before learning begins."""
    if cloned:
        return 0
    return config.learning_starts if config.learning_starts is not None else min(1000, max(1, config.steps // 10))


def settings(config: RLConfig, more_transitions: int = 0) -> dict[str, Any]:
    """Return the arguments of the algorithm's class.

    Args:
        config: the run.
        more_transitions: room in the replay buffer beside the run's own transitions, for demonstrations.
    """
    name, shared = config.algorithm, {"gamma": config.gamma}
    shared["learning_rate"] = config.lr or LEARNING_RATES.get(name, 3e-4)
    if name in OFF_POLICY:
        room = config.buffer_size or min(config.steps + more_transitions, LARGEST_BUFFER)
        chosen: dict[str, Any] = {
            "buffer_size": max(room, config.n_envs),
            "batch_size": config.batch_size or 256,
            "learning_starts": learning_starts(config),
            "train_freq": config.train_freq,
            "gradient_steps": config.gradient_steps,
        }
        if name != "crossq":  # it has no target networks
            chosen["tau"] = config.tau
        if name in ENTROPY:
            chosen["ent_coef"] = entropy(config)
        return {**shared, **chosen}
    per_env = max(2, config.rollout_steps // config.n_envs)
    if name == "a2c":
        return {**shared, "n_steps": A2C_STEPS, "ent_coef": entropy(config)}
    chosen = {"n_steps": per_env, "gae_lambda": config.gae_lambda}
    if name == "ppo":
        size = min(config.batch_size or 64, per_env * config.n_envs)
        return {**shared, **chosen, "batch_size": size, "n_epochs": config.epochs, "ent_coef": entropy(config)}
    return {**shared, **chosen, "batch_size": min(config.batch_size or 128, per_env * config.n_envs)}


def build(
    config: RLConfig,
    env: VecEnv,
    encoder: FrozenEncoder | None,
    norm: RunningNorm,
    device: str,
    more_transitions: int = 0,
) -> BaseAlgorithm:
    """Set an algorithm up on ``env``.

    Args:
        config: the run.
        env: shows embeddings, or pictures together with ``encoder``.
        encoder: encodes the pictures of the observations; None where they are embeddings already.
        norm: statistics of the features, shared by all networks.
        device: where the networks are.
        more_transitions: see :func:`settings`.
    """
    algorithm = find_algorithm(config.algorithm)
    aliases = algorithm.policy_aliases
    kwargs = settings(config, more_transitions)
    if config.algorithm in ("td3", "ddpg"):
        from stable_baselines3.common.noise import NormalActionNoise

        actions = env.action_space.shape or (1,)
        kwargs["action_noise"] = NormalActionNoise(np.zeros(actions), np.full(actions, config.action_noise))
    model: BaseAlgorithm = algorithm(
        aliases.get("MultiInputPolicy", aliases["MlpPolicy"]),
        env,
        policy_kwargs={
            "net_arch": list(config.hidden),
            "activation_fn": activation(config),
            "features_extractor_class": FrozenEncoderExtractor,
            "features_extractor_kwargs": {"encoder": encoder, "norm": norm},
            "normalize_images": False,
        },
        seed=config.seed,
        device=device,
        verbose=0,
        **kwargs,
    )
    model.set_logger(Logger(None, []))  # its own would leave a folder in the place for temporary files
    return model
