from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot import videos
from rsp_robot.errors import UserError
from rsp_robot.experiments.usage import parse_options
from rsp_robot.experiments.verbs.pack import PackCommand, pack
from rsp_robot.videos.formats.store import Store
from rsp_robot.videos.info import Quarantined, VideoInfo

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 7, 24, 30, 3), dtype=np.uint8)


def parse(*words: str) -> PackCommand:
    command: PackCommand = parse_options(PackCommand, list(words), "rsp-robot pack", "")
    return command


@pytest.fixture
def demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two real videos and one that is none."""
    monkeypatch.setenv("RSP_ROBOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "demos").mkdir()
    for index, frames in enumerate(FRAMES):
        np.save(tmp_path / "demos" / f"{index}.npy", frames)
    (tmp_path / "demos" / "broken.npy").write_bytes(b"no array")
    return tmp_path / "demos"


def test_a_folder_is_packed_and_read_again(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = parse("--data", str(demos), "--out", str(tmp_path / "out"), "--short-side", "12")
    assert pack(command) == tmp_path / "out"
    out, err = capsys.readouterr()
    assert out == ""
    assert f"packed 2 videos, 14 frames, 7.56e-06 GB; left out 1, see {tmp_path / 'out' / 'quarantine.txt'}" in err
    assert "broken.npy: " in (tmp_path / "out" / "quarantine.txt").read_text()
    source = videos.open_videos(str(tmp_path / "out"))
    assert [(v.frames, v.height, v.width) for v in source.videos] == [(7, 12, 15)] * 2
    assert pack(command) == tmp_path / "out"


def test_frames_that_are_small_enough_are_the_source_s(demos: Path, tmp_path: Path) -> None:
    pack(parse("--data", str(demos), "--out", str(tmp_path / "out")))
    source = videos.open_videos(str(tmp_path / "out"))
    for video in range(2):
        np.testing.assert_array_equal(source.read(video, [6, 0, 3]), FRAMES[video][[6, 0, 3]])


def test_every_choice_reaches_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class One:
        videos = (VideoInfo("fake", "/data/0", "", 2, 4, 4),)
        quarantined: Sequence[Quarantined] = ()

        def read(self, video: int, frames: Sequence[int] | np.ndarray) -> np.ndarray:
            return np.zeros((len(frames), 4, 4, 3), np.uint8)

    def open_videos(spec: str, **options: Any) -> One:
        asked.update(options, spec=spec)
        return One()

    monkeypatch.setattr(videos, "open_videos", open_videos)
    choices = ("--cameras", "front", "wrist", "--tasks", "push", "--episodes", "e1", "e2")
    words = ("--data", "a,b", *choices, "--fps", "12.5", "--strict", "--workers", "3")
    pack(parse(*words, "--out", str(tmp_path / "out")))
    assert asked == {
        "spec": "a,b",
        "cameras": ("front", "wrist"),
        "tasks": ("push",),
        "episodes": ("e1", "e2"),
        "fps": 12.5,
        "strict": True,
    }


def test_strict_stops_at_a_broken_file(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="broken.npy"):
        pack(parse("--data", str(demos), "--out", str(tmp_path / "out"), "--strict"))
    assert not (tmp_path / "out").exists()


def test_a_store_is_verified(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    pack(parse("--data", str(demos), "--out", str(out)))
    assert pack(parse("--out", str(out), "--verify")) == out
    assert "2 videos, all as packed" in capsys.readouterr().err
    with open(next(iter(out.glob("*.bin"))), "r+b") as file:
        file.write(bytes([int(FRAMES[0, 0, 0, 0, 0]) ^ 1]))
    assert pack(parse("--out", str(out), "--verify")) == 1
    shown = capsys.readouterr().err
    assert "000000: its frames are not those packed from" in shown and "1 video damaged" in shown


def test_only_stores_are_verified(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no frame store; make one with rsp-robot pack"):
        pack(parse("--out", str(tmp_path), "--verify"))


def test_a_mistake_is_told_before_anything_is_read(demos: Path, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    for words, expected in (
        (out, "nothing to pack; give --data"),
        (("--data", str(demos), "--short-side", "0", *out), "--short-side is 0; it must be at least 1"),
        (("--data", str(demos), "--workers", "0", *out), "--workers is 0; it must be at least 1"),
        (("--data", f"{demos}=2,{tmp_path}=1", *out), "keeps no weights; pack every place on its own"),
        (("--data", str(demos), "--out", str(demos / "packed")), "lies within --data .*; give a folder outside it"),
    ):
        with pytest.raises(UserError, match=expected):
            pack(parse(*words))
    assert not (tmp_path / "out").exists()


def test_the_store_is_one_of_the_formats(demos: Path, tmp_path: Path) -> None:
    pack(parse("--data", str(demos), "--out", str(tmp_path / "out")))
    assert {video.format for video in videos.open_videos(str(tmp_path / "out")).videos} == {Store.name}
