"""The settings of a reinforcement learning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rsp_robot.errors import UserError


@dataclass(frozen=True)
class CloneConfig:
    """How an actor is started from demonstrations before it learns from its own experience."""

    steps: int = 2000
    """Optimiser steps of regression on the demonstrated actions."""
    batch_size: int = 256
    """Rows per step."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    std: float = 0.2
    """Standard deviation of the actions of a stochastic actor when it starts to explore; its own learning takes it from
    there."""
    critic_steps: int = 500
    """Updates of the critic on the demonstrations while the actor is held at what it cloned; off-policy methods
    only. An untrained critic would lead the actor away from what it was shown."""


@dataclass(frozen=True)
class RLConfig:
    """How a policy is trained by reinforcement learning. None leaves a value to the algorithm's own default."""

    algorithm: str = "sac"
    """ppo, sac, td3, a2c or ddpg; with sb3-contrib installed also tqc, crossq and trpo."""
    steps: int = 100_000
    """Decisions of the policy in all environments together. A finished run is continued by asking for more."""
    n_envs: int = 1
    """Environments simulated side by side, each in a process of its own if there are several."""
    action_repeat: int = 1
    """Each decision is held for this many steps of the environment; their rewards are added up."""
    history: int = 1
    """Pictures that a decision sees: the latest, and those of the decisions before."""
    fusion: Literal["concat", "difference"] = "concat"
    """How the embeddings of several pictures are joined."""
    hidden: tuple[int, ...] = (256, 256)
    """Width of each hidden layer, of actor and critic alike."""
    activation: Literal["", "relu", "tanh", "elu", "silu"] = ""
    """Between the layers; empty for the algorithm's own: tanh for ppo, a2c and trpo, relu for the others."""
    lr: float | None = None
    """Learning rate. Ours is 3e-4 but for a2c (7e-4), ddpg (1e-3) and crossq (1e-3)."""
    gamma: float = 0.99
    """Discount of a reward one decision later."""
    batch_size: int | None = None
    """Transitions per update: 256 off-policy, 64 for ppo."""
    buffer_size: int | None = None
    """Transitions that the replay buffer holds; by default all of the run, at most a million."""
    learning_starts: int | None = None
    """Random decisions before the first update; by default 1000, at most a tenth of the run. None of them is random
    where the actor was started from demonstrations."""
    train_freq: int = 1
    """Decisions of each environment between updates; off-policy."""
    gradient_steps: int = -1
    """Updates each time; -1 for as many as there were decisions in all environments."""
    tau: float = 0.005
    """Share of the critic that its slow copy takes over at each update; off-policy."""
    entropy: str = "auto_0.1"
    """Entropy coefficient: auto_<number> (learned, from that start; 0.1 as in DrQ, Kostrikov et al. 2021), auto (from
    1) or a number that stays; sac, tqc, crossq. A number is taken by ppo and a2c as well, where auto means 0."""
    action_noise: float = 0.1
    """Standard deviation of the exploration noise of td3 and ddpg."""
    rollout_steps: int = 2048
    """Decisions in all environments together between updates of ppo and trpo; a2c takes 5 of each environment."""
    epochs: int = 10
    """Passes of ppo over each rollout."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016); ppo and trpo."""
    reward_scale: float = 1.0
    """Factor on the rewards that the learner sees; logged returns are as the task gives them."""
    stop_on_success: bool = False
    """Begin anew after a success in training. The critic takes it for an interruption, not for the end of rewards."""
    replay: Literal["embeddings", "pictures"] = "embeddings"
    """What the replay buffer holds. pictures encodes every minibatch again: slow and large, a reference to measure
    against."""
    half: bool = True
    """Keep embeddings in half precision."""
    clone: CloneConfig = field(default_factory=CloneConfig)
    """Where demonstrations are given."""
    log_every: int = 1000
    """Decisions between two rows of the learning curve."""
    evaluate_every: int = 5000
    """Decisions between two evaluations on held-out episodes; 0 for none."""
    evaluation_episodes: int = 10
    """Held-out episodes of each evaluation, always the same ones."""
    checkpoint_every: int = 10_000
    """Decisions between two checkpoints, replay buffer included."""
    seed: int = 0
    """Seed of the networks, the exploration and the training episodes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<index>."""

    def __post_init__(self) -> None:
        for name in ("steps", "n_envs", "action_repeat", "history", "train_freq", "log_every", "checkpoint_every",
                     "evaluation_episodes", "rollout_steps", "epochs"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range; choose at least 1")
        for name in ("batch_size", "buffer_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range; choose at least 1")
        if any(width < 1 for width in self.hidden):
            raise UserError("every hidden width must be at least 1; correct the settings")
        if self.lr is not None and not self.lr > 0:
            raise UserError(f"lr={self.lr:g} is out of range; choose a positive one")
        if not 0 <= self.gamma <= 1:
            raise UserError(f"gamma={self.gamma:g} is out of range; choose 0 to 1")
        if self.gradient_steps == 0 or self.gradient_steps < -1:
            raise UserError(f"gradient_steps={self.gradient_steps} is out of range; choose at least 1, or -1")
        if self.replay == "pictures" and self.history > 1:
            raise UserError("replay pictures and history above 1 do not go together; use replay embeddings")


UNCHANGING = (
    "algorithm", "n_envs", "action_repeat", "history", "fusion", "hidden", "activation", "lr", "gamma", "batch_size",
    "train_freq", "gradient_steps", "tau", "entropy", "action_noise", "rollout_steps", "epochs", "gae_lambda",
    "reward_scale", "stop_on_success", "replay", "half", "clone", "seed",
)  # fmt: skip
"""Settings that a run cannot be continued without; the others may change (more steps, another device)."""
