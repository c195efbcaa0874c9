"""``open_videos``: everything that holds videos through one door."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import rsp_robot
from rsp_robot.errors import UserError
from rsp_robot.videos import UnreadableVideo, VideoInfo, Videos, open_videos, write_quarantine
from rsp_robot.videos.source import Choice

Record = Callable[..., Path]
CAMERAS = ("front", "wrist")


def demonstrations(path: Path, lengths: tuple[int, ...] = (3, 5), cameras: tuple[str, ...] = CAMERAS) -> Path:
    """Frame t of demonstration d, camera c is filled with 100 c + 10 d + t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = '{"env_name": "Lift", "env_kwargs": {"control_freq": 20}}'
        for demo, length in enumerate(lengths):
            group = data.create_group(f"demo_{demo}")
            group["actions"] = np.zeros((length, 2), np.float32)
            for number, camera in enumerate(cameras):
                pictures = np.empty((length, 4, 6, 3), np.uint8)
                pictures[:] = (100 * number + 10 * demo + np.arange(length))[:, None, None, None]
                group[f"obs/{camera}"] = pictures
    return path


def mixture(root: Path, record: Record) -> Path:
    """Four formats and three broken files."""
    record(root / "films" / "pour" / "a.mp4", 6)
    record(root / "films" / "pour" / "b.mkv", 5)
    record(root / "films" / "stack" / "c.gif", 4)
    (root / "films" / "stack" / "text.mp4").write_text("no film")
    (root / "films" / "stack" / "empty.webm").touch()
    demonstrations(root / "demos.hdf5")
    np.save(root / "array.npy", np.full((7, 8, 9, 3), 9, np.uint8))
    (root / "cut.npy").write_bytes((root / "array.npy").read_bytes()[:200])
    for number in range(3):
        (root / "pictures").mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 5, 3), number, np.uint8)).save(root / "pictures" / f"{number}.png")
    return root


def test_a_tree_of_everything(tmp_path: Path, record: Record) -> None:
    source = open_videos(mixture(tmp_path, record))
    assert isinstance(source, Videos)
    found = {(video.format, video.frames, video.task) for video in source.videos}
    assert found == {
        ("array", 7, ""),
        ("file", 6, "films"),
        ("file", 5, "films"),
        ("file", 4, "films"),
        ("hdf5", 3, "Lift"),
        ("hdf5", 5, "Lift"),
        ("images", 3, ""),
    }
    assert sorted(Path(row.path).name for row in source.quarantined) == ["cut.npy", "empty.webm", "text.mp4"]
    for number, video in enumerate(source.videos):
        frames = source.read(number, [video.frames - 1, 0])
        assert frames.shape == (2, video.height, video.width, 3) and frames.dtype == np.uint8
    assert source.summary() == "9 videos, 41 frames, 2 s, 2 cameras"


def test_what_is_left_out_is_written_for_people(tmp_path: Path, record: Record) -> None:
    source = open_videos(mixture(tmp_path / "data", record))
    write_quarantine(tmp_path / "quarantine.txt", source.quarantined)
    lines = (tmp_path / "quarantine.txt").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{tmp_path}/data/cut.npy: ")


def test_strict_refuses_what_is_broken(tmp_path: Path, record: Record) -> None:
    with pytest.raises(UserError, match=r"cut.npy: .* \(and 2 more\); mend it, or leave out --strict"):
        open_videos(mixture(tmp_path, record), strict=True)
    assert len(open_videos(tmp_path / "demos.hdf5", strict=True)) == 4


def test_several_places_with_weights(tmp_path: Path, record: Record) -> None:
    mixture(tmp_path, record)
    source = open_videos(f"{tmp_path / 'demos.hdf5'}=3,{tmp_path / 'films'}=1")
    assert [(group.start, group.stop, group.weight) for group in source.groups] == [(0, 4, 0.75), (4, 7, 0.25)]
    assert {video.format for video in source.videos[:4]} == {"hdf5"}
    assert [video.task for video in source.videos[4:]] == ["pour", "pour", "stack"]
    assert source.summary().endswith("from 2 places")
    with pytest.raises(UserError, match=r"films has a weight and no video that can be used; leave it out of --data"):
        open_videos(f"{tmp_path / 'demos.hdf5'}=3,{tmp_path / 'films'}=1", tasks=["Lift"])


