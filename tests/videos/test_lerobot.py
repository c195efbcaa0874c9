"""LeRobot data sets of versions 2.0, 2.1 and 3.0, whole and damaged."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rsp_robot.videos.formats import lerobot
from rsp_robot.videos.formats.decoding import Layout
from rsp_robot.videos.formats.lerobot import LeRobot
from rsp_robot.videos.formats.lerobot_meta import fill
from rsp_robot.videos.info import Quarantined, UnreadableVideo, VideoInfo

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
BOTH = {FRONT: "video", WRIST: "image"}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


writer = load("lerobot_writer")
write_v21, write_v30, said = writer.write_v21, writer.write_v30, writer.said
WRITERS = pytest.mark.parametrize("write", [write_v21, write_v30], ids=["v2.1", "v3.0"])


def split(path: Path) -> tuple[list[VideoInfo], dict[str, str]]:
    found = list(LeRobot().inspect(path))
    bad = [one for one in found if isinstance(one, Quarantined)]
    assert all(one.path == str(path) and "\n" not in one.reason for one in bad)
    return [one for one in found if isinstance(one, VideoInfo)], {one.key: one.reason for one in bad}


def assert_reads_right(video: VideoInfo, episode: int, camera: int) -> None:
    """Every frame alone, all in order, and some in disorder."""
    length = video.frames
    told = [(number, episode, camera) for number in range(length)]
    assert said(LeRobot().read(video, np.arange(length))) == told
    for number in range(length):
        assert said(LeRobot().read(video, np.array([number]))) == [told[number]]
    jumbled = np.array([length - 1, 0, length // 2, length - 1])
    assert said(LeRobot().read(video, jumbled)) == [told[number] for number in jumbled]


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# -- whole data sets -------------------------------------------------------------------------------------------------


@WRITERS
@pytest.mark.parametrize("kind", ["video", "image"])
def test_every_camera_of_every_episode_is_a_video_with_its_own_frames(tmp_path: Path, write: Any, kind: str) -> None:
    videos, bad = split(write(tmp_path, cameras={FRONT: kind, WRIST: kind}))
    assert not bad
    assert [(video.key, video.frames) for video in videos] == [
        (f"episode_{episode:06d}/{feature}", length)
        for episode, length in enumerate((5, 8, 3))
        for feature in (FRONT, WRIST)
    ]
    assert [video.camera for video in videos] == ["front", "wrist"] * 3
    assert [video.episode for video in videos[::2]] == [f"episode_{episode:06d}" for episode in range(3)]
    assert [video.task for video in videos[::2]] == ["Pick up the cube.", "Open the drawer.", "Pick up the cube."]
    assert {(video.height, video.width, video.fps, video.format, video.path) for video in videos} == {
        (24, 96, 10.0, "lerobot", str(tmp_path))
    }
    assert all(len(video.digest) == 32 for video in videos)
    for number, video in enumerate(videos):
        assert_reads_right(video, number // 2, number % 2)


@WRITERS
def test_films_and_pictures_may_be_mixed(tmp_path: Path, write: Any) -> None:
    videos, bad = split(write(tmp_path, cameras=BOTH))
    assert len(videos) == 6 and not bad
    for number, video in enumerate(videos):
        assert_reads_right(video, number // 2, number % 2)
    read = LeRobot().read(videos[1], np.array([2]))
    assert read.dtype == np.uint8 and read.shape == (1, 24, 96, 3)
    assert LeRobot().read(videos[1], np.array([], int)).shape == (0, 24, 96, 3)
    with pytest.raises(IndexError):
        LeRobot().read(videos[0], np.array([5]))
    with pytest.raises(IndexError):
        LeRobot().read(videos[1], np.array([-1]))


def test_version_2_0_is_read_as_2_1(tmp_path: Path) -> None:
    videos, bad = split(write_v21(tmp_path, version="v2.0"))
    assert len(videos) == 6 and not bad
    assert_reads_right(videos[3], 1, 1)


@pytest.mark.parametrize("fps", [10, 30])
def test_many_episodes_of_odd_lengths_in_one_film_keep_to_their_own_frames(tmp_path: Path, fps: int) -> None:
    lengths = [7, 5, 1, 12, 9, 3, 11, 2]
    path = write_v30(tmp_path, lengths, fps, {FRONT: "video"}, [0] * 8, [0, 0, 0, 0, 1, 1, 1, 1])
    videos, bad = split(path)
    assert not bad and [video.frames for video in videos] == lengths
    for episode, video in enumerate(videos):
        assert_reads_right(video, episode, 0)


def test_timestamps_that_have_drifted_by_less_than_half_a_frame_are_mended(tmp_path: Path) -> None:
    drift = 0.4 / 10
    edit = {(1, f"videos/{FRONT}/from_timestamp"): 0.5 + drift, (1, f"videos/{FRONT}/to_timestamp"): 1.3 - drift}
    edit |= {(0, f"videos/{FRONT}/to_timestamp"): 0.5 + drift}
    videos, bad = split(write_v30(tmp_path, cameras={FRONT: "video"}, edit=edit))
    assert not bad
    for episode, video in enumerate(videos):
        assert_reads_right(video, episode, 0)


@WRITERS
def test_each_file_is_looked_at_once_however_many_episodes_it_holds(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    looks: Counter[Path] = Counter()

    def counted(file: Path) -> VideoInfo:
        looks[file] += 1
        return inspect_file(file)

    inspect_file = lerobot.inspect_file
    monkeypatch.setattr(lerobot, "inspect_file", counted)
    split(path)
    assert set(looks) == set(path.rglob("*.mp4")) and set(looks.values()) == {1}


def test_what_an_episode_carries_does_not_grow_with_its_film(tmp_path: Path) -> None:
    videos, bad = split(write_v30(tmp_path, [12] * 12, 10, {FRONT: "video"}, [0] * 12, [0] * 12))
    sizes = [len(json.dumps(dict(video.detail))) for video in videos]
    assert not bad and max(sizes) < 500
    assert_reads_right(videos[11], 11, 0)


def test_decoding_an_episode_begins_at_its_own_key_frame_not_at_the_start_of_the_film(tmp_path: Path) -> None:
    path = write_v30(tmp_path, [7, 5, 9, 3], 10, {FRONT: "video"}, [0] * 4, [0] * 4)
    whole = Layout.of(lerobot.inspect_file(next(path.rglob("*.mp4"))).detail)
    assert whole.times is not None
    for video in split(path)[0][1:]:
        part, first = Layout.of(video.detail["film"]), video.detail["first"]
        assert part.times is not None
        begins = part.times[part.keys[1:]]  # what lies before the second key frame is decoded from the start
        assert np.isin(begins, whole.times[whole.keys]).all()
        assert part.times[first - 1] <= begins[0] <= part.times[first]  # every second frame is a key frame


def test_several_tasks_are_joined_and_numbers_are_looked_up(tmp_path: Path) -> None:
    path = write_v21(tmp_path / "old", (2, 2))
    rows = [
        {"episode_index": 0, "tasks": ["Grasp.", "Lift."], "length": 2},
        {"episode_index": 1, "tasks": [1], "length": 2},
    ]
    writer.write_lines(path / "meta/episodes.jsonl", rows)
    assert [video.task for video in split(path)[0][::2]] == ["Grasp.; Lift.", "Open the drawer."]
    path = write_v30(
        tmp_path / "new", (2, 2), film_of=(0, 0), data_of=(0, 0), edit={(0, "tasks"): [1], (1, "tasks"): [0]}
    )
    assert [video.task for video in split(path)[0][::2]] == ["Open the drawer.", "Pick up the cube."]


def test_features_without_the_usual_prefix_keep_their_name_and_depth_is_told(tmp_path: Path) -> None:
    path = write_v21(tmp_path, (3,), cameras={"top": "video", "depth": "video"})
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["depth"]["info"] = {"is_depth_map": True}
    (path / "meta/info.json").write_text(json.dumps(info))
    videos, bad = split(path)
    assert [video.camera for video in videos] == ["top"]
    assert list(bad) == ["depth"] and "not colour" in bad["depth"]


@WRITERS
def test_videos_survive_json_and_threads_share_one_object(tmp_path: Path, write: Any) -> None:
    videos, _ = split(write(tmp_path, cameras=BOTH))
    videos = [VideoInfo(**json.loads(json.dumps(asdict(video)))) for video in videos]
    reader = LeRobot()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(reader.read, videos[n % 6], np.array([n % 3])) for n in range(48)]
        assert [said(job.result()) for job in jobs] == [[(n % 3, n % 6 // 2, n % 2)] for n in range(48)]


# -- what is claimed -------------------------------------------------------------------------------------------------


def test_only_folders_whose_info_names_a_version_are_claimed(tmp_path: Path) -> None:
    path = write_v21(tmp_path / "set", (2,))
    assert LeRobot().claims(path)
    assert not LeRobot().claims(path / "videos") and not LeRobot().claims(path / "meta/info.json")
    assert not LeRobot().claims(tmp_path / "nowhere")
    (path / "meta/info.json").write_text("{}")
    assert not LeRobot().claims(path)


@pytest.mark.parametrize("version", ["v1.6", "v4.0", "None"])
def test_other_versions_are_refused_by_name(tmp_path: Path, version: str) -> None:
    path = write_v21(tmp_path, (2,))
    edit_json(path / "meta/info.json", codebase_version=version)
    assert LeRobot().claims(path)
    with pytest.raises(UnreadableVideo, match=rf"version {version}.*v2\.0, v2\.1, v3\.0"):
        split(path)


def test_a_damaged_description_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = write_v21(tmp_path / "a", (2,))
    text = (path / "meta/info.json").read_text()
    (path / "meta/info.json").write_text(text[: len(text) // 2])
    assert LeRobot().claims(path)
    with pytest.raises(UnreadableVideo, match="damaged"):
        split(path)
    path = write_v21(tmp_path / "b", (2,))
    (path / "meta/episodes.jsonl").unlink()
    with pytest.raises(UnreadableVideo, match="no episode"):
        split(path)
    path = write_v30(tmp_path / "c")
    shutil.rmtree(path / "meta/episodes")
    with pytest.raises(UnreadableVideo, match="no episode"):
        split(path)
    path = write_v21(tmp_path / "d", (2,), cameras={})
    with pytest.raises(UnreadableVideo, match="no camera"):
        split(path)


@pytest.mark.parametrize(
    "template",
    [
        "../outside/{episode_index}.mp4",
        "/etc/{episode_index}.mp4",
        "videos/../../{episode_index}.mp4",
        "{video_key.__class__}.mp4",
        "{video_key[0]}.mp4",
        "{episode_index:999999999d}.mp4",
        "{home}.mp4",
        "{video_key!r}.mp4",
        "{episode_index",
        "{}.mp4",
    ],
)
def test_a_template_that_leads_elsewhere_or_asks_for_more_is_refused(tmp_path: Path, template: str) -> None:
    path = write_v21(tmp_path / "set", (2,), cameras={FRONT: "video"}, video_path=template)
    with pytest.raises(UnreadableVideo, match="template"):
        split(path)


def test_templates_are_filled_as_str_format_would() -> None:
    fields: Mapping[str, int | str] = {"episode_chunk": 3, "episode_index": 3012, "video_key": "top"}
    for template in (
        "v/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "{episode_index}",
        "{{x}}",
    ):
        assert fill(template, fields) == template.format(**fields)


# -- damage and disagreement -----------------------------------------------------------------------------------------

MP4_1 = f"videos/chunk-000/{FRONT}/episode_000001.mp4"
DATA_1 = "data/chunk-000/episode_000001.parquet"
KEY_1 = f"episode_000001/{FRONT}"


def test_an_episode_whose_film_is_shorter_is_left_out_with_both_numbers(tmp_path: Path) -> None:
    path = write_v21(tmp_path)
    writer.write_film(path / MP4_1, writer.frames_of(1, 0, 6), 10)
    videos, bad = split(path)
    assert len(videos) == 5 and list(bad) == [KEY_1]
    assert "8 frames" in bad[KEY_1] and "has 6" in bad[KEY_1] and MP4_1 in bad[KEY_1]


def test_an_episode_whose_table_is_shorter_is_left_out_with_all_its_cameras(tmp_path: Path) -> None:
    path = write_v21(tmp_path, cameras=BOTH)
    pq.write_table(pq.read_table(path / DATA_1).slice(0, 7), path / DATA_1)
    videos, bad = split(path)
    assert len(videos) == 4 and list(bad) == [KEY_1, f"episode_000001/{WRIST}"]
    assert all("8 frames" in reason and "7 rows" in reason for reason in bad.values())


@pytest.mark.parametrize("how", ["missing", "empty", "text", "half"])
def test_a_missing_or_damaged_film_costs_only_its_episode(tmp_path: Path, how: str) -> None:
    path = write_v21(tmp_path)
    content = (path / MP4_1).read_bytes()
    if how == "missing":
        (path / MP4_1).unlink()
    else:
        (path / MP4_1).write_bytes({"empty": b"", "text": b"not a film\n", "half": content[: len(content) // 2]}[how])
    videos, bad = split(path)
    assert len(videos) == 5 and list(bad) == [KEY_1] and MP4_1 in bad[KEY_1]
    assert ("is missing" in bad[KEY_1]) == (how == "missing")
    assert_reads_right(videos[-1], 2, 1)


@pytest.mark.parametrize("how", ["missing", "empty", "half"])
def test_a_missing_or_damaged_table_costs_only_its_episode(tmp_path: Path, how: str) -> None:
    path = write_v21(tmp_path, cameras={WRIST: "image"})
    content = (path / DATA_1).read_bytes()
    if how == "missing":
        (path / DATA_1).unlink()
    else:
        (path / DATA_1).write_bytes(content[: len(content) // 2] if how == "half" else b"")
    videos, bad = split(path)
    assert [video.episode for video in videos] == ["episode_000000", "episode_000002"]
    assert list(bad) == [f"episode_000001/{WRIST}"]
    assert ("is missing" in next(iter(bad.values()))) == (how == "missing")


def test_a_film_of_several_episodes_that_is_missing_costs_just_those(tmp_path: Path) -> None:
    path = write_v30(tmp_path)
    (path / f"videos/{FRONT}/chunk-000/file-000.mp4").unlink()
    videos, bad = split(path)
    assert list(bad) == [f"episode_000000/{FRONT}", KEY_1] and all("is missing" in reason for reason in bad.values())
    assert [video.key for video in videos if video.camera == "front"] == [f"episode_000002/{FRONT}"]
    assert len(videos) == 4


def test_a_film_that_ends_early_costs_the_episodes_beyond_its_end(tmp_path: Path) -> None:
    path = write_v30(tmp_path, cameras={FRONT: "video"})
    frames = np.concatenate([writer.frames_of(0, 0, 5), writer.frames_of(1, 0, 6)])
    writer.write_film(path / f"videos/{FRONT}/chunk-000/file-000.mp4", frames, 10)
    videos, bad = split(path)
    assert list(bad) == [KEY_1] and "1.300 s" in bad[KEY_1] and "1.100 s" in bad[KEY_1]
    assert_reads_right(videos[0], 0, 0)


@pytest.mark.parametrize(
    ("column", "value", "said_so"),
    [
        ("length", 7, ("7 frames", "5 to 13 (8)")),
        ("dataset_to_index", 14, ("8 frames", "5 to 14 (9)")),
        (f"videos/{FRONT}/from_timestamp", 0.7, ("8 frames", "has 6 from 0.700 to 1.300 s")),
        (f"videos/{FRONT}/to_timestamp", 1.1, ("8 frames", "has 6 from 0.500 to 1.100 s")),
        (f"videos/{FRONT}/to_timestamp", 2.0, ("0.500 to 2.000 s", "ends at 1.300 s")),
        (f"videos/{FRONT}/from_timestamp", 5.0, ("5.000 to 1.300 s", "ends at 1.300 s")),
        (f"videos/{FRONT}/from_timestamp", None, ("names no film",)),
        (f"videos/{FRONT}/from_timestamp", float("nan"), ("",)),
        (f"videos/{FRONT}/file_index", 9, ("file-009.mp4 is missing",)),
        ("data/file_index", 9, ("file-009.parquet is missing",)),
    ],
)
def test_version_3_episodes_that_contradict_themselves_are_left_out(
    tmp_path: Path, column: str, value: Any, said_so: tuple[str, ...]
) -> None:
    videos, bad = split(write_v30(tmp_path, cameras={FRONT: "video"}, edit={(1, column): value}))
    assert [video.episode for video in videos] == ["episode_000000", "episode_000002"]
    assert list(bad) == [KEY_1]
    assert all(part in bad[KEY_1] for part in said_so), bad[KEY_1]


def test_version_3_rows_must_be_as_many_as_frames_and_lie_together(tmp_path: Path) -> None:
    path = write_v30(tmp_path, cameras={WRIST: "image"})
    data = path / "data/chunk-000/file-000.parquet"
    whole = pq.read_table(data)
    pq.write_table(whole.slice(0, 15), data)
    videos, bad = split(path)
    assert (
        len(videos) == 2 and "3 frames" in bad[f"episode_000002/{WRIST}"] and "2 rows" in bad[f"episode_000002/{WRIST}"]
    )
    pq.write_table(whole.take([0, 1, 2, 3, 15, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 4]), data)
    videos, bad = split(path)
    assert [video.episode for video in videos] == ["episode_000001"] and len(bad) == 2
    assert all("do not lie together" in reason for reason in bad.values())
    assert_reads_right(videos[0], 1, 0)


def test_a_picture_that_is_missing_damaged_or_of_another_size_costs_its_episode(tmp_path: Path) -> None:
    for number, content in enumerate((None, b"no picture", writer.as_png(np.zeros((8, 8, 3), np.uint8)))):
        path = write_v30(tmp_path / str(number), cameras={WRIST: "image"})
        data = path / "data/chunk-000/file-000.parquet"
        table = pq.read_table(data)
        cells = table.column(WRIST).to_pylist()
        cells[9] = {"bytes": content, "path": "x.png"}
        place = table.column_names.index(WRIST)
        table = table.set_column(place, WRIST, writer.pa.array(cells, table.schema.field(WRIST).type))
        pq.write_table(table, data)
        videos, bad = split(path)
        assert [video.episode for video in videos] == ["episode_000000", "episode_000002"]
        assert list(bad) == [f"episode_000001/{WRIST}"] and "picture 4" in bad[f"episode_000001/{WRIST}"]
        assert_reads_right(videos[1], 2, 0)


def test_lines_and_files_of_the_description_fail_one_at_a_time(tmp_path: Path) -> None:
    path = write_v21(tmp_path / "a")
    lines = (path / "meta/episodes.jsonl").read_text().splitlines()
    (path / "meta/episodes.jsonl").write_text("\n".join([lines[0], '{"episode_index": 1, "le', "3", lines[2]]))
    videos, bad = split(path)
    assert {video.episode for video in videos} == {"episode_000000", "episode_000002"}
    assert list(bad) == ["meta/episodes.jsonl:2", "meta/episodes.jsonl:3"]
    path = write_v30(tmp_path / "b")
    (path / "meta/episodes/chunk-000/file-001.parquet").write_bytes(b"PAR1")
    videos, bad = split(path)
    assert len(videos) == 6 and list(bad) == ["meta/episodes/chunk-000/file-001.parquet"]


def test_episodes_that_are_counted_but_not_listed_are_told(tmp_path: Path) -> None:
    path = write_v21(tmp_path)
    edit_json(path / "meta/info.json", total_episodes=5)
    videos, bad = split(path)
    assert len(videos) == 6
    assert "5 episodes" in bad["meta/episodes.jsonl"] and "lists 3" in bad["meta/episodes.jsonl"]


@WRITERS
def test_a_file_that_vanishes_or_changes_after_it_was_looked_at_is_told_apart(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path, cameras=BOTH)
    film, pictures = split(path)[0][:2]
    for video in (film, pictures):
        file = path / video.detail["file"]
        content = file.read_bytes()
        file.write_bytes(content + b"more")
        with pytest.raises(UnreadableVideo, match="changed"):
            LeRobot().read(video, np.array([0]))
        file.unlink()
        with pytest.raises(FileNotFoundError):
            LeRobot().read(video, np.array([0]))
    shutil.rmtree(path)
    with pytest.raises(FileNotFoundError):
        split(path)


def test_a_table_that_is_damaged_in_place_is_reported_when_it_is_read(tmp_path: Path) -> None:
    path = write_v21(tmp_path, (3,), cameras={WRIST: "image"})
    (video,), _ = split(path)
    file = path / video.detail["file"]
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(UnreadableVideo, match="cannot be read"):
        LeRobot().read(video, np.array([0]))
