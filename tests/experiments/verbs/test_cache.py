from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rsp_robot.experiments.cli import main
from rsp_robot.policies.embedding_cache import EmbeddingCache
from rsp_robot.policies.embedding_entry import Identity
from rsp_robot.videos import open_videos

DAY_S = 86400.0
PUSH, REACH = "a1" * 8, "b2" * 8


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RSP_ROBOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RSP_ROBOT_CACHE_GB", raising=False)
    return tmp_path / "cache"


def add(encoder: str, data: str, rows: int = 100, days: float = 0.0, dtype: str = "float32") -> np.ndarray:
    """Make an entry that was last used so many days ago; return it, in use."""

    def encode(start: int) -> Iterator[np.ndarray]:
        yield np.ones((rows, 25), dtype)

    cache = EmbeddingCache.default()
    identity = Identity(encoder, "d", "corner2", (rows, 25), dtype, "cpu")
    found = cache.fetch(identity, encode, source="runs/rsp-push", data=data)
    if days:
        path = cache.folder / identity.key / "about.json"
        then = np.datetime64("now", "us") - np.timedelta64(int(days * DAY_S), "s")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"last_used": f"{then}+00:00"}))
    return found


def add_index(place: Path, days: float = 0.0) -> None:
    videos = place.parent / "videos"
    videos.mkdir(exist_ok=True)
    np.save(videos / "0.npy", np.zeros((3, 8, 8, 3), np.uint8))
    open_videos(videos)
    (index,) = (place / "index").iterdir()
    os.utime(index, (time.time() - days * DAY_S,) * 2)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


def test_the_cache_is_listed_the_latest_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(PUSH, "push.hdf5", days=5)
    add(REACH, "reach.hdf5", rows=200, dtype="float16")
    add_index(place)
    assert main(["cache"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "last used frames fingerprint encoder data camera" in " ".join(lines[0])
    assert lines[1][-5:] == ["halves", REACH[:8], "runs/rsp-push", "reach.hdf5", "corner2"]
    assert " ".join(lines[2]).endswith(f"5 days ago 100 {PUSH[:8]} runs/rsp-push push.hdf5 corner2")
    assert lines[2][:2] == ["10.7", "kB"] or lines[2][1] == "kB"
    told = " ".join(lines[-2] + lines[-1])
    assert "embeddings: 2 entries" in told and "of 20 GB ($RSP_ROBOT_CACHE_GB)" in told
    assert str(place / "embeddings") in told and "indexes of videos: 1," in told


def test_an_empty_cache_says_where_it_would_be(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    assert f"embeddings: 0 entries, 0 B of 20 GB ($RSP_ROBOT_CACHE_GB) in {place / 'embeddings'}" in said(capsys)
    assert main(["cache", "--clear"]) == 0
    assert "freed 0 B: 0 entries of embeddings, 0 indexes of videos" in said(capsys)
    assert not place.exists()


def test_unfinished_and_damaged_entries_are_marked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def encode(start: int) -> Iterator[np.ndarray]:
        yield np.ones((3, 2), np.float32)

    with pytest.raises(RuntimeError):
        EmbeddingCache.default().fetch(Identity(PUSH, "d", "corner2", (7, 2), "float32", "cpu"), encode)
    add(REACH, "reach.hdf5")
    EmbeddingCache.default().entries()[-1].folder.joinpath("about.json").write_text("")
    assert main(["cache"]) == 0
    told = said(capsys)
    assert "3 of 7" in told and "damaged" in told


def test_everything_is_cleared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(PUSH, "push.hdf5")
    add(REACH, "reach.hdf5")
    add_index(place)
    before = sum(path.stat().st_size for path in place.rglob("*.*") if path.is_file() and path.name != ".lock")
    assert main(["cache", "--clear"]) == 0
    told = said(capsys)
    assert "2 entries of embeddings, 1 index of videos" in told and f"freed {before / 1000:.3g} kB" in told
    assert EmbeddingCache.default().entries() == [] and list((place / "index").iterdir()) == []


def test_what_is_in_use_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_use = add(PUSH, "push.hdf5")
    add(REACH, "reach.hdf5")
    assert main(["cache", "--clear"]) == 0
    assert "1 entry of embeddings, 0 indexes of videos; kept 1 entry that is in use" in said(capsys)
    assert in_use.sum() == in_use.size and len(EmbeddingCache.default().entries()) == 1


def test_only_what_is_old_is_cleared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(PUSH, "push.hdf5", days=8)
    add(REACH, "reach.hdf5", days=6)
    add_index(place, days=6)
    assert main(["cache", "--older-than-days", "7"]) == 0
    assert "embeddings: 1 entry," in said(capsys)
    assert main(["cache", "--clear", "--older-than-days", "7"]) == 0
    assert "1 entry of embeddings, 0 indexes" in said(capsys)
    (left,) = EmbeddingCache.default().entries()
    assert left.encoder == REACH and len(list((place / "index").iterdir())) == 1
    assert main(["cache", "--clear", "--older-than-days", "5.5"]) == 0
    assert "1 entry of embeddings, 1 index of" in said(capsys)


def test_only_what_an_encoder_made_is_cleared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(PUSH, "push.hdf5")
    add(REACH, "reach.hdf5")
    add_index(place)
    assert main(["cache", "--clear", "--encoder", PUSH[:6], "--older-than-days", "0"]) == 0
    assert "1 entry of embeddings, 0 indexes" in said(capsys)
    (left,) = EmbeddingCache.default().entries()
    assert left.encoder == REACH


def test_mistakes_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--encoder", "abc"]) == 2
    assert "the cache holds no embeddings of encoder 'abc'; there are none of any" in said(capsys)
    add(PUSH, "push.hdf5")
    assert main(["cache", "--encoder", "abc"]) == 2
    assert f"there are: {PUSH}" in said(capsys)
    assert main(["cache", "--clear", "--older-than-days", "-1"]) == 2
    assert "--older-than-days is -1; give 0 or more" in said(capsys)
    assert len(EmbeddingCache.default().entries()) == 1
