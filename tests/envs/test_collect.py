from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs.collect import CollectConfig, _SeedOrder, collect, record_episode
from rsp_robot.envs.experts import make_expert
from rsp_robot.errors import UserError

CONFIG = CollectConfig(
    task="metaworld/reach-v3",
    out=Path("to be set"),
    demonstrations=5,
    cameras=("close",),
    image_size=16,
    horizon=46,  # so that some seeds fail
    steps_after_success=2,
    workers=2,
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed collection with two workers."""
    return collect(replace(CONFIG, out=tmp_path_factory.mktemp("reference") / "d.hdf5"), quiet=True)


def assert_same(one: Path, two: Path) -> None:
    first, second = DemonstrationFile(one), DemonstrationFile(two)
    assert first.info == second.info and first.lengths == second.lengths
    for index in range(len(first)):
        a, b = first.read(index), second.read(index)
        assert (a.seed, a.first_success) == (b.seed, b.first_success)
        assert a.observations.keys() == b.observations.keys()
        for name in ("actions", "expert_actions", "rewards", "dones", "states"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for key in a.observations:
            np.testing.assert_array_equal(a.observations[key], b.observations[key])


def test_file_holds_the_first_successful_seeds_and_how_they_were_made(reference: Path) -> None:
    file = DemonstrationFile(reference)
    seeds = [file.read(index).seed for index in range(len(file))]
    assert len(seeds) == 5 and seeds == sorted(seeds) and seeds[-1] > 4, "a seed should have failed"
    info = file.info
    assert (info.task, info.cameras, info.image_size, info.quality) == (CONFIG.task, ("close",), 16, "lean")
    assert (info.horizon, info.action_noise, info.fps, info.seed) == (46, 0.1, 80.0, 0)
    assert info.attempts == seeds[-1] + 1 and info.versions["mujoco"] and info.expert
    assert not reference.with_name("d.hdf5.parts").exists()


def test_an_episode_is_recorded_as_it_happened(reference: Path) -> None:
    demonstration = DemonstrationFile(reference).read(3)
    length = len(demonstration)
    assert demonstration.first_success == length - 1 - CONFIG.steps_after_success
    assert demonstration.dones.tolist() == [False] * (length - 1) + [True]
    assert demonstration.expert_actions is not None
    noise = demonstration.actions - demonstration.expert_actions
    assert 0.02 < noise.std() < 0.15 and np.abs(demonstration.actions).max() <= 1
    env = envs.make(
        CONFIG.task, cameras=CONFIG.cameras, image_size=CONFIG.image_size, horizon=CONFIG.horizon, state=True
    )
    observation, _ = env.reset(seed=demonstration.seed)
    for step in range(length):  # row t: what was seen before action t, and what the action brought
        for key in ("close", "proprio", "state"):
            np.testing.assert_array_equal(observation[key], demonstration.observations[key][step])
        np.testing.assert_array_equal(env.get_state(), demonstration.states[step])
        observation, reward, _, _, info = env.step(demonstration.actions[step])
        assert reward == pytest.approx(demonstration.rewards[step], rel=1e-6)
        if step <= demonstration.first_success:
            assert info["success"] is (step == demonstration.first_success)
    env.close()


def test_result_does_not_depend_on_the_number_of_workers(reference: Path, tmp_path: Path) -> None:
    one = collect(replace(CONFIG, out=tmp_path / "one.hdf5", workers=1), quiet=True)
    assert_same(one, reference)
    before = one.stat().st_mtime_ns
    assert collect(replace(CONFIG, out=one), quiet=True) == one and one.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"made with other settings \(horizon 46 instead of 40\); choose another out"):
        collect(replace(CONFIG, out=one, horizon=40), quiet=True)
    assert one.stat().st_mtime_ns == before


def test_a_killed_collection_goes_on_where_it_was(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed.hdf5"
    parts = tmp_path / "killed.hdf5.parts"
    code = (
        "from pathlib import Path; from rsp_robot.envs.collect import CollectConfig, collect; "
        f"collect(CollectConfig(task={CONFIG.task!r}, out=Path({str(out)!r}), demonstrations=5, cameras=('close',), "
        "image_size=16, horizon=46, steps_after_success=2, workers=1), quiet=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list(parts.glob("*.hdf5"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in sorted(parts.glob("*.hdf5"))[:2]}
    assert len(kept) == 2
    with pytest.raises(UserError, match=r"other settings \(image_size 16 instead of 24\)"):
        collect(replace(CONFIG, out=out, image_size=24), quiet=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (parts / ".00000001.hdf5.1234.tmp").write_bytes(b"half a file")
    assert_same(collect(replace(CONFIG, out=out), quiet=True), reference)
    assert [path.name for path in tmp_path.iterdir()] == ["killed.hdf5"]


def test_seeds_count_in_order_not_as_they_finish(tmp_path: Path) -> None:
    order = _SeedOrder(replace(CONFIG, demonstrations=2, seed=10), tmp_path)
    seeds = order.seeds()
    assert [next(seeds) for _ in range(4)] == [10, 11, 12, 13]
    order.finished |= {13: True, 12: True, 10: False}
    assert order.chosen() == []  # seed 11 may yet succeed
    order.finished[11] = True
    assert order.chosen() == [11, 12]
    assert list(seeds) == []
    (tmp_path / "00000010.failed").write_text("{}")
    (tmp_path / "00000012.hdf5").write_text("")
    resumed = _SeedOrder(replace(CONFIG, demonstrations=2, seed=10), tmp_path)
    assert resumed.finished == {10: False, 12: True} and resumed.successes == 1
    waiting = resumed.seeds()
    assert [next(waiting), next(waiting)] == [11, 13]


def test_an_expert_that_never_succeeds_is_reported(tmp_path: Path) -> None:
    config = replace(CONFIG, out=tmp_path / "d.hdf5", demonstrations=1, horizon=1, cameras=(), workers=1)
    with pytest.raises(UserError, match="only 0 of 25 episodes; raise horizon or lower action_noise"):
        collect(config, quiet=True)
    assert not config.out.exists()


def test_noise_is_of_the_episode_and_zero_is_none() -> None:
    env = envs.make(CONFIG.task, cameras=(), horizon=60)
    expert = make_expert(CONFIG.task, env)
    one, two = (record_episode(env, expert, 3, replace(CONFIG, horizon=60)) for _ in range(2))
    clean = record_episode(env, expert, 3, replace(CONFIG, horizon=60, action_noise=0.0))
    assert one is not None and two is not None and clean is not None and clean.expert_actions is not None
    np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(clean.actions, clean.expert_actions)
    env.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "metaworld/reech-v3"}, "did you mean metaworld/reach-v3"),
        ({"cameras": ("cloze",)}, "unknown camera"),
        ({"quality": "medium"}, "unknown quality 'medium'"),
        ({"demonstrations": 0}, "demonstrations=0 is out of range; choose at least 1"),
        ({"image_size": 2}, "image_size=2 is out of range; choose at least 16"),
        ({"workers": 0}, "workers=0 is out of range"),
        ({"action_noise": float("nan")}, "action_noise=nan is out of range; choose 0 or more"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        collect(replace(CONFIG, out=tmp_path / "d.hdf5", **change), quiet=True)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_out_must_be_a_file_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give the file to write"):
        collect(replace(CONFIG, out=tmp_path), quiet=True)
    (tmp_path / "d.hdf5").write_text("something else")
    with pytest.raises(UserError, match="is not an HDF5 file"):
        collect(replace(CONFIG, out=tmp_path / "d.hdf5"), quiet=True)
    assert (tmp_path / "d.hdf5").read_text() == "something else"
