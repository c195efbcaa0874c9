from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from rsp_robot.videos.discover import discover, signature


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(root: Path) -> list[tuple[str, str]]:
    return [(str(found.path.relative_to(root)), found.format.name) for found in discover(root)]


def test_a_tree_is_walked_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/z.GIF", "a/y/x.mkv", "demos.hdf5", "one.npy", "notes.txt", "clip.mp4.part", "c.Mp4"):
        touch(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    assert names(tmp_path) == [
        ("a/y/x.mkv", "file"),
        ("a/z.GIF", "file"),
        ("b.mp4", "file"),
        ("c.Mp4", "file"),
        ("demos.hdf5", "hdf5"),
        ("one.npy", "array"),
    ]


def test_a_folder_of_pictures_is_one_video_and_folders_below_it_are_their_own(tmp_path: Path) -> None:
    for name in ("take1/0.png", "take1/1.png", "take2/0.png", "preview.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / name)
    touch(tmp_path / "films" / "a.mp4")
    touch(tmp_path / "films" / "cover.png")
    assert names(tmp_path) == [
        (".", "images"),
        ("films/a.mp4", "file"),
        ("take1", "images"),
        ("take2", "images"),
    ]


def test_data_sets_are_found_whole(tmp_path: Path) -> None:
    for name in ("robot/meta/info.json", "robot/videos/a.mp4", "packed/store.json", "packed/videos.jsonl"):
        touch(tmp_path / name)
    (tmp_path / "robot/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    assert names(tmp_path) == [("packed", "store"), ("robot", "lerobot")]


def test_hidden_names_are_passed_over(tmp_path: Path) -> None:
    for name in (".cache/a.mp4", "._b.mp4", "c.mp4"):
        touch(tmp_path / name)
    assert names(tmp_path) == [("c.mp4", "file")]


def test_loops_of_links_end_and_links_to_elsewhere_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a" / "x.mp4")
    touch(tmp_path / "out" / "y.mp4")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "b").symlink_to(tmp_path / "in" / "a", target_is_directory=True)
    (tmp_path / "in" / "c").symlink_to(tmp_path / "out", target_is_directory=True)
    (tmp_path / "in" / "self").symlink_to("self")
    (tmp_path / "in" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert names(tmp_path / "in") == [("a/x.mp4", "file"), ("c/y.mp4", "file"), ("gone.mp4", "file")]


def test_a_single_file(tmp_path: Path) -> None:
    assert [found.path for found in discover(touch(tmp_path / "a.mp4"))] == [tmp_path / "a.mp4"]
    assert not list(discover(touch(tmp_path / "a.txt")))


def test_a_signature_changes_with_what_is_below(tmp_path: Path) -> None:
    film, folder = touch(tmp_path / "a.mp4"), tmp_path / "data"
    inner = touch(folder / "meta" / "info.json")
    before = signature(film), signature(folder)
    assert before == (signature(film), signature(folder))
    film.write_bytes(b"xy")
    os.utime(inner, ns=(1, 1))
    assert signature(film) != before[0] and signature(folder) != before[1]
    changed = signature(folder)
    touch(folder / "new")
    assert signature(folder) != changed
