"""One test over every task of every suite that is registered: the contract of ``VisualEnv``, kept by all of them.

One task per suite runs by default, the others with ``-m slow``. This file is also a script that (re)makes the stored
thumbnails, which a person has to look at before they are committed::

    python tests/envs/test_every_task.py thumbnails [TASK ...]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from rsp_robot import envs
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.registry import find_task
from rsp_robot.errors import UserError

THUMBNAILS = Path(__file__).parent / "thumbnails"
TOLERANCE = 2.0
"""Mean absolute difference from the thumbnail, of 255, that another OpenGL may make."""
SIZE, SEED, STEPS = 64, 3, 4
REPRESENTATIVES = {"metaworld": "metaworld/bin-picking-v3", "dmc": "dmc/finger-spin"}
"""The task of a suite that runs by default, where it is not the first one."""


def tasks_of(suite: str) -> list[str]:
    return envs.list_tasks(suite)


def is_representative(task: str) -> bool:
    suite = task.partition("/")[0]
    return task == REPRESENTATIVES.get(suite, tasks_of(suite)[0])


TASKS = envs.list_tasks()
ROWS = [pytest.param(task, marks=() if is_representative(task) else pytest.mark.slow) for task in TASKS]


def skip_unless_installed(task: str) -> None:
    package = find_task(task)[0].package
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module", params=ROWS)
def task(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    skip_unless_installed(name)
    return name


@pytest.fixture(scope="module")
def env(task: str) -> Iterator[VisualEnv]:
    """One environment per task: each test finds what the tests before it left behind."""
    env = envs.make(task, image_size=SIZE, state=True)
    yield env
    env.close()


@pytest.fixture
def blind(task: str) -> Iterator[VisualEnv]:
    """A second environment of the task, fresh and without pictures."""
    env = envs.make(task, cameras=(), horizon=3)
    yield env
    env.close()


def actions_of(env: VisualEnv, steps: int = STEPS) -> np.ndarray:
    assert env.action_space.shape is not None
    return np.random.default_rng(0).uniform(-1.0, 1.0, (steps, *env.action_space.shape))


def seen(observation: dict[str, np.ndarray], *more: Any) -> np.ndarray:
    """Everything an observation holds in one row, pictures included."""
    parts = [observation[key].ravel() for key in sorted(observation)] + [np.ravel(part) for part in more]
    return np.concatenate([part.astype(np.float64) for part in parts])


def roll(env: VisualEnv, actions: np.ndarray) -> np.ndarray:
    """Return what is seen after each action, with state, reward and success."""
    rows = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        rows.append(seen(observation, env.get_state(), reward, info["success"]))
    return np.array(rows)


def record(env: VisualEnv) -> dict[str, np.ndarray]:
    """Play the episode of ``SEED``."""
    observation, _ = env.reset(seed=SEED)
    start = seen(observation, env.get_state())
    return {"hash": np.array(env.state_hash()), "start": start, "steps": roll(env, actions_of(env))}


# Seeds.


@pytest.fixture(scope="module")
def elsewhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, np.ndarray]]:
    """Look up a task's episode as another process plays it; one process plays all selected tasks of a suite."""
    folder = tmp_path_factory.mktemp("elsewhere")
    chosen = {item.callspec.params.get("task") for item in request.session.items if hasattr(item, "callspec")}

    def look_up(task: str) -> dict[str, np.ndarray]:
        path = folder / (task.replace("/", "-") + ".npz")
        if not path.exists():
            batch = [name for name in tasks_of(task.partition("/")[0]) if name in chosen]
            command = [sys.executable, __file__, "record", str(folder), *batch]
            done = subprocess.run(command, capture_output=True, text=True)
            assert path.exists(), done.stderr[-3000:]
        with np.load(path) as file:
            return dict(file)

    return look_up


def test_a_seed_is_the_same_episode_again_and_in_another_process(
    task: str, env: VisualEnv, elsewhere: Callable[[str], dict[str, np.ndarray]]
) -> None:
    first = record(env)
    env.reset(seed=SEED + 1)
    assert env.state_hash() != first["hash"], "another seed begins in the same state"
    roll(env, -actions_of(env))
    for again in (record(env), elsewhere(task)):
        assert again["hash"] == first["hash"]
        np.testing.assert_array_equal(again["start"], first["start"])
        np.testing.assert_array_equal(again["steps"], first["steps"])


