"""What the tests of suites share: demonstrations of the toy suite, and a protocol that takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy_suite import SUITE

from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations
from rsp_robot.experiments.protocols import Protocol, ProtocolTask
from rsp_robot.experiments.suite.run import SuiteConfig

HORIZON = 8
PROTOCOL = Protocol(
    name="toy",
    tasks=(ProtocolTask("toy/reach", horizon=HORIZON),),
    cameras=("front",),
    image_size=16,
    demonstrations=36,
    episodes=4,
    seeds=(0, 1),
    score="end",
    headline="maximum",
    normalise_actions="none",
    batch_size=32,
    epochs=30,
    evaluate_every=10,
)


def demonstrate(folder: Path, *tasks: str, count: int = 40) -> Path:
    """Write demonstrations of someone who knows where the goal is; return the folder."""
    for task in tasks or ("reach",):
        env = SUITE.make("reach", ("front",), 16, "lean", HORIZON)
        env.show_state()
        recorded = []
        for seed in range(count):
            observation, _ = env.reset(seed=seed)
            seen, actions = [], []
            for _ in range(HORIZON):
                seen.append(observation)
                actions.append(np.clip((env.goal - env.position) * 2, -1, 1).astype(np.float32))
                observation, *_ = env.step(actions[-1])
            recorded.append(
                Demonstration(
                    observations={key: np.stack([each[key] for each in seen]) for key in seen[0]},
                    actions=np.stack(actions),
                    rewards=np.zeros(HORIZON, np.float32),
                    dones=np.arange(HORIZON) == HORIZON - 1,
                    states=np.zeros((HORIZON, 1)),
                    seed=seed,
                    first_success=HORIZON - 1,
                )
            )
        info = DemonstrationInfo(task=f"toy/{task}", cameras=("front",), image_size=16, quality="lean")
        write_demonstrations(folder / f"toy-{task}.hdf5", recorded, info)
    return folder


def command(folder: Path, *encoders: str, **changes: object) -> SuiteConfig:
    """Return a command on the toy protocol."""
    settings: dict[str, object] = {"out": folder / "suite", "data": folder / "data", "workers": 1}
    return SuiteConfig("toy", encoders or ("oracle=state", "none"), **(settings | changes))  # type: ignore[arg-type]