def test_cameras_tasks_and_episodes_are_chosen_by_patterns(tmp_path: Path, record: Record) -> None:
    demonstrations(tmp_path / "demos.hdf5")
    record(tmp_path / "pour" / "a.mp4", 6)
    record(tmp_path / "stack" / "b.mp4", 6)

    def chosen(**choice: list[str]) -> list[str]:
        return [Path(video.path).stem + video.key[-5:] for video in open_videos(tmp_path, **choice).videos]

    assert chosen(cameras=["front"]) == ["demosfront", "demosfront", "a", "b"], "a film has no camera and passes"
    assert chosen(cameras=["w*"], episodes=["demo_1"]) == ["demoswrist", "a", "b"]
    assert chosen(tasks=["pour", "Lift"]) == ["demosfront", "demoswrist"] * 2 + ["a"]


def test_choices_that_fit_nothing_are_told(tmp_path: Path) -> None:
    path = demonstrations(tmp_path / "demos.hdf5")
    with pytest.raises(UserError, match="no video has the camera 'side'; there are: front, wrist"):
        open_videos(path, cameras=["side"])
    with pytest.raises(UserError, match="no video has the episode 'demo_9'; there are: demo_0, demo_1"):
        open_videos(path, episodes=["demo_9"])
    videos = [VideoInfo("file", "a", "", 3, 4, 4, camera=camera, task=task) for camera, task in ("ap", "bq")]
    with pytest.raises(UserError, match="no video fits all of --cameras, --tasks and --episodes; loosen one of them"):
        Choice(cameras=("a",), tasks=("q",)).of(videos)
    with pytest.raises(UserError, match="no video has the camera 'x'; there are: none with a name"):
        Choice(cameras=("x",)).of([VideoInfo("file", "a", "", 3, 4, 4)])


def test_a_frame_rate_for_those_that_have_none(tmp_path: Path, record: Record) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4, 3), np.uint8))
    record(tmp_path / "b.mp4", 3, fps=10)
    assert [video.fps for video in open_videos(tmp_path).videos] == [0.0, 10.0]
    assert [video.fps for video in open_videos(tmp_path, fps=25.0).videos] == [25.0, 10.0]


def test_frames_come_in_the_order_asked_for_and_only_those_there_are(tmp_path: Path) -> None:
    source = open_videos(demonstrations(tmp_path / "demos.hdf5"), cameras=["wrist"])
    assert source.read(1, np.array([4, 0, 4]))[:, 0, 0, 0].tolist() == [114, 110, 114]
    assert source.read(0, []).shape == (0, 4, 6, 3)
    for frame in (-1, 3):
        with pytest.raises(IndexError, match=f"frames .*{frame}.* of a video of 3"):
            source.read(0, [0, frame])


def test_a_file_that_vanishes_after_the_look(tmp_path: Path, record: Record) -> None:
    paths = [
        record(tmp_path / "a.mp4", 4),
        demonstrations(tmp_path / "d.hdf5", cameras=("front",), lengths=(3,)),
    ]
    for path in paths:
        source = open_videos(path)
        path.unlink()
        with pytest.raises(UnreadableVideo, match=f"{path}.* cannot be read any more .No such file"):
            source.read(0, [0])


def test_a_file_that_became_another(tmp_path: Path) -> None:
    source = open_videos(demonstrations(tmp_path / "demos.hdf5"))
    (tmp_path / "demos.hdf5").unlink()
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        file["data/demo_0/obs/front"] = np.zeros((3, 9, 9, 3), np.uint8)
    with pytest.raises(UnreadableVideo):
        source.read(0, [0])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "absent does not exist; give a video, a folder of videos or a demonstration file"),
        ("notes.txt", r"notes.txt is no file of videos; it would end in one of .*\.mp4.*\.hdf5.*\.npy"),
        ("folder", "there are no videos below .*folder; it needs a data set, pictures, or one of"),
    ],
)
def test_nothing_to_open(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=said) as error:
        open_videos(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_place_where_everything_is_broken_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_text("no HDF5")
    with pytest.raises(UserError, match=r"a.hdf5: .*"):
        open_videos(tmp_path)


def test_names_in_any_script_and_of_any_length(tmp_path: Path, record: Record) -> None:
    long = "й" * ((255 - len(".mp4")) // 2) + ".mp4"
    made = record(tmp_path / "a.mp4", 3)
    for name in ("équipe 机器人 🤖.mp4", long, "with\nnewline.mp4"):
        (tmp_path / name).write_bytes(made.read_bytes())
    (tmp_path / os.fsdecode(b"latin-\xe9.mp4")).write_bytes(made.read_bytes())
    for _ in range(2):
        source = open_videos(tmp_path)
        assert len(source) == 5 and not source.quarantined
        assert all(source.read(video, [2]).shape == (1, 32, 48, 3) for video in range(5))


def test_it_is_what_the_package_offers(tmp_path: Path, record: Record) -> None:
    assert len(rsp_robot.open_videos(record(tmp_path / "a.mp4", 3))) == 1
