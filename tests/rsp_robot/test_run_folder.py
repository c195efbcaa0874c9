from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rsp_robot.errors import UserError
from rsp_robot.files import read_json
from rsp_robot.run_folder import RunFolder, plain
from rsp_robot.versions import versions


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (256, 128)
    lr: float = 1e-5


@dataclass(frozen=True)
class Config:
    task: str = "metaworld/push-v3"
    out: Path = Path("runs/größe")
    steps: int = 10
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_plain_is_what_json_and_yaml_hold() -> None:
    expected = {
        "task": "metaworld/push-v3",
        "out": "runs/größe",
        "steps": 10,
        "limit": None,
        "inner": {"sizes": [256, 128], "lr": 1e-5},
    }
    assert plain(Config()) == expected
    assert plain({"a": (1, 2), "p": Path("x")}) == {"a": [1, 2], "p": "x"}
    assert json.loads(json.dumps(plain(Config()))) == yaml.safe_load(yaml.safe_dump(expected)) == expected


def test_a_new_run_records_its_settings_and_versions(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path / "runs" / "a", Config())
    assert run.path == tmp_path / "runs" / "a"
    text = (run.path / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == plain(Config())
    assert text.startswith("task: metaworld/push-v3\nout: runs/größe\n")  # in the order of the fields, legible
    assert read_json(run.path / "versions.json") == versions()


def test_an_empty_folder_and_the_litter_of_a_killed_start_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.0a1b2c3d.tmp").write_text("task: hal")
    RunFolder.open(tmp_path, Config())
    assert (tmp_path / "config.yaml").exists()


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty; continue it with --resume or give a new folder"):
        RunFolder.open(tmp_path, Config())
    with pytest.raises(UserError, match=r"holds no run \(no config.yaml\); give a new folder"):
        RunFolder.open(tmp_path, Config(), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_run_into_the_folder_is_refused_unless_it_resumes(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, Config())
    (run.checkpoints / "step-1").write_text("weights")
    with pytest.raises(UserError, match="is not empty"):
        RunFolder.open(tmp_path, Config())
    again = RunFolder.open(tmp_path, Config(), resume=True)
    assert (again.checkpoints / "step-1").read_text() == "weights"


def test_resume_with_other_settings_names_them_and_changes_nothing(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, {"steps": 10, "lr": 0.1, "seed": 0})
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"holds a run with other settings \(extra, lr, steps\); give a new folder"):
        RunFolder.open(tmp_path, {"steps": 20, "seed": 0, "extra": 1}, resume=True)
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_resume_of_a_folder_that_is_not_there_starts_it(tmp_path: Path) -> None:
    assert RunFolder.open(tmp_path / "new", Config(), resume=True).metrics() == []
    assert (tmp_path / "new" / "config.yaml").exists()


def test_settings_that_look_like_other_yaml_types_survive_a_resume(tmp_path: Path) -> None:
    config = {"a": "yes", "b": 1e-5, "c": "1e3", "d": "2024-01-01", "e": "null", "f": "x\ny", "g": 1e20, "h": "010"}
    RunFolder.open(tmp_path, config)
    RunFolder.open(tmp_path, config, resume=True)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file; give a folder"):
        RunFolder.open(tmp_path / "run", Config())


def test_metrics_are_rows_of_json_and_scalars_of_tensorboard(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    assert run.metrics() == []
    run.log(0, loss=2.0, lr=1e-3)
    run.log(5, loss=1.5)
    assert run.metrics() == [{"step": 0, "loss": 2.0, "lr": 1e-3}, {"step": 5, "loss": 1.5}]
    run.close()
    run.close()  # closing twice is harmless

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(0, 2.0), (5, 1.5)]


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    for step in (0, 10, 20, 30):
        run.log(step, loss=float(step))
    run.close()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 40, "lo')
    again = RunFolder.open(tmp_path, {}, resume=True)
    again.forget_after(10)
    assert [row["step"] for row in again.metrics()] == [0, 10]
    again.log(20, loss=7.0)
    again.close()
    assert again.metrics()[-1] == {"step": 20, "loss": 7.0}

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(0, 0.0), (10, 10.0), (20, 7.0)]


