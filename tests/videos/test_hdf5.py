from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rsp_robot.demonstrations import Demonstration, DemonstrationInfo, write_demonstrations
from rsp_robot.videos.formats import hdf5
from rsp_robot.videos.formats.hdf5 import HDF5
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo, file_digest

FORMAT = HDF5()
ENV = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}


def noise(length: int, height: int = 6, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, height, width, channels), np.uint8)


def robomimic(path: Path, demos: Mapping[str, Mapping[str, np.ndarray]], env: Any = ENV, **options: Any) -> Path:
    """Observations by demonstration; as many actions as rows of the first, unless "actions" are given."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 1
        if env is not None:
            data.attrs["env_args"] = env if isinstance(env, str) else json.dumps(env)
        for name, arrays in demos.items():
            group = data.create_group(name)
            observations = {key: array for key, array in arrays.items() if key != "actions"}
            first = next(iter(observations.values()), np.zeros(0))
            group["actions"] = arrays.get("actions", np.zeros((len(first), 7)))
            obs = group.create_group("obs")
            for key, array in observations.items():
                obs.create_dataset(key, data=array, **(options if array.ndim == 4 else {}))
    return path


def inspected(path: Path) -> tuple[list[VideoInfo], list[Quarantined]]:
    found = list(FORMAT.inspect(path))
    videos = [entry for entry in found if isinstance(entry, VideoInfo)]
    return videos, [entry for entry in found if isinstance(entry, Quarantined)]


def only(path: Path) -> VideoInfo:
    videos, left_out = inspected(path)
    assert len(videos) == 1 and not left_out
    return videos[0]


def test_files_are_claimed_by_their_suffix_alone(tmp_path: Path) -> None:
    (tmp_path / "text.HDF5").write_text("hello")
    (tmp_path / "folder.h5").mkdir()
    assert FORMAT.claims(robomimic(tmp_path / "a.H5", {"demo_0": {"front": noise(2)}}))
    assert FORMAT.claims(tmp_path / "text.HDF5")
    assert not FORMAT.claims(tmp_path / "folder.h5")
    assert not FORMAT.claims(tmp_path / "gone.h5")
    with pytest.raises(UnreadableVideo, match=r"text\.HDF5 is not an HDF5 file; "):
        list(FORMAT.inspect(tmp_path / "text.HDF5"))


def test_every_camera_of_every_demonstration_is_a_video_episode_by_episode(tmp_path: Path) -> None:
    proprio = np.zeros((12, 3), np.float32)
    depth = np.zeros((12, 6, 8, 1), np.float32)
    demos = {
        f"demo_{number}": {"wrist": noise(12), "agent": noise(12), "eef": proprio, "depth": depth} for number in (10, 9)
    }
    videos, left_out = inspected(robomimic(tmp_path / "a.hdf5", demos))
    assert not left_out
    assert [video.key for video in videos] == [
        "demo_9/obs/agent",
        "demo_9/obs/wrist",
        "demo_10/obs/agent",
        "demo_10/obs/wrist",
    ]
    digest = file_digest(tmp_path / "a.hdf5")
    assert videos[0] == VideoInfo(
        format="hdf5",
        path=str(tmp_path / "a.hdf5"),
        key="demo_9/obs/agent",
        frames=12,
        height=6,
        width=8,
        fps=20.0,
        camera="agent",
        task="Lift",
        episode="demo_9",
        digest=digest,
        detail={"dataset": "data/demo_9/obs/agent"},
    )
    json.dumps([vars(video) for video in videos])


def test_our_own_files_give_their_first_camera_first_and_their_frame_rate(tmp_path: Path) -> None:
    def demonstration(length: int) -> Demonstration:
        return Demonstration(
            observations={
                "front": noise(length),
                "back": noise(length, seed=1),
                "proprio": np.zeros((length, 2), "f4"),
            },
            actions=np.zeros((length, 2), np.float32),
            rewards=np.zeros(length, np.float32),
            dones=np.zeros(length, bool),
            states=np.zeros((length, 1)),
        )

    info = DemonstrationInfo(task="toy/reach", cameras=("front", "back"), image_size=6, fps=12.5)
    write_demonstrations(tmp_path / "ours.hdf5", [demonstration(3), demonstration(5)], info)
    videos, left_out = inspected(tmp_path / "ours.hdf5")
    assert not left_out
    assert [(video.episode, video.camera, video.frames) for video in videos] == [
        ("demo_0", "front", 3),
        ("demo_0", "back", 3),
        ("demo_1", "front", 5),
        ("demo_1", "back", 5),
    ]
    assert {(video.task, video.fps) for video in videos} == {("toy/reach", 12.5)}
    np.testing.assert_array_equal(FORMAT.read(videos[3], np.array([4, 0])), noise(5, seed=1)[[4, 0]])


@pytest.mark.parametrize(
    "env", [None, "{broken", "[1]", json.dumps({"env_name": "Lift", "env_kwargs": None}), "[" * 50_000]
)
def test_a_file_that_says_nothing_of_its_environment_is_read_all_the_same(tmp_path: Path, env: str | None) -> None:
    assert only(robomimic(tmp_path / "a.h5", {"demo_0": {"front": noise(2)}}, env=env)).fps == 0


@pytest.mark.parametrize("value", ["fast", -3, None, float("inf"), [20]])
def test_a_frame_rate_that_is_none_is_unknown(tmp_path: Path, value: Any) -> None:
    env = {"env_kwargs": {"control_freq": value}}
    assert only(robomimic(tmp_path / "a.h5", {"demo_0": {"front": noise(2)}}, env=env)).fps == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (1, 6, 8, 3), "compression": "gzip"}, {"chunks": (16, 3, 8, 1), "compression": "gzip"}],
    ids=["contiguous", "a chunk per frame", "chunks across frames"],
)
@pytest.mark.parametrize("wanted", [[7], [39, 0], [3, 3, 1, 3], [5, 6, 7, 8], [39, 2, 20, 20, 0], list(range(40)), []])
def test_frames_come_in_any_order_and_as_often_as_asked(
    tmp_path: Path, options: dict[str, Any], wanted: list[int]
) -> None:
    frames = noise(40)
    video = only(robomimic(tmp_path / "a.h5", {"demo_0": {"front": frames}}, **options))
    found = FORMAT.read(video, np.array(wanted, np.int64))
    np.testing.assert_array_equal(found, frames[np.array(wanted, int)])
    assert found.dtype == np.uint8 and found.flags.c_contiguous


def test_frame_numbers_outside_the_video_are_refused(tmp_path: Path) -> None:
    video = only(robomimic(tmp_path / "a.h5", {"demo_0": {"front": noise(3)}}))
    for wanted in ([3], [-1]):
        with pytest.raises(IndexError):
            FORMAT.read(video, np.array(wanted))


def test_grey_is_repeated_alpha_dropped_and_channels_put_last(tmp_path: Path) -> None:
    rgb, grey, alpha = noise(3), noise(3, channels=1), noise(3, channels=4)
    cameras = {"alpha": alpha, "first": rgb.transpose(0, 3, 1, 2), "grey": grey}
    videos, _ = inspected(robomimic(tmp_path / "a.h5", {"demo_0": cameras}))
    read = {video.camera: FORMAT.read(video, np.array([2, 0])) for video in videos}
    np.testing.assert_array_equal(read["alpha"], alpha[[2, 0], ..., :3])
    np.testing.assert_array_equal(read["first"], rgb[[2, 0]])
    np.testing.assert_array_equal(read["grey"], np.repeat(grey[[2, 0]], 3, axis=-1))
    assert {(video.height, video.width) for video in videos} == {(6, 8)}


def test_demonstrations_may_differ_in_length_and_size_and_have_one_frame_or_one_too_many(tmp_path: Path) -> None:
    demos = {
        "demo_0": {"front": noise(1)},
        "demo_1": {"front": noise(4, 10, 12)},
        "demo_2": {"front": noise(4), "actions": np.zeros((3, 7))},
    }
    videos, left_out = inspected(robomimic(tmp_path / "a.h5", demos))
    assert not left_out
    assert [(video.frames, video.height, video.width) for video in videos] == [(1, 6, 8), (4, 10, 12), (4, 6, 8)]
    assert FORMAT.read(videos[0], np.array([0])).shape == (1, 6, 8, 3)


def test_a_demonstration_that_lacks_something_is_left_out_with_the_reason_and_the_others_go_on(tmp_path: Path) -> None:
    whole = {"front": noise(4), "back": noise(4)}
    demos: dict[str, dict[str, np.ndarray]] = {
        "demo_0": whole,
        "demo_1": {"front": noise(4)},
        "demo_2": {**whole, "back": np.zeros((4, 6, 8, 3), np.float32)},
        "demo_3": {**whole, "actions": np.zeros((5, 7))},
        "demo_4": {"front": noise(4), "back": np.zeros((0, 6, 8, 3), np.uint8)},
        "demo_5": whole,
        "demo_6": {},
        "demo_7": whole,
        "demo_8": {**whole, "extra": noise(4)},
    }
    path = robomimic(tmp_path / "a.h5", demos)
    with h5py.File(path, "a") as file:
        del file["data/demo_7/obs"]
        file["data/demo_9"] = h5py.SoftLink("/data/nowhere")
    videos, left_out = inspected(path)
    assert {video.episode for video in videos} == {"demo_0", "demo_5", "demo_8"}
    reasons = {entry.key: entry.reason for entry in left_out}
    assert "has no obs/back, which other demonstrations have" in reasons["demo_1"]
    assert "obs/back which is float32; store uint8" in reasons["demo_2"]
    assert "has 4 frames of obs/back for 5 actions" in reasons["demo_3"]
    assert "obs/back which is empty" in reasons["demo_4"]
    assert "has no obs/back" in reasons["demo_6"]
    assert "has no obs" in reasons["demo_7"]
    assert "is damaged" in reasons["demo_9"]
    assert all("\n" not in reason for reason in reasons.values())


def test_of_two_demonstrations_the_one_without_the_key_is_left_out(tmp_path: Path) -> None:
    demos = {"demo_0": {"front": noise(2), "back": noise(2)}, "demo_1": {"front": noise(2)}}
    videos, left_out = inspected(robomimic(tmp_path / "a.h5", demos))
    assert {video.episode for video in videos} == {"demo_0"}
    assert [entry.name for entry in left_out] == [f"{tmp_path / 'a.h5'}:demo_1"]


def damage_chunk(path: Path, dataset: str, frame: int) -> None:
    with h5py.File(path, "r") as file:
        chunk = file[dataset].id.get_chunk_info_by_coord((frame, 0, 0, 0))
    with open(path, "r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)


def test_a_damaged_frame_is_found_at_the_ends_of_a_video_and_else_when_it_is_read(tmp_path: Path) -> None:
    demos = {f"demo_{number}": {"front": noise(5)} for number in range(3)}
    path = robomimic(tmp_path / "a.h5", demos, chunks=(1, 6, 8, 3), compression="gzip")
    damage_chunk(path, "data/demo_0/obs/front", 4)
    damage_chunk(path, "data/demo_1/obs/front", 2)
    videos, left_out = inspected(path)
    assert [entry.key for entry in left_out] == ["demo_0"] and "obs/front which is damaged" in left_out[0].reason
    assert [video.episode for video in videos] == ["demo_1", "demo_2"]
    with pytest.raises(UnreadableVideo, match="demo_1/obs/front is damaged"):
        FORMAT.read(videos[0], np.array([2]))
    np.testing.assert_array_equal(FORMAT.read(videos[0], np.array([4, 1])), noise(5)[[4, 1]])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = robomimic(tmp_path / "a.h5", {f"demo_{n}": {"front": noise(20)} for n in range(3)}, compression="gzip")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UnreadableVideo, match=r"a\.h5 is (truncated or damaged|not an HDF5 file).*; "):
        list(FORMAT.inspect(path))


def test_bytes_written_over_the_middle_of_a_file_never_end_in_another_error(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "a.h5", {f"demo_{n}": {"front": noise(3)} for n in range(3)})
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(content)
        start = int(draw.integers(0, len(content) - 8))
        broken[start : start + 8] = draw.bytes(8)
        path.write_bytes(broken)
        try:
            videos, _ = inspected(path)
            for video in videos:
                FORMAT.read(video, np.arange(video.frames))
        except UnreadableVideo as error:
            assert "\n" not in str(error)


def test_a_file_without_a_usable_picture_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    low = robomimic(tmp_path / "low.h5", {"demo_0": {"eef": np.zeros((3, 2))}})
    with pytest.raises(UnreadableVideo, match="holds no pictures that can be used.*demo_0 has no pictures in obs"):
        list(FORMAT.inspect(low))
    real = robomimic(tmp_path / "real.h5", {"demo_0": {"front": np.zeros((3, 4, 4, 3), np.float32)}})
    with pytest.raises(UnreadableVideo, match="obs/front which is float32; store uint8"):
        list(FORMAT.inspect(real))
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(UnreadableVideo, match="holds no pictures"):
        list(FORMAT.inspect(tmp_path / "empty.h5"))


def test_without_demonstrations_every_array_of_pictures_is_a_video(tmp_path: Path) -> None:
    front, top = noise(3), noise(4, seed=2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["observations/images/front"] = front
        file["observations/images/back"] = front
        file["observations/qpos"] = np.zeros((3, 14))
        file["observations/depth"] = np.zeros((3, 6, 8, 1), np.float32)
        file["film"] = top
        file["odd"] = np.zeros((3, 2, 6, 7), np.uint8)
        file["observations/loop"] = h5py.SoftLink("/observations")
    videos, left_out = inspected(tmp_path / "a.h5")
    assert [(video.key, video.camera, video.episode) for video in videos] == [
        ("film", "", ""),
        ("observations/images/back", "back", "observations/images"),
        ("observations/images/front", "front", "observations/images"),
    ]
    assert [entry.key for entry in left_out] == ["odd"] and "has shape (3, 2, 6, 7)" in left_out[0].reason
    np.testing.assert_array_equal(FORMAT.read(videos[0], np.array([3, 3])), top[[3, 3]])


def test_a_dataset_called_data_is_a_video_as_any_other(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = noise(3)
    assert only(tmp_path / "a.h5").key == "data"


def test_names_may_be_long_and_of_any_script(tmp_path: Path) -> None:
    camera, demo = "カメラ_" + "x" * 300, "démo_7"
    path = tmp_path / ("данные_" + "n" * 200 + ".hdf5")
    video = only(robomimic(path, {demo: {camera: noise(2)}}))
    assert video.key == f"{demo}/obs/{camera}" and video.camera == camera
    np.testing.assert_array_equal(FORMAT.read(video, np.array([1])), noise(2)[[1]])


def test_a_file_that_vanishes_is_reported_gone_and_a_new_one_in_its_place_is_opened(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "a.h5", {"demo_0": {"front": noise(4)}})
    video = only(path)
    FORMAT.read(video, np.array([0]))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        FORMAT.read(video, np.array([0]))
    with pytest.raises(FileNotFoundError):
        list(FORMAT.inspect(path))
    robomimic(path, {"demo_0": {"front": noise(4, seed=5)}})
    np.testing.assert_array_equal(FORMAT.read(video, np.array([2])), noise(4, seed=5)[[2]])
    other = robomimic(tmp_path / "b.h5", {"demo_0": {"front": noise(4, 9, 9)}})
    os.replace(other, path)
    with pytest.raises(UnreadableVideo, match="has changed since it was inspected"):
        FORMAT.read(video, np.array([2]))
    os.replace(robomimic(tmp_path / "b.h5", {"demo_0": {"front": noise(3)}}), path)
    with pytest.raises(UnreadableVideo, match="is shorter than"):
        FORMAT.read(video, np.array([2]))
    os.replace(robomimic(tmp_path / "b.h5", {"demo_0": {"back": noise(4)}}), path)
    with pytest.raises(UnreadableVideo, match="has changed since it was inspected"):
        FORMAT.read(video, np.array([2]))
    path.write_bytes(b"nothing")
    with pytest.raises(UnreadableVideo, match="is damaged"):
        FORMAT.read(video, np.array([2]))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_thousand_reads_of_many_files_keep_few_of_them_open(tmp_path: Path) -> None:
    videos = [
        only(robomimic(tmp_path / f"{number}.h5", {"demo_0": {"front": noise(3, seed=number)}})) for number in range(40)
    ]
    before = descriptors()
    for turn in range(1000):
        number = turn % 40
        np.testing.assert_array_equal(FORMAT.read(videos[number], np.array([1])), noise(3, seed=number)[[1]])
    assert descriptors() <= before + hdf5.OPEN_FILES
    for video in videos[:5]:
        list(FORMAT.inspect(Path(video.path)))
    assert descriptors() <= before + hdf5.OPEN_FILES


def test_threads_reading_at_once_get_the_frames_they_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5._HANDLES, "capacity", 2)  # files are closed and opened all the time
    frames = [noise(10, seed=number) for number in range(4)]
    options = {"chunks": (1, 6, 8, 3), "compression": "gzip"}
    videos = [only(robomimic(tmp_path / f"{n}.h5", {"demo_0": {"front": frames[n]}}, **options)) for n in range(4)]

    def work(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        for _ in range(60):
            number, wanted = int(draw.integers(4)), draw.integers(0, 10, 5)
            if not np.array_equal(FORMAT.read(videos[number], wanted), frames[number][wanted]):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def _read_into(queue: Any, video: VideoInfo, wanted: list[int]) -> None:
    queue.put(FORMAT.read(video, np.array(wanted)))


def test_a_forked_process_reads_while_the_threads_of_its_parent_do(tmp_path: Path) -> None:
    frames = noise(50, 64, 64)
    video = only(robomimic(tmp_path / "a.h5", {"demo_0": {"front": frames}}, compression="gzip"))
    stop = threading.Event()

    def keep_reading() -> None:
        while not stop.is_set():
            FORMAT.read(video, np.arange(50))

    thread = threading.Thread(target=keep_reading)
    thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for number in range(10):
            queue = context.Queue()
            child = context.Process(target=_read_into, args=(queue, video, [number, 0]))
            child.start()
            np.testing.assert_array_equal(queue.get(timeout=20), frames[[number, 0]])
            child.join(20)
    finally:
        stop.set()
        thread.join()


def test_the_format_can_be_pickled() -> None:
    assert isinstance(pickle.loads(pickle.dumps(FORMAT)), HDF5)