def test_a_reset_without_seed_names_its_episode(env: VisualEnv) -> None:
    _, info = env.reset(seed=SEED)
    assert info["seed"] == SEED
    _, info = env.reset()
    name = env.state_hash()
    _, other = env.reset()
    assert other["seed"] != info["seed"] and env.state_hash() != name
    env.reset(seed=info["seed"])
    assert env.state_hash() == name


# States.


@pytest.mark.parametrize("steps", [0, STEPS])
def test_a_saved_state_goes_on_bit_for_bit(env: VisualEnv, blind: VisualEnv, steps: int) -> None:
    actions = actions_of(env, steps + 5)
    env.reset(seed=SEED)
    roll(env, actions[:steps])
    present, saved = seen(env.observe()), env.get_state()
    future = roll(env, actions[steps:])
    for seed in (SEED, SEED + 1):  # from the same episode, and from another
        env.reset(seed=seed)
        roll(env, -actions)
        env.set_state(saved)
        np.testing.assert_array_equal(env.get_state(), saved)
        np.testing.assert_array_equal(seen(env.observe()), present)
        np.testing.assert_array_equal(roll(env, actions[steps:]), future)
    blind.reset(seed=SEED + 1)
    blind.set_state(saved)
    size = env.get_state().size + 2
    np.testing.assert_array_equal(roll(blind, actions[steps:])[:, -size:], future[:, -size:])


def test_the_state_that_an_oracle_sees_tells_episodes_and_moments_apart(env: VisualEnv) -> None:
    states = [env.reset(seed=SEED)[0]["state"], env.step(actions_of(env)[0])[0]["state"]]
    states += [env.reset(seed=SEED + 1)[0]["state"]]
    assert all(state.dtype == np.float32 and np.isfinite(state).all() for state in states)
    assert not np.array_equal(states[0], states[1]) and not np.array_equal(states[0], states[2])


# Steps.


def test_success_is_a_bool_and_episodes_end_by_the_horizon_alone(blind: VisualEnv) -> None:
    _, info = blind.reset(seed=SEED)
    assert type(info["success"]) is bool
    ends = []
    for action in actions_of(blind, 5):
        observation, reward, terminated, truncated, info = blind.step(action)
        assert blind.observation_space.contains(observation)
        assert type(info["success"]) is bool and isinstance(reward, float) and terminated is False
        ends.append(truncated)
    assert ends == [False, False, True, True, True]
    blind.reset(seed=SEED)
    assert blind.step(actions_of(blind)[0])[3] is False


@pytest.mark.slow
def test_the_simulators_own_horizon_raises_nothing(task: str) -> None:
    steps = envs.describe(task).horizon
    env = envs.make(task, cameras=())
    env.reset(seed=SEED)
    ends = [env.step(action)[3] for action in actions_of(env, steps + 5)]
    assert ends == [False] * (steps - 1) + [True] * 6
    env.close()


def test_wrong_actions_are_refused_and_leave_no_trace(env: VisualEnv) -> None:
    actions = actions_of(env)
    width = actions.shape[1]
    env.reset(seed=SEED)
    expected = roll(env, actions)
    env.reset(seed=SEED)
    for wrong in (np.zeros(width + 1), np.zeros((1, width)), np.float64(0.0)):
        with pytest.raises(UserError, match=rf"takes actions of shape \({width},\), got"):
            env.step(wrong)  # type: ignore[arg-type]
    for value in (np.nan, np.inf):
        wrong = np.zeros(width)
        wrong[-1] = value
        with pytest.raises(UserError, match="holds NaN or infinity"):
            env.step(wrong)
    np.testing.assert_array_equal(roll(env, actions), expected)


def test_actions_are_clipped(blind: VisualEnv) -> None:
    signs = np.sign(actions_of(blind))
    blind.reset(seed=SEED)
    expected = roll(blind, signs)
    blind.reset(seed=SEED)
    np.testing.assert_array_equal(roll(blind, 7 * signs), expected)


# Descriptions.


