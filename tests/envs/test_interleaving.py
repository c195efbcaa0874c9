"""Scenes of different suites in one process: each keeps its own pictures, and closing one gives its memory back."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.registry import find_task, suites

SIZE, SEED, STEPS = 48, 5, 3
FAVOURITES = {"metaworld": "metaworld/door-open-v3", "dmc": "dmc/lift-brick"}
"""The task of a suite that is shown, where it is not the first one."""
MEGABYTE = 1 << 20


def one_task_per_suite() -> list[str]:
    tasks = [FAVOURITES.get(suite, envs.list_tasks(suite)[0]) for suite in sorted(suites())]
    return [task for task in tasks if find_spec(find_task(task)[0].package) is not None]


SCENES = one_task_per_suite()


def action_of(env: VisualEnv) -> np.ndarray:
    return np.full(env.action_space.shape or (), 0.5)


def start(env: VisualEnv) -> np.ndarray:
    return env.reset(seed=SEED)[0][env.cameras[0]]


def advance(env: VisualEnv) -> np.ndarray:
    return env.step(action_of(env))[0][env.cameras[0]]


def film(env: VisualEnv, steps: int = STEPS) -> list[np.ndarray]:
    return [start(env), *(advance(env) for _ in range(steps))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Each scene's pictures, from a process that has no other scene."""
    folder = tmp_path_factory.mktemp("alone")
    films = {}
    for index, task in enumerate(SCENES):
        path = folder / f"{index}.npy"
        done = subprocess.run([sys.executable, __file__, "film", task, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        films[task] = np.load(path)
    return films


def test_the_scenes_differ_and_move(alone: dict[str, np.ndarray]) -> None:
    """Otherwise the test below would see nothing."""
    for index, task in enumerate(SCENES):
        for other in SCENES[:index]:
            assert np.abs(alone[task].astype(float) - alone[other]).mean() > 5, f"{task} looks like {other}"
        assert (alone[task][0] != alone[task][-1]).any()


def test_scenes_of_different_suites_keep_their_own_pictures(alone: dict[str, np.ndarray]) -> None:
    def check(task: str, steps: int = STEPS) -> None:
        np.testing.assert_array_equal(film(open_[task], steps), alone[task][: steps + 1], err_msg=task)

    open_ = {task: envs.make(task, image_size=SIZE) for task in SCENES}
    films = {task: [start(env)] for task, env in open_.items()}
    for _ in range(STEPS):
        for task, env in open_.items():
            films[task].append(advance(env))
    for task in SCENES:
        np.testing.assert_array_equal(films[task], alone[task], err_msg=f"{task}, interleaved")

    for closed in SCENES:  # each in turn: closed, and opened again
        open_.pop(closed).close()
        for task in open_:
            check(task, 1)
        open_[closed] = envs.make(closed, image_size=SIZE)
    for collected in SCENES:  # each in turn: collected without being closed
        del open_[collected], env
        gc.collect()
        for task in open_:
            check(task, 1)
        open_[collected] = env = envs.make(collected, image_size=SIZE)
    for task in SCENES:
        check(task)
    for env in open_.values():
        env.close()


@pytest.mark.parametrize("least", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_memory_is_flat_over_many_environments(least: int) -> None:
    """A context or a simulator that is not freed costs 50 to 200 MB, every time."""
    rounds = -(-least // len(SCENES))
    command = [sys.executable, __file__, "cycles", str(rounds * len(SCENES))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    used = np.array([int(word) for word in done.stdout.split()]).reshape(rounds, len(SCENES)).mean(axis=1) / MEGABYTE
    # The first round imports the suites. Afterwards the allocator settles: about 50 MB were seen.
    assert used[-1] - used[1] < 100, f"MB in use, mean of each round: {used.round()}"


def memory_in_use() -> int:
    """Bytes of this process that are in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main(verb: str, *arguments: str) -> None:
    """``film TASK FILE``, or ``cycles N``: open, show and close N environments, and print the memory after each."""
    if verb == "film":
        np.save(arguments[1], film(envs.make(arguments[0], image_size=SIZE)))
        return
    used = []
    for index in range(int(arguments[0])):
        env = envs.make(SCENES[index % len(SCENES)], image_size=SIZE)
        start(env)
        env.close()
        del env
        gc.collect()  # simulators refer to themselves
        used.append(memory_in_use())
    print(*used)


if __name__ == "__main__":
    main(*sys.argv[1:])
