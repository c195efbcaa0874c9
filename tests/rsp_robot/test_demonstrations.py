from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest

from rsp_robot.demonstrations import Demonstration, DemonstrationFile, DemonstrationInfo, write_demonstrations
from rsp_robot.errors import UserError

INFO = DemonstrationInfo(
    task="metaworld/push-v3",
    cameras=("front", "back"),
    image_size=4,
    quality="lean",
    action_noise=0.1,
    horizon=150,
    fps=80.0,
    seed=3,
    attempts=4,
    versions={"mujoco": "3.3.0"},
)


def demonstration(length: int, seed: int = 0, size: int = 4) -> Demonstration:
    """Frame t of the front camera is filled with t, of the back camera with 100 + t."""
    steps = np.arange(length)
    front = np.broadcast_to(steps[:, None, None, None], (length, size, size, 3)).astype(np.uint8)
    return Demonstration(
        observations={
            "front": front,
            "back": front + np.uint8(100),
            "proprio": np.ones((length, 2), np.float32) * seed,
        },
        actions=np.stack([steps, -steps], 1).astype(np.float32) / 100,
        rewards=steps.astype(np.float32),
        dones=steps == length - 1,
        states=np.random.default_rng(seed).standard_normal((length, 5)),
        seed=seed,
        first_success=length - 2,
        expert_actions=np.zeros((length, 2), np.float32),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_demonstrations(tmp_path / "d.hdf5", [demonstration(3 + i, seed=i) for i in range(12)], INFO)
    return tmp_path / "d.hdf5"


def test_what_was_written_is_read_back_exactly(path: Path) -> None:
    with DemonstrationFile(path) as file:
        assert len(file) == 12
        assert file.lengths == tuple(range(3, 15))
        assert file.cameras == ("front", "back")
        assert file.info == INFO
        found, wanted = file.read(11), demonstration(14, seed=11)  # demo_11 sorts before demo_2 as text
    assert found.seed == 11 and found.first_success == 12
    for name in ("actions", "rewards", "dones", "states", "expert_actions"):
        array = getattr(found, name)
        np.testing.assert_array_equal(array, getattr(wanted, name))
        assert array.dtype == getattr(wanted, name).dtype
    assert found.observations.keys() == wanted.observations.keys()
    for key, value in wanted.observations.items():
        np.testing.assert_array_equal(found.observations[key], value)
        assert found.observations[key].dtype == value.dtype


def test_frames_come_in_the_order_asked_for(path: Path) -> None:
    file = DemonstrationFile(path)
    frames = file.read_frames(2, "back", [4, 0, 4])
    assert frames.shape == (3, 4, 4, 3) and frames.dtype == np.uint8
    assert frames[:, 1, 2, 0].tolist() == [104, 100, 104]
    assert file.read_frames(0, "front").shape == (3, 4, 4, 3)
    assert file.read_frames(0, "front", []).shape == (0, 4, 4, 3)
    for wrong in ([-1], [5]):
        with pytest.raises(IndexError):
            file.read_frames(2, "back", wrong)
    with pytest.raises(UserError, match="no camera 'side'; choose one of: front, back"):
        file.read_frames(0, "side", [0])


def test_every_tenth_demonstration_is_held_out(path: Path, tmp_path: Path) -> None:
    file = DemonstrationFile(path)
    assert file.valid == (9,)
    assert file.train == (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11)
    write_demonstrations(tmp_path / "two.hdf5", [demonstration(3), demonstration(4)], INFO)
    assert DemonstrationFile(tmp_path / "two.hdf5").valid == (1,)
    write_demonstrations(tmp_path / "one.hdf5", [demonstration(3)], INFO)
    one = DemonstrationFile(tmp_path / "one.hdf5")
    assert (one.train, one.valid) == ((0,), ())


def test_layout_is_robomimics(path: Path) -> None:
    with h5py.File(path, "r") as file:
        assert file["data"].attrs["total"] == sum(range(3, 15))
        env_args = json.loads(file["data"].attrs["env_args"])
        assert env_args["env_name"] == "metaworld/push-v3" and {"type", "env_kwargs"} <= env_args.keys()
        first = file["data/demo_0"]
        assert first.attrs["num_samples"] == 3
        assert {"obs", "actions", "rewards", "dones", "states"} <= set(first)
        assert [name.decode() for name in file["mask/valid"]] == ["demo_9"]
        assert first["obs/front"].chunks == (1, 4, 4, 3)


def test_reads_a_file_as_robomimic_writes_it(tmp_path: Path) -> None:
    env_args = {
        "env_name": "Lift",
        "env_version": "1.4.1",
        "type": 1,
        "env_kwargs": {"control_freq": 20, "horizon": 400},
    }
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(env_args)
        for index in range(2):
            group = file.create_group(f"data/demo_{index}")
            group["actions"] = np.zeros((6, 7))
            group["obs/agentview_image"] = np.full((6, 8, 8, 3), index, np.uint8)
            group["obs/robot0_eef_pos"] = np.ones((6, 3))
    found = DemonstrationFile(tmp_path / "lift.hdf5")
    assert found.cameras == ("agentview_image",)
    assert (found.info.task, found.info.fps, found.info.horizon, found.info.image_size) == ("Lift", 20.0, 400, 8)
    assert found.info.versions == {"env": "1.4.1"}
    assert (found.train, found.valid) == ((0, 1), ())
    one = found.read(1)
    assert one.actions.dtype == np.float32 and one.observations["robot0_eef_pos"].dtype == np.float32
    assert one.dones.tolist() == [False] * 5 + [True]
    assert (one.seed, one.first_success, one.expert_actions, one.states.shape) == (-1, None, None, (6, 0))


def _first_frame(file: DemonstrationFile) -> int:
    return int(file.read_frames(1, "front", [2])[0, 0, 0, 0])


def test_an_open_file_goes_to_other_processes(path: Path) -> None:
    file = DemonstrationFile(path)
    assert _first_frame(file) == 2
    assert _first_frame(pickle.loads(pickle.dumps(file))) == 2
    with get_context("fork").Pool(1) as pool:  # the child must open the file anew
        assert pool.apply(_first_frame, (file,)) == 2
    assert _first_frame(file) == 2


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UserError, match="record all alike"):
        write_demonstrations(path, [demonstration(3), demonstration(3, size=5)], INFO)
    with pytest.raises(UserError, match="no demonstrations to write"):
        write_demonstrations(path, [], INFO)
    with pytest.raises(UserError, match="2 rows of rewards for 3 actions"):
        write_demonstrations(path, [replace(demonstration(3), rewards=np.zeros(2, np.float32))], INFO)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return apply


