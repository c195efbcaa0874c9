from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot.videos import index as module
from rsp_robot.videos.index import Entry, build_index, index_file

Record = Callable[..., Path]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were really inspected."""
    seen: list[str] = []
    inspect = module.inspect

    def counted(item: Any, sign: str) -> Entry:
        seen.append(item.path.name)
        return inspect(item, sign)

    monkeypatch.setattr(module, "inspect", counted)
    return seen


def test_videos_are_looked_at_once(tmp_path: Path, record: Record, looked_at: list[str]) -> None:
    for name, length in (("a.mp4", 3), ("b.gif", 4)):
        record(tmp_path / "films" / name, length)
    first = build_index(tmp_path / "films")
    assert sorted(looked_at) == ["a.mp4", "b.gif"]
    assert [entry.videos[0].frames for entry in first] == [3, 4]
    video = first[0].videos[0]
    assert (video.height, video.width, video.fps, video.format) == (32, 48, 12.0, "file")
    assert video.duration == 0.25 and len(video.digest) == 32
    assert build_index(tmp_path / "films") == first and len(looked_at) == 2


def test_only_what_changed_is_looked_at_again(tmp_path: Path, record: Record, looked_at: list[str]) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        record(tmp_path / name, 3)
    build_index(tmp_path)
    looked_at.clear()
    record(tmp_path / "b.mp4", 5)
    record(tmp_path / "d.mp4", 6)
    (tmp_path / "a.mp4").unlink()
    assert [entry.videos[0].frames for entry in build_index(tmp_path)] == [5, 3, 6]
    assert sorted(looked_at) == ["b.mp4", "d.mp4"]
    looked_at.clear()
    assert len(build_index(tmp_path)) == 3 and not looked_at


def test_what_is_unreadable_is_kept_with_its_reason(tmp_path: Path, record: Record, looked_at: list[str]) -> None:
    record(tmp_path / "good.mp4", 3)
    (tmp_path / "empty.mp4").touch()
    for _ in range(2):
        bad, good = build_index(tmp_path)
        assert not bad.videos and bad.quarantined[0].path == str(tmp_path / "empty.mp4") and bad.quarantined[0].reason
        assert len(good.videos) == 1
    assert len(looked_at) == 2
    record(tmp_path / "empty.mp4", 4)
    assert build_index(tmp_path)[0].videos[0].frames == 4, "mended, it is back"


def test_a_file_that_is_gone_when_it_is_looked_at(tmp_path: Path, record: Record, looked_at: list[str]) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    record(tmp_path / "here.mp4", 3)
    bad, good = build_index(tmp_path)
    assert bad.quarantined[0].reason == "cannot be read (No such file or directory)" and good.videos
    record(tmp_path / "elsewhere.mp4", 3)
    (tmp_path / "elsewhere.mp4").rename(tmp_path / "gone.mp4")
    assert build_index(tmp_path)[0].videos, "such a finding is not kept"


def test_a_damaged_or_foreign_index_is_made_anew(tmp_path: Path, record: Record, looked_at: list[str]) -> None:
    record(tmp_path / "a.mp4", 3)
    expected = build_index(tmp_path)
    kept = index_file(tmp_path)
    whole = json.loads(kept.read_text())
    for text in ("", "[]", '{"version": 0}', kept.read_text()[:-20], json.dumps(whole | {"entries": [{"path": 3}]})):
        kept.write_text(text)
        assert build_index(tmp_path) == expected
    assert len(looked_at) == 6


def test_nothing_breaks_where_nothing_can_be_kept(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "films" / "a.mp4", 3)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RSP_ROBOT_CACHE", str(tmp_path / "file" / "below"))
    assert len(build_index(tmp_path / "films")) == 1


def test_a_thousand_videos_open_again_in_a_fraction_of_the_time(tmp_path: Path, record: Record) -> None:
    film = record(tmp_path / "films" / "0000.mp4", 2).read_bytes()
    for number in range(1, 1000):
        (tmp_path / "films" / f"{number:04}.mp4").write_bytes(film)
    started = time.process_time()
    first = build_index(tmp_path / "films", workers=1)
    anew = time.process_time() - started
    started = time.process_time()
    again = build_index(tmp_path / "films", workers=1)
    seconds = time.process_time() - started
    assert again == first and sum(len(entry.videos) for entry in again) == 1000
    assert seconds < anew / 5


def test_arrays_hold_several_videos_in_one_entry(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 5, 4, 6, 3), np.uint8))
    (entry,) = build_index(tmp_path)
    assert [(video.key, video.frames, video.height, video.width) for video in entry.videos] == [
        ("0", 5, 4, 6),
        ("1", 5, 4, 6),
        ("2", 5, 4, 6),
    ]
