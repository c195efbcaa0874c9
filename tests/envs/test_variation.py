"""Another look in every episode, the same physics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsp_robot import envs
from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs.base import VisualEnv
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.envs.replay import ReplayConfig, replay
from rsp_robot.envs.variation import Variation
from rsp_robot.errors import UserError

SCENES = {
    "metaworld/push-v3": ("close", "corner2"),  # a free camera of ours and one of the model's
    "robosuite/Lift": ("agentview", "robot0_eye_in_hand"),
    "fetch/PickAndPlace": ("close", "external_camera_0"),
    "dmc/reacher-easy": (),
}
ALL = Variation(1.0, 1.0, 1.0)


def scene(task: str, variation: Variation | None = None) -> VisualEnv:
    return envs.make(task, cameras=SCENES[task] or None, image_size=48, variation=variation)


def difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - two).mean())


@pytest.mark.parametrize("task", SCENES)
def test_an_episode_looks_different_and_goes_the_same_way(task: str) -> None:
    plain, varied = scene(task), scene(task, ALL)
    for seed in (3, 4, 3):
        before, after = plain.reset(seed=seed)[0], varied.reset(seed=seed)[0]
        assert plain.state_hash() == varied.state_hash()
        for camera in plain.cameras:
            assert difference(before[camera], after[camera]) > 1.0, camera
        action = np.full(plain.action_space.shape or (), 0.3)
        for _ in range(4):
            one, two = plain.step(action), varied.step(action)
            assert one[1] == two[1] and one[4] == two[4]
            np.testing.assert_array_equal(one[0]["proprio"], two[0]["proprio"])
        np.testing.assert_array_equal(plain.get_state(), varied.get_state())
    plain.close()
    varied.close()


def test_a_seed_has_one_look_whatever_came_before_and_another_seed_another() -> None:
    first, second = scene("metaworld/push-v3", ALL), scene("metaworld/push-v3", ALL)
    for seed in (8, 9):
        second.reset(seed=seed)
    pictures = {seed: first.reset(seed=seed)[0]["corner2"] for seed in (3, 5)}
    np.testing.assert_array_equal(pictures[3], second.reset(seed=3)[0]["corner2"])
    second.reset(seed=4)
    second.set_state(first.get_state())
    np.testing.assert_array_equal(pictures[5], second.observe()["corner2"])
    assert difference(pictures[3], pictures[5]) > 5.0
    first.close()
    second.close()


@pytest.mark.parametrize("part", ["camera", "light", "colour"])
def test_each_part_varies_alone_and_as_much_as_asked_for(part: str) -> None:
    plain = scene("metaworld/push-v3")
    start = plain.reset(seed=3)[0]
    model = plain.model
    fields = {
        "camera": (model.cam_pos, model.cam_quat, model.cam_fovy),
        "light": (model.light_pos, model.light_diffuse),
        "colour": (model.mat_rgba, model.geom_rgba),
    }
    changes = []
    for amount in (0.2, 1.0):
        env = scene("metaworld/push-v3", Variation(**{part: amount}))
        look = env.reset(seed=3)[0]
        changes.append([difference(start[camera], look[camera]) for camera in env.cameras])
        other = env.model
        now = {
            "camera": (other.cam_pos, other.cam_quat, other.cam_fovy),
            "light": (other.light_pos, other.light_diffuse),
            "colour": (other.mat_rgba, other.geom_rgba),
        }
        for name, values in now.items():
            for field, own in zip(values, fields[name], strict=True):
                assert np.array_equal(field, own) == (name != part), name
        np.testing.assert_array_equal(other.geom_rgba[:, 3], model.geom_rgba[:, 3])
        np.testing.assert_allclose(np.linalg.norm(other.cam_quat, axis=1), 1.0, atol=1e-6)
        env.close()
    assert (np.asarray(changes[1]) > np.asarray(changes[0])).all() and min(changes[0]) > 0
    plain.close()


def test_only_amounts_from_0_to_1_are_taken_and_0_changes_nothing() -> None:
    with pytest.raises(UserError, match=r"variation of light 2 must lie in \[0, 1\]"):
        Variation(light=2)
    plain, still = scene("metaworld/push-v3"), scene("metaworld/push-v3", Variation())
    np.testing.assert_array_equal(plain.reset(seed=1)[0]["close"], still.reset(seed=1)[0]["close"])
    varied = scene("fetch/PickAndPlace", ALL)
    with pytest.raises(UserError, match="varies already"):
        varied.vary(ALL)
    for env in (plain, still, varied):
        env.close()


def test_demonstrations_remember_how_they_varied_and_replay_in_their_look(tmp_path: Path) -> None:
    config = CollectConfig(
        task="fetch/Reach", out=tmp_path / "varied.hdf5", demonstrations=2, image_size=32, vary=Variation(colour=0.5)
    )
    file = DemonstrationFile(collect(config, quiet=True))
    assert file.info.vary == {"colour": 0.5}
    collect(config, quiet=True)  # complete: nothing to do
    with pytest.raises(UserError, match=r'vary \{"colour": 0.5\} instead of \{\}'):
        collect(replace(config, vary=Variation()), quiet=True)
    found = replay(ReplayConfig(file.path, film=False, workers=1), quiet=True)
    assert found.same and max(row.drift for row in found.rows) == 0
    plain = DemonstrationFile(collect(replace(config, out=tmp_path / "plain.hdf5", vary=Variation()), quiet=True))
    assert plain.info.vary == {}
    one, two = file.read(0), plain.read(0)
    np.testing.assert_array_equal(one.actions, two.actions)
    assert difference(one.observations["close"], two.observations["close"]) > 1.0
