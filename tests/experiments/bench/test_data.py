"""The bench of loading itself, on films of a few frames."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console

from rsp_robot.errors import UserError
from rsp_robot.experiments.bench import data as module
from rsp_robot.experiments.bench.clips import moving_scene, write_clips
from rsp_robot.experiments.bench.data import DataBench, Measured, Row, loaders, measure
from rsp_robot.experiments.bench.data_report import print_data
from rsp_robot.experiments.bench.naive import load_pair
from rsp_robot.experiments.cli import main
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.pretrain.augment import Augmentation
from rsp_robot.pretrain.samples import Samples
from rsp_robot.videos import open_videos
from rsp_robot.videos.pack import pack_videos

CPU = torch.device("cpu")
SMALL = {"clips": 2, "clip_seconds": 2.0, "height": 48, "width": 64, "image_size": 32, "batch": 3, "rounds": 2}


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_S", 0.0)


def test_every_way_of_loading_is_measured() -> None:
    measured = measure(DataBench(**SMALL, train_steps=6, device="cpu"), quiet=True)
    assert [row.name for row in measured.rows] == [
        "naive: decode from the start, Pillow",
        "seek and decode",
        "the same, two pairs per visit",
        "packed, on disk",
        "packed, in memory",
    ]
    assert all(len(row.delivered) == len(row.augmented) == 2 and min(row.delivered) > 0 for row in measured.rows)
    assert (measured.frame_size, measured.frames) == ((48, 64), 60)
    assert set(measured.waiting) == {"decoded while training", "packed"}
    assert all(0 <= share < 1 for share in measured.waiting.values())


def test_all_ways_deliver_the_same_pairs(tmp_path: Path) -> None:
    bench = DataBench(**SMALL)
    write_clips(tmp_path / "films", 2, 2.0, 48, 64)
    films = open_videos(tmp_path / "films")
    pack_videos(films, tmp_path / "packed", 256, quiet=True)
    naive, *ours = loaders(films, open_videos(tmp_path / "packed"), bench, CPU)
    rows = Samples(films, module.PAIRS).draw(0, 3)
    frames = [loader.deliver(rows).frames for loader in ours]  # type: ignore[attr-defined]
    assert all(torch.equal(other, frames[0]) for other in frames[1:])
    augmented = [loader.augment(rows) for loader in ours]
    assert all(torch.equal(other, augmented[0]) for other in augmented[1:])
    boxes = Augmentation(32, flip=False)(frames[0], None, torch.Generator().manual_seed(0))
    # Pillow rounds to bytes between the two axes; a level is 0.017 of a standard deviation.
    assert (naive.augment(rows) - boxes).abs().max() < 0.1


def test_the_naive_loader_reads_the_frames_asked_for(tmp_path: Path) -> None:
    write_clips(tmp_path, 1, 1.0, 32, 32)
    with av.open(str(tmp_path / "000.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    pair = load_pair(tmp_path / "000.mp4", (4, 20), (0, 0, 32, 32), 32)
    back = Preprocessing(32).denormalise(pair).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(back - np.stack([shown[4], shown[20]])).max() < 0.01


def test_scenes_move_and_differ() -> None:
    first, second = (moving_scene(5, 32, 40, np.random.default_rng(seed)) for seed in (0, 1))
    assert first.shape == (5, 32, 40, 3) and first.dtype == np.uint8
    assert (first[0] != first[4]).mean() > 0.1 and (first[0] != second[0]).mean() > 0.5


def test_the_command_prints_ratios_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["bench", "data", *options, "--train-steps", "0", "--out", str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr().out
    assert "seek and decode" in said and "x naive" in said
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["rows"][0]["relative_to_naive"] == 1.0 and found["settings"]["clips"] == 2
    assert len(found["rows"][1]["rounds"]) == 2


def test_ratios_are_to_the_naive_loader() -> None:
    rows = (Row("naive", (8.0, 10.0, 9.0), (4.0, 4.0, 4.0)), Row("ours", (90.0, 900.0, 91.0), (6.0, 6.0, 6.0)))
    measured = Measured(rows, (256, 340), 300, {"packed": 0.012})
    console = Console(width=120, file=StringIO())
    print_data(measured, DataBench(), CPU, console)
    text = " ".join(console.file.getvalue().split())
    assert "naive 9 1 4 1 ours 91 10.1 6 1.5" in text
    assert "waiting for data, packed: 1.2%" in text


def test_mistakes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((60, 4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="there is no video file of more than 48 frames to measure on; change --data"):
        measure(DataBench(data=str(tmp_path), device="cpu"), quiet=True)
    with pytest.raises(UserError, match="rounds must be at least 1, not 0"):
        DataBench(rounds=0)
    with pytest.raises(UserError, match="clips at least 2 seconds long"):
        DataBench(clip_seconds=1.0)
