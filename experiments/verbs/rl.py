"""``rsp-robot rl``: train a policy by reinforcement learning on a frozen encoder, then measure and film it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rsp_robot.envs.rendering import Quality
from rsp_robot.experiments.rl import NOTHING, train_on_task
from rsp_robot.policies.rl.config import RLConfig


@dataclass(frozen=True)
class RLCommand:
    """What is learnt, through which eyes, and where it goes."""

    task: Annotated[str, tyro.conf.Positional]
    """Task id, for example dmc/reacher-easy."""
    out: Path
    """Run folder to write; the same command again continues what is there."""
    encoder: str = NOTHING
    """Encoder folder, run folder of `rsp-robot pretrain`, timm:<model>, random:<arch> or another that `rsp-robot bc`
    takes; none to learn from proprioception alone, state to learn from the simulator's state."""
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--camera"])] = ()
    """Cameras to look through; empty for the task's default camera."""
    image_size: int = 64
    """Side of the pictures in pixels."""
    quality: Quality = "lean"
    """lean: no multisampling, shadows or reflections. full: the suite's look."""
    horizon: int | None = None
    """Steps of the environment in an episode; the task's own by default."""
    pooling: str = ""
    """Pooling of the encoder; empty for its own."""
    demonstrations: Path | None = None
    """Demonstrations, *.hdf5: the actor first imitates them, and off-policy methods begin with them as experience."""
    episodes: int = 20
    """Episodes of the measurement at the end, on held-out starts; 0 for none."""
    videos: bool = True
    """Film a success and a failure among them."""
    rl: Annotated[RLConfig, tyro.conf.arg(name="")] = field(default_factory=RLConfig)


def rl(command: RLCommand) -> Path:
    """Train, measure and film; return the policy folder.

    Raises:
        UserError: a setting does not fit, or ``out`` holds another run.
    """
    policy = train_on_task(
        command.task,
        command.out,
        command.rl,
        encoder=command.encoder,
        cameras=command.cameras,
        image_size=command.image_size,
        quality=command.quality,
        horizon=command.horizon,
        pooling=command.pooling,
        demonstrations=command.demonstrations,
    )
    if command.episodes:
        measure(policy, command)
    return policy


def measure(policy_folder: Path, command: RLCommand) -> float:
    """Play held-out episodes with the trained policy, film some, and return the success rate."""
    from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate
    from rsp_robot.experiments.evaluation.recording import record_videos
    from rsp_robot.files import read_json
    from rsp_robot.policies.policy import load_policy

    policy = load_policy(policy_folder)
    name = f"{command.rl.algorithm}-{read_json(policy_folder / 'config.json')['steps']}"
    config = EvaluateConfig(
        command.task,
        command.out / "evaluation.jsonl",
        episodes=command.episodes,
        horizon=command.horizon,
        workers=min(command.rl.n_envs, command.episodes),
    )
    rows = evaluate({name: policy}, config)
    played = [row for row in rows if not row["error"]]
    rate = sum(row["success_once"] for row in played) / max(1, len(played))
    print(f"{name}: {rate:.0%} of {len(played)} held-out episodes solved", file=sys.stderr)
    if command.videos:
        record_videos({name: policy}, config, rows, command.out / "media")
    return rate
