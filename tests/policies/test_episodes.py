from __future__ import annotations

from contextlib import ExitStack

import h5py
import numpy as np
import pytest

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.errors import UserError
from rsp_robot.policies.episodes import choose_cameras, read_recording


def read(*paths, labels="executed", state=False):
    with ExitStack() as stack:
        return read_recording([stack.enter_context(DemonstrationFile(path)) for path in paths], labels, state)


def edit(path, name, row, value):
    with h5py.File(path, "r+") as file:
        file[f"data/{name}"][row] = value


def replace(path, name, array):
    with h5py.File(path, "r+") as file:
        del file[f"data/{name}"]
        if array is not None:
            file[f"data/{name}"] = array


def test_actions_are_clipped_and_labels_chosen(make_data):
    path = make_data(count=2)
    edit(path, "demo_0/actions", 0, [1.7, -3.0])
    with h5py.File(path) as file:
        wanted = file["data/demo_0/expert_actions"][()]
    assert read(path).episodes[0].actions[0].tolist() == [1, -1]
    for labels in ("expert", "auto"):
        assert np.array_equal(read(path, labels=labels).episodes[0].actions, wanted)
    replace(path, "demo_1/expert_actions", None)
    with pytest.raises(UserError, match="does not hold the expert's own actions; use labels executed"):
        read(path, labels="expert")
    assert read(path, labels="auto").episodes[0].actions[0].tolist() == [1, -1]


def test_labels_are_chosen_file_by_file(make_data):
    human = make_data("human.hdf5", count=1)
    replace(human, "demo_0/expert_actions", None)
    both = read(human, make_data("scripted.hdf5", count=1), labels="auto").episodes
    alone = read(human).episodes
    assert np.array_equal(both[0].actions, alone[0].actions)
    assert not np.array_equal(both[1].actions, alone[0].actions)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("actions", np.nan, "actions"), ("expert_actions", np.inf, "expert actions"),
        ("obs/proprio", -np.inf, "proprioception"),
    ],
)  # fmt: skip
def test_a_damaged_episode_is_set_aside_by_name(make_data, name, value, what):
    path = make_data(count=4)
    edit(path, f"demo_2/{name}", 3, value)
    recording = read(path, labels="auto")
    assert [episode.demo for episode in recording.episodes] == [0, 1, 3]
    assert recording.quarantined == (f"demos.hdf5 demo_2: {what} not finite at step 3",)
    assert all(np.isfinite(episode.actions).all() for episode in recording.episodes)


def test_damaged_states_count_only_where_they_are_seen(make_data):
    path = make_data(count=3)
    edit(path, "demo_0/obs/state", 1, np.nan)
    assert len(read(path).quarantined) == 0
    assert read(path, state=True).quarantined == ("demos.hdf5 demo_0: states not finite at step 1",)


def test_nothing_left_to_train_on_is_an_error(make_data):
    path = make_data(count=3)  # the last one is for validation
    for demo in (0, 1):
        edit(path, f"demo_{demo}/actions", 0, np.nan)
    with pytest.raises(UserError, match=r"no episode is left to train on, 2 have numbers .* \(demos.hdf5 demo_0: "):
        read(path)


def test_another_width_is_refused_with_both_numbers(make_data):
    path, other = make_data(count=2), make_data("other.hdf5", count=2)
    for name in ("actions", "expert_actions"):
        replace(other, f"demo_1/{name}", np.zeros((11, 3), np.float32))
    with pytest.raises(UserError, match=r"other.hdf5 demo_1 has actions of 3 numbers, \S+other.hdf5 demo_0 of 2;"):
        read(other)
    replace(other, "demo_0/actions", np.zeros((10, 3), np.float32))
    replace(other, "demo_0/expert_actions", np.zeros((10, 3), np.float32))
    with pytest.raises(UserError, match=r"other.hdf5 demo_0 has actions of 3 numbers, \S+demos.hdf5 demo_0 of 2"):
        read(path, other)
    replace(path, "demo_1/obs/proprio", np.zeros((11, 5), np.float32))
    with pytest.raises(UserError, match=r"demo_1 has proprioception of 5 numbers, \S+ demo_0 of 3"):
        read(path)


def test_missing_parts_are_named_with_the_fix(make_data):
    path = make_data(count=2)
    replace(path, "demo_1/obs/state", None)
    assert len(read(path).episodes) == 2
    with pytest.raises(UserError, match="demo_1 has no obs/state; collect it again"):
        read(path, state=True)
    replace(path, "demo_1/obs/proprio", None)
    with pytest.raises(UserError, match="demo_1 has no obs/proprio; collect it with `rsp-robot collect`"):
        read(path)


def test_tasks_are_numbered_as_they_appear(make_data):
    paths = [make_data(f"{i}.hdf5", count=1, task=task) for i, task in enumerate(("toy/push", "toy/pull", "toy/push"))]
    recording = read(*paths)
    assert recording.tasks == ("toy/push", "toy/pull") and recording.task_of_file == (0, 1, 0)


def choose(*paths, cameras=(), needed=True):
    with ExitStack() as stack:
        return choose_cameras([stack.enter_context(DemonstrationFile(path)) for path in paths], cameras, needed)


def test_choose_cameras(make_data):
    path = make_data(count=2, cameras=("front", "side"))
    assert choose(path, needed=False) == ()
    assert choose(path) == ("front", "side")
    assert choose(path, cameras=("side",)) == ("side",)
    with pytest.raises(UserError, match="no camera 'top'; choose one of: front, side"):
        choose(path, cameras=("top",))
    with pytest.raises(UserError, match="no pictures"):
        choose(make_data("none.hdf5", count=2, cameras=()))
    with pytest.raises(UserError, match="one.hdf5 has no camera 'side'"):
        choose(path, make_data("one.hdf5", count=2))


def test_files_with_other_pictures_are_refused_with_both_values(make_data):
    first, second = make_data("a.hdf5", count=1), make_data("b.hdf5", count=1)
    with h5py.File(second, "r+") as file:
        file["data"].attrs["info"] = file["data"].attrs["info"].replace('"lean"', '"full"')
    with pytest.raises(UserError, match=r"b.hdf5 has pictures of quality full, \S+a.hdf5 of lean"):
        choose(first, second)
    replace(second, "demo_0/obs/front", np.zeros((10, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"b.hdf5 has pictures of image_size 8, \S+a.hdf5 of 16"):
        choose(first, second)
