"""A person points `rsp-robot pretrain` at what they have: several formats, several sizes, some of it broken."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.cli import main
from rsp_robot.files import read_jsonl
from rsp_robot.videos import open_videos


def load_writer() -> Any:
    spec = importlib.util.spec_from_file_location("lerobot_writer", Path(__file__).parent / "lerobot_writer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


writer = load_writer()
QUICK = ["--preset", "rsp-small", "--steps", "4", "--batch-size", "8", "--holdout", "0.2", "--probe-every", "None"]


@pytest.fixture
def places(tmp_path: Path, record: Callable[..., Path]) -> dict[str, Path]:
    """Films, demonstrations, a LeRobot data set and arrays; three of the files are broken."""
    for number in range(3):
        record(tmp_path / "films" / "pour" / f"{number}.mp4", 20 + number)
    whole = (tmp_path / "films" / "pour" / "0.mp4").read_bytes()
    (tmp_path / "films" / "pour" / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "films" / "empty.avi").touch()
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for demo in range(3):
            file[f"data/demo_{demo}/actions"] = np.zeros((24, 4), np.float32)
            for camera in ("front", "wrist"):
                noise = np.random.default_rng(demo).integers(0, 255, (24, 64, 80, 3), np.uint8)
                file[f"data/demo_{demo}/obs/{camera}"] = noise
    writer.write_v30(tmp_path / "robot", (12, 11, 10))
    np.savez(tmp_path / "takes.npz", a=np.full((25, 70, 70, 3), 90, np.uint8), b=np.full((21, 40, 30), 200, np.uint8))
    (tmp_path / "broken.npy").write_text("no array")
    return {name: tmp_path / name for name in ("films", "demos.hdf5", "robot", "takes.npz", "broken.npy")}


def test_one_command_over_four_formats_with_three_broken_files(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ",".join(map(str, places.values()))
    assert main(["pretrain", *QUICK, "--data", data, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "17 videos" in said and "from 5 places; 3 left out, see" in said
    listed = (tmp_path / "run" / "quarantine.txt").read_text().splitlines()
    assert [Path(line.partition(": ")[0]).name for line in listed] == ["empty.avi", "half.mp4", "broken.npy"]
    assert all(len(line.partition(": ")[2]) > 10 for line in listed)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert np.isfinite(rows[-1]["loss"])
    features = FrozenEncoder.load(tmp_path / "run")(np.zeros((1, 48, 64, 3), np.uint8))
    assert features.isfinite().all()


def test_the_same_mixture_packed(places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ",".join(map(str, places.values()))
    packed = tmp_path / "packed"
    assert main(["pack", "--data", data, "--out", str(packed), "--short-side", "48"]) == 0
    said = capsys.readouterr().err
    assert "packed 17 videos" in said and "left out 3, see" in said
    assert Counter(video.format for video in open_videos(packed).videos) == {"store": 17}
    assert main(["pack", "--out", str(packed), "--verify"]) == 0
    assert main(["pretrain", *QUICK, "--data", str(packed), "--out", str(tmp_path / "run")]) == 0
    assert main(["imagine", "--run", str(tmp_path / "run"), "--rows", "2", "--no-film"]) == 0


def test_weights_and_cameras_from_the_command_line(places: dict[str, Path], tmp_path: Path) -> None:
    data = f"{places['demos.hdf5']}=0.75,{places['films']}=0.25"
    command = ["pretrain", *QUICK, "--data", data, "--cameras", "wrist", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0


def test_strict_stops_at_the_first_broken_file(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain", *QUICK, "--data", str(places["films"]), "--out", str(tmp_path / "run"), "--strict"]
    assert main(command) == 2
    assert "empty.avi" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
