from __future__ import annotations

from dataclasses import replace

import pytest

from rsp_robot import envs
from rsp_robot.envs.experts import make_expert
from rsp_robot.envs.metaworld import MetaWorldSuite
from rsp_robot.errors import UserError

REACH = "metaworld/reach-v3"


def solves(task: str, seed: int) -> bool:
    env = envs.make(task, cameras=(), horizon=300)
    expert = make_expert(task, env)
    env.reset(seed=seed)
    expert.reset()
    solved = truncated = False
    while not (solved or truncated):
        _, _, _, truncated, info = env.step(expert.act())
        solved = info["success"]
    env.close()
    return solved


def test_experts_solve_tasks() -> None:
    assert solves(REACH, 0)
    assert solves("metaworld/button-press-topdown-v3", 0)


@pytest.mark.slow
@pytest.mark.parametrize("task", envs.list_tasks("metaworld"))
def test_every_task_is_solved_at_least_once_in_five(task: str) -> None:
    assert any(solves(task, seed) for seed in range(5))


def test_a_task_without_expert_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = envs.make(REACH, cameras=())
    original = MetaWorldSuite.describe
    monkeypatch.setattr(MetaWorldSuite, "describe", lambda self, task: replace(original(self, task), expert=""))
    with pytest.raises(UserError, match="nobody demonstrates metaworld/reach-v3"):
        make_expert(REACH, env)
    env.close()


def test_an_unknown_task_is_refused() -> None:
    env = envs.make(REACH, cameras=())
    with pytest.raises(UserError, match="did you mean metaworld/reach-v3"):
        make_expert("metaworld/reech-v3", env)
    env.close()
