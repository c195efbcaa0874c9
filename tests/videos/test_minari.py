"""Data sets that Minari's own writer makes."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from rsp_robot.videos.formats.minari import Minari
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

H, W = 32, 48
PICTURE = gym.spaces.Box(0, 255, (H, W, 3), np.uint8)
STATE = gym.spaces.Box(-1, 1, (2,), np.float32)
NESTED = gym.spaces.Dict(
    {
        "front": PICTURE,
        "arm": gym.spaces.Dict({"wrist": PICTURE, "joints": STATE}),
        "pair": gym.spaces.Tuple((PICTURE, STATE)),
    }
)


def pictures(count: int, shift: int = 0, channels: int = 3, height: int = H, width: int = W) -> np.ndarray:
    """Picture t is evenly 20 + 10 t + shift; that survives JPEG."""
    values = (20 + shift + 10 * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, height, width, channels)).copy()


def noted(frames: np.ndarray) -> list[int]:
    """The even value of each picture, by its mean."""
    return np.rint(frames.mean((1, 2, 3))).astype(int).tolist()


def buffer(number: int, steps: int, observations: Any, infos: Any = None) -> Any:
    return minari.data_collector.EpisodeBuffer(
        id=number,
        observations=observations,
        actions=np.zeros((steps, 2), np.float32),
        rewards=np.zeros(steps),
        terminations=np.zeros(steps, bool),
        truncations=np.arange(steps) == steps - 1,
        infos=infos or {},
    )


def nested(number: int, steps: int) -> Any:
    count = steps + 1
    state = np.zeros((count, 2), np.float32)
    observations = {
        "front": pictures(count),
        "arm": {"wrist": pictures(count, 3), "joints": state},
        "pair": (pictures(count, 6), state),
    }
    return buffer(number, steps, observations)


@pytest.fixture
def create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``create(buffers, space)`` -> the data set's folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def make(buffers: list[Any], space: gym.Space = NESTED, name: str = "toy/reach-v0", **options: Any) -> Path:
        minari.create_dataset_from_buffers(name, buffers, observation_space=space, action_space=STATE, **options)
        return tmp_path / name

    return make


def split(path: Path) -> tuple[list[VideoInfo], list[Quarantined]]:
    found = list(Minari().inspect(path))
    return [one for one in found if isinstance(one, VideoInfo)], [one for one in found if isinstance(one, Quarantined)]


def spoil(stored: h5py.Dataset, row: int) -> None:
    """Keep the first bytes of a picture."""
    content = stored[row]
    content[20:] = 0
    stored[row] = content


def test_every_camera_of_every_episode_is_a_video_with_the_picture_after_the_last_action(create: Any) -> None:
    videos, bad = split(create([nested(0, 3), nested(1, 5)]))
    assert not bad
    assert [(video.key, video.frames) for video in videos] == [
        ("episode_0/observations/arm/wrist", 4),
        ("episode_0/observations/front", 4),
        ("episode_0/observations/pair/_index_0", 4),
        ("episode_1/observations/arm/wrist", 6),
        ("episode_1/observations/front", 6),
        ("episode_1/observations/pair/_index_0", 6),
    ]
    assert [video.camera for video in videos[:3]] == ["arm/wrist", "front", "pair/_index_0"]
    assert {(video.height, video.width, video.task, video.fps) for video in videos} == {(H, W, "toy/reach-v0", 0.0)}
    assert [video.episode for video in videos] == ["episode_0"] * 3 + ["episode_1"] * 3
    assert len({video.digest for video in videos}) == 1 and len(videos[0].digest) == 32


def test_frames_are_those_written_in_any_order_and_repeated(create: Any) -> None:
    videos, _ = split(create([nested(0, 3), nested(1, 5)]))
    read = Minari().read(videos[3], np.array([5, 0, 5, 2]))
    assert read.shape == (4, H, W, 3) and read.dtype == np.uint8
    assert noted(read) == [73, 23, 73, 43]
    assert noted(Minari().read(videos[5], np.array([1]))) == [36]
    assert Minari().read(videos[0], np.array([], int)).shape == (0, H, W, 3)
    with pytest.raises(IndexError):
        Minari().read(videos[0], np.array([4]))


def test_frames_equal_those_that_minari_reads_itself(create: Any) -> None:
    rng = np.random.default_rng(0)
    busy = rng.integers(0, 255, (4, H, W, 3), np.uint8)
    path = create([buffer(0, 3, busy)], PICTURE)
    (video,), _ = split(path)
    assert (video.camera, video.key) == ("observations", "episode_0/observations")
    theirs = minari.load_dataset("toy/reach-v0")[0].observations
    np.testing.assert_array_equal(Minari().read(video, np.arange(4)), theirs)


def test_lists_of_pictures_as_a_collector_leaves_them_and_those_in_infos_are_read(create: Any) -> None:
    space = gym.spaces.Dict({"front": PICTURE, "state": STATE})
    buffers = [
        buffer(
            number,
            4,
            {"front": list(pictures(5)), "state": list(np.zeros((5, 2), np.float32))},
            {"view": list(pictures(5, 5)), "camera": {"depth": np.zeros((5, H, W), np.float32)}},
        )
        for number in range(2)
    ]
    videos, bad = split(create(buffers, space))
    assert not bad
    assert [(video.key, video.camera, video.frames) for video in videos] == [
        ("episode_0/observations/front", "front", 5),
        ("episode_0/infos/view", "infos/view", 5),
        ("episode_1/observations/front", "front", 5),
        ("episode_1/infos/view", "infos/view", 5),
    ]
    assert noted(Minari().read(videos[2], np.arange(5))) == [20, 30, 40, 50, 60]
    assert noted(Minari().read(videos[3], np.arange(5))) == [25, 35, 45, 55, 65]


@pytest.mark.parametrize("part", ["", "data", "data/main_data.hdf5"])
def test_the_data_set_its_data_folder_and_its_file_are_all_claimed(create: Any, part: str) -> None:
    path = create([nested(0, 2)]) / part
    assert Minari().claims(path)
    videos, _ = split(path)
    assert len(videos) == 3 and videos[0].path == str(path)
    assert noted(Minari().read(videos[1], np.array([2]))) == [40]


def test_other_files_and_folders_are_not_claimed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/metadata.json").write_text("{}")
    with h5py.File(tmp_path / "demo.hdf5", "w"):
        pass
    assert not Minari().claims(tmp_path) and not Minari().claims(tmp_path / "demo.hdf5")
    assert not Minari().claims(tmp_path / "nowhere")


def test_alpha_is_dropped_and_small_codes_are_no_pictures(create: Any) -> None:
    space = gym.spaces.Dict(
        {"rgba": gym.spaces.Box(0, 255, (H, W, 4), np.uint8), "grid": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8)}
    )
    frames = pictures(3, channels=4)
    frames[..., 3] = 9
    (video,), bad = split(create([buffer(0, 2, {"rgba": frames, "grid": pictures(3, height=7, width=7)})], space))
    assert video.camera == "rgba" and not bad
    np.testing.assert_array_equal(Minari().read(video, np.array([2, 0])), frames[[2, 0], ..., :3])


def test_plain_pixels_of_older_versions_are_read_grey_ones_too(tmp_path: Path) -> None:
    folder = tmp_path / "door-human-v0" / "data"
    folder.mkdir(parents=True)
    colour, grey = pictures(4), pictures(4, channels=1)
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["rewards"] = np.zeros(3)
        group["observations/colour"], group["observations/grey"] = colour, grey
        group["observations/flat"] = grey[..., 0]
    videos, bad = split(folder.parent)
    assert [video.camera for video in videos] == ["colour", "flat", "grey"] and not bad
    for video in videos:
        np.testing.assert_array_equal(Minari().read(video, np.array([3, 1])), colour[[3, 1]])


def test_the_frame_rate_is_taken_from_the_options_of_the_environment(create: Any) -> None:
    path = create([nested(0, 2)])
    metadata = json.loads((path / "data/metadata.json").read_text())
    metadata["env_spec"] = json.dumps({"id": "Toy-v0", "kwargs": {"render_fps": 25}})
    (path / "data/metadata.json").write_text(json.dumps(metadata))
    assert {video.fps for video in split(path)[0]} == {25.0}
    (path / "data/metadata.json").write_text("{ not json")
    assert {(video.fps, video.task) for video in split(path)[0]} == {(0.0, "")}


def test_damaged_episodes_are_left_out_with_both_numbers_and_the_others_stay(create: Any) -> None:
    path = create([nested(number, 3) for number in range(5)])
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        del file["episode_1"]
        del file["episode_2/observations/front"]
        file["episode_2/observations/front"] = pictures(2)
        del file["episode_3/observations"]
        del file["episode_4/observations/arm"]
    videos, bad = split(path)
    assert [video.key for video in videos if video.camera == "front"] == [
        f"episode_{number}/observations/front" for number in (0, 4)
    ]
    assert len(videos) == 7
    reasons = {one.key: one.reason for one in bad}
    assert list(reasons) == ["episode_1", "episode_2/observations/front", "episode_3", "episode_4/arm/wrist"]
    assert "missing" in reasons["episode_1"]
    assert "3 steps but 2 pictures" in reasons["episode_2/observations/front"]
    assert "no observations" in reasons["episode_3"] and "this episode only" in reasons["episode_4/arm/wrist"]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_picture_that_cannot_be_decoded_costs_its_episode(create: Any) -> None:
    path = create([nested(0, 3), nested(1, 3)])
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        spoil(file["episode_0/observations/front"], 0)
    videos, bad = split(path)
    assert {video.episode for video in videos} == {"episode_1"} and len(videos) == 3
    assert [one.key for one in bad] == ["episode_0"] and "damaged" in bad[0].reason
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        spoil(file["episode_1/observations/front"], 2)
    (front,) = [video for video in split(path)[0] if video.camera == "front"]
    assert noted(Minari().read(front, np.array([1]))) == [30]
    with pytest.raises(UnreadableVideo, match="damaged picture"):
        Minari().read(front, np.array([1, 2]))


def test_files_that_are_no_use_at_all_say_why(create: Any, tmp_path: Path) -> None:
    path = create([nested(0, 2)])
    main = path / "data/main_data.hdf5"
    content = main.read_bytes()
    main.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableVideo, match="damaged"):
        list(Minari().inspect(path))
    main.write_bytes(b"")
    with pytest.raises(UnreadableVideo, match="damaged"):
        list(Minari().inspect(path))
    blind = create([buffer(0, 2, np.zeros((3, 2), np.float32))], STATE, "toy/blind-v0")
    with pytest.raises(UnreadableVideo, match="no pictures"):
        list(Minari().inspect(blind))
    (tmp_path / "other/data").mkdir(parents=True)
    (tmp_path / "other/data/metadata.json").write_text('{"data_format": "arrow"}')
    assert Minari().claims(tmp_path / "other")
    with pytest.raises(UnreadableVideo, match="arrow.*hdf5"):
        list(Minari().inspect(tmp_path / "other"))


def test_groups_that_contain_themselves_end(create: Any) -> None:
    path = create([nested(0, 2)])
    with h5py.File(path / "data/main_data.hdf5", "a") as file:
        file["episode_0/observations/arm/again"] = file["episode_0/observations"]
    assert "front" in {video.camera for video in split(path)[0]}


def test_a_file_that_is_gone_or_has_changed_since_is_told_apart(create: Any) -> None:
    path = create([nested(0, 2)])
    video = split(path)[0][0]
    with open(path / "data/main_data.hdf5", "ab") as file:
        file.write(b"more")
    with pytest.raises(UnreadableVideo, match="changed"):
        Minari().read(video, np.array([0]))
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError):
        Minari().read(video, np.array([0]))
    with pytest.raises(FileNotFoundError):
        list(Minari().inspect(path))


def test_videos_survive_json_and_threads_share_one_object(create: Any) -> None:
    videos, _ = split(create([nested(number, 6) for number in range(3)]))
    videos = [VideoInfo(**json.loads(json.dumps(asdict(video)))) for video in videos if video.camera == "front"]
    reader = Minari()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(reader.read, videos[n % 3], np.array([n % 7])) for n in range(60)]
        assert [noted(job.result()) for job in jobs] == [[20 + 10 * (n % 7)] for n in range(60)]


def test_jpegs_of_one_length_are_stored_as_an_array_and_read(create: Any) -> None:
    path = create([buffer(0, 2, np.full((3, H, W, 3), 77, np.uint8))], PICTURE)
    with h5py.File(path / "data/main_data.hdf5") as file:
        stored = file["episode_0/observations"]
        assert stored.ndim == 2
    (video,), _ = split(path)
    assert video.frames == 3 and noted(Minari().read(video, np.arange(3))) == [77, 77, 77]
