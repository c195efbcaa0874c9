from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import gymnasium
import pytest

from rsp_robot import envs
from rsp_robot.envs import registry
from rsp_robot.errors import UserError

TASK = "metaworld/push-v3"


def test_all_fifty_tasks_are_listed_and_described() -> None:
    tasks = envs.list_tasks("metaworld")
    assert len(tasks) == 50 and tasks == sorted(tasks) and TASK in tasks
    for task in tasks:
        description = envs.describe(task)
        assert description.task == task and description.summary
        assert description.default_camera in description.cameras
        assert (len(description.proprio), len(description.action)) == (4, 4)
        assert (description.horizon, description.fps) == (500, 80.0)
    assert set(tasks) <= set(envs.list_tasks())


def test_names_match_those_of_the_installed_meta_world() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    names = {task.removeprefix("metaworld/") for task in envs.list_tasks("metaworld")}
    assert names == set(ALL_V3_ENVIRONMENTS) == set(ENV_POLICY_MAP)


def test_listing_and_describing_load_neither_simulator_nor_torch() -> None:
    code = (
        "import sys; from rsp_robot import envs; import rsp_robot.envs.collect, rsp_robot.envs.experts; "
        f"envs.list_tasks(); envs.describe({TASK!r}); "
        "print(sorted({'torch', 'mujoco', 'metaworld', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "metaworld/pusk-v3"}, "did you mean metaworld/push-v3"),
        ({"task": "push-v3"}, "unknown task 'push-v3'; did you mean"),
        ({"task": "nosuch/push-v3"}, "unknown task"),
        ({"cameras": "corner9"}, "unknown camera of metaworld/push-v3 'corner9'; did you mean corner"),
        ({"cameras": ("corner", "corner")}, "named twice"),
        ({"image_size": 8}, "image_size=8 is out of range; choose 16"),
        ({"image_size": 100_000}, "image_size=100000 is out of range"),
        ({"quality": "leen"}, "unknown quality 'leen'; did you mean lean"),
        ({"horizon": 0}, "horizon=0 is out of range"),
    ],
)
def test_mistakes_are_one_line_with_cause_and_fix(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        envs.make(**{"task": TASK, **arguments})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_suite_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package metaworld; pip install 'rsp-robot\[metaworld\]'"):
        envs.make(TASK, cameras=())


def test_another_package_can_offer_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(group: str) -> list[EntryPoint]:
        assert group == "rsp_robot.envs"
        return [EntryPoint("mine", "rsp_robot.envs.metaworld:SUITE", group)]

    monkeypatch.setattr(registry, "entry_points", offered)
    assert len(envs.list_tasks("mine")) == 50 and "mine/push-v3" in envs.list_tasks()
    with pytest.raises(UserError, match="unknown suite 'mime'; did you mean mine"):
        envs.list_tasks("mime")


def test_gymnasium_makes_the_tasks() -> None:
    env = gymnasium.make("rsp_robot.envs:metaworld/push-v3", cameras=(), horizon=2)
    observation, info = env.reset(seed=1)
    assert set(observation) == {"proprio"} and info["success"] is False
    env.close()