def test_the_description_is_that_of_the_environment(task: str, env: VisualEnv) -> None:
    about = envs.describe(task)
    space: Any = env.observation_space
    assert (about.task, about.default_camera) == (task, env.cameras[0]) == (env.task, env._default_camera.name)
    assert about.default_camera in about.cameras and len(set(about.cameras)) == len(about.cameras)
    assert space["proprio"].shape == (len(about.proprio),) and space["proprio"].dtype == np.float32
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (len(about.action),), np.float32)
    assert (env.horizon, env.fps) == (about.horizon, about.fps)
    assert len(set(about.proprio)) == len(about.proprio) and len(set(about.action)) == len(about.action)
    assert all(name.endswith(")") or "quaternion" in name for name in about.proprio), "a unit is missing"
    for line in (about.summary, about.success, about.licence, *about.packages):
        assert line.strip() == line != "" and "\n" not in line
    for name in about.cameras:
        camera = env._find_camera(name)
        assert camera.name == name and camera.about
        assert env.render(name, size=16).std() > 2, f"{name} shows nothing"


def test_an_unknown_camera_lists_those_there_are(task: str, env: VisualEnv) -> None:
    for call in (lambda: envs.make(task, cameras="zzzzzz"), lambda: env.render("zzzzzz")):
        with pytest.raises(UserError, match="unknown camera") as caught:
            call()
        assert all(camera in str(caught.value) for camera in sorted(envs.describe(task).cameras)[:8])
        assert "\n" not in str(caught.value)


# What others make of it.


def test_gymnasium_makes_it(task: str) -> None:
    env = gymnasium.make(f"rsp_robot.envs:{task}", cameras=(), horizon=2)
    observation, info = env.reset(seed=SEED)
    assert set(observation) == {"proprio"} and type(info["success"]) is bool, "the state is shown on request only"
    assert [env.step(env.action_space.sample())[3] for _ in range(2)] == [False, True]
    env.close()


@pytest.mark.filterwarnings("ignore:.*")
def test_gymnasiums_checker_passes(env: VisualEnv) -> None:
    check_env(env, skip_render_check=True, skip_close_check=True)


@pytest.mark.filterwarnings("ignore:.*")
def test_stable_baselines3s_checker_passes(task: str) -> None:
    env = envs.make(task, image_size=SIZE)  # making it loads Triton, which has to come before torch's use of it
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(env)
    env.close()


# Pictures.


def thumbnail_of(env: VisualEnv) -> np.ndarray:
    """Return what the default camera sees at the reset, uint8 ``(16, 16, 3)``."""
    picture = Image.fromarray(env.reset(seed=0)[0][env.cameras[0]])
    return np.asarray(picture.resize((16, 16), Image.Resampling.BOX))


def path_of(task: str) -> Path:
    return THUMBNAILS / (task.replace("/", "-") + ".png")


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_the_picture_is_the_one_that_a_person_looked_at(task: str, env: VisualEnv) -> None:
    if not path_of(task).exists():
        pytest.fail(f"no thumbnail of {task}; make it with `python tests/envs/{Path(__file__).name} thumbnails {task}`")
    stored = np.asarray(Image.open(path_of(task)).convert("RGB"))
    assert stored.shape == (16, 16, 3)
    assert difference(thumbnail_of(env), stored) < TOLERANCE
    for turned in (stored[::-1], stored[:, ::-1], stored[::-1, ::-1]):
        assert difference(turned, stored) > TOLERANCE, "this thumbnail would not show a picture upside down"


def main(verb: str, *arguments: str) -> None:
    """Make thumbnails, or play the episode of each task for the test of seeds: ``record FOLDER TASK ...``."""
    folder, tasks = (THUMBNAILS, arguments or TASKS) if verb == "thumbnails" else (Path(arguments[0]), arguments[1:])
    folder.mkdir(exist_ok=True)
    for task in tasks:
        env = envs.make(task, image_size=SIZE, state=True)
        if verb == "thumbnails":
            Image.fromarray(thumbnail_of(env)).save(path_of(task), optimize=True)
        else:
            np.savez(folder / (task.replace("/", "-") + ".npz"), **record(env))  # type: ignore[arg-type]
        env.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