def _resize_one(file: h5py.File) -> None:
    del file["data/demo_4/obs/front"]
    file["data/demo_4/obs/front"] = np.zeros((7, 8, 8, 3), np.uint8)


def _cut_one(file: h5py.File) -> None:
    del file["data/demo_4/obs/proprio"]
    file["data/demo_4/obs/proprio"] = np.zeros((6, 2), np.float32)


def _drop_camera(file: h5py.File) -> None:
    del file["data/demo_4/obs/back"]


def _drop_actions(file: h5py.File) -> None:
    del file["data/demo_4/actions"]


def _empty(file: h5py.File) -> None:
    del file["data"]


def _bad_mask(file: h5py.File) -> None:
    del file["mask/train"]
    file["mask/train"] = np.array(["demo_99"], dtype="S")


def _bad_info(file: h5py.File) -> None:
    file["data"].attrs["info"] = "{"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text("not hdf5"), "is not an HDF5 file"),
        (_truncate, "truncated"),
        (_edit(_empty), "no demonstrations"),
        (_edit(_resize_one), r"pictures of different sizes \(front: \(4, 4, 3\), in demo_4 \(8, 8, 3\)\)"),
        (_edit(_cut_one), "6 rows of obs/proprio for 7 actions in demo_4"),
        (_edit(_drop_camera), "other cameras in demo_4"),
        (_edit(_drop_actions), "no actions or obs in demo_4"),
        (_edit(_bad_mask), "names demo_99 in mask/train"),
        (_edit(_bad_info), "not JSON"),
    ],
)
def test_damage_is_one_line_with_cause_and_fix(path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        DemonstrationFile(path)
    assert "\n" not in str(caught.value) and ("; " in str(caught.value) or "?" in str(caught.value))


def test_a_folder_is_not_a_demonstration_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an HDF5 file"):
        DemonstrationFile(tmp_path)


ROBOMIMIC = """
import sys
import robomimic.utils.obs_utils as observations
from robomimic.utils.dataset import SequenceDataset
observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["proprio"], "rgb": ["front"]}})
data = SequenceDataset(
    sys.argv[1], obs_keys=("front", "proprio"), dataset_keys=("actions", "rewards", "dones"), frame_stack=1,
    seq_length=3, pad_frame_stack=True, pad_seq_length=True, get_pad_mask=False, goal_mode=None, hdf5_cache_mode=None,
    hdf5_use_swmr=True, filter_by_attribute="train", load_next_obs=False)
row = data[0]
print(len(data), row["actions"].shape, row["obs"]["front"].shape, row["obs"]["front"].dtype)
"""


@pytest.mark.slow
def test_robomimic_reads_the_file(path: Path, tmp_path: Path) -> None:
    """With robomimic's own reader; the package alone, its dependencies are not needed for that."""
    with DemonstrationFile(path) as file:
        frames, shape = sum(file.lengths[index] for index in file.train), file.read(0).observations["front"].shape
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "lib")]
    subprocess.run([*pip, "robomimic==0.3.0"], check=True, timeout=300)
    done = subprocess.run(
        [sys.executable, "-c", ROBOMIMIC, str(path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib")}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{frames} (3, "), done.stdout
    assert f"(3, {', '.join(map(str, shape[1:]))}) uint8" in done.stdout.splitlines()[-1]