def test_everything_can_be_forgotten_even_where_nothing_was_logged(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    run.forget_after(-1)
    assert run.metrics() == []
    run.log(0, loss=1.0)
    run.close()
    run.forget_after(-1)
    assert run.metrics() == []


def test_checkpoints_and_media_are_made_when_first_used(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "versions.json"]
    assert run.checkpoints == tmp_path / "checkpoints" and run.checkpoints.is_dir()
    assert run.media == tmp_path / "media" and run.media.is_dir()


# -- lists become histograms -------------------------------------------------------------------------------------------


def test_lists_are_rows_of_json_and_histograms_of_tensorboard(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    run.log(3, loss=2.0, kl_per_group=[0.25, 0.5, 0.0, 0.25])
    run.log(4, kl_per_group=[1.0])
    run.close()
    assert run.metrics() == [
        {"step": 3, "loss": 2.0, "kl_per_group": [0.25, 0.5, 0.0, 0.25]},
        {"step": 4, "kl_per_group": [1.0]},
    ]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"histograms": 0}).Reload()
    assert [event.step for event in board.Scalars("loss")] == [3]
    assert "kl_per_group" not in board.Tags()["scalars"]
    first, second = board.Histograms("kl_per_group")
    found = first.histogram_value
    assert (first.step, found.num, found.min, found.max, found.sum) == (3, 4, 0.0, 0.5, 1.0)
    assert (second.step, second.histogram_value.num) == (4, 1)


def test_what_is_not_finite_is_left_out_of_histograms_and_kept_in_the_rows(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path, {})
    run.log(1, kl=[1.0, float("nan"), float("inf"), 3.0], all_bad=[float("nan")], empty=[])
    run.close()
    (row,) = run.metrics()
    assert np.array_equal(row["kl"], [1.0, np.nan, np.inf, 3.0], equal_nan=True)
    assert np.isnan(row["all_bad"]).all() and row["empty"] == []

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["histograms"] == ["kl"]
    found = board.Histograms("kl")[0].histogram_value
    assert (found.num, found.min, found.max) == (2, 1.0, 3.0)


# -- Weights & Biases --------------------------------------------------------------------------------------------------


def test_without_wandb_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.open(tmp_path, {})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError) as error:
        run.add_wandb("project", {})
    assert str(error.value) == "the package wandb is not installed; pip install wandb, or leave out --wandb"
    run.log(1, loss=1.0)
    run.close()


class FakeWandb:
    """Writes down what it and TensorBoard's writer are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[tuple[str, dict[str, Any]]] = []

        class Board:
            def __init__(self, folder: str, purge_step: int) -> None:
                told.append(("open board", {}))

            def add_scalar(self, name: str, value: float, step: int) -> None:
                told.append((name, {}))

            def close(self) -> None:
                told.append(("close board", {}))

        self.told, self.tensorboard = told, self
        monkeypatch.setitem(sys.modules, "wandb", self)
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Board)

    def patch(self, **settings: Any) -> None:
        self.told.append(("patch", settings))

    def init(self, **settings: Any) -> FakeWandb:
        self.told.append(("init", settings))
        return self

    def finish(self) -> None:
        self.told.append(("finish", {}))


def test_wandb_is_told_before_the_board_and_finished_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb(monkeypatch)
    run = RunFolder.open(tmp_path / "a", Config())
    run.add_wandb("project", Config())
    run.log(1, loss=1.0)
    run.close()
    run.close()
    assert [what for what, _ in wandb.told] == ["patch", "init", "open board", "loss", "close board", "finish"]
    assert wandb.told[0][1] == {"root_logdir": str(run.path / "tensorboard")}
    settings = wandb.told[1][1]
    assert (settings["project"], settings["name"], settings["resume"]) == ("project", "a", "allow")
    assert settings["config"] == plain(Config()) and settings["dir"] == str(run.path)


def test_a_resumed_run_is_the_same_one_for_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb(monkeypatch)
    monkeypatch.chdir(tmp_path)
    RunFolder.open(tmp_path / "x" / "a", {}).add_wandb("p", {})
    RunFolder.open(Path("x/a"), {}, resume=True).add_wandb("p", {})
    RunFolder.open(tmp_path / "y" / "a", {}).add_wandb("p", {})
    first, again, other = (settings["id"] for what, settings in wandb.told if what == "init")
    assert first == again != other
    assert first.startswith("a-") and len(first) == 2 + 8
