from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.experiments import cli
from rsp_robot.experiments.budget import measure_budget, minutes_until, read_budget
from rsp_robot.experiments.budget_output import budget_table, draw_budget, sentences, task_table
from rsp_robot.experiments.comparison.compare import compare
from rsp_robot.experiments.comparison.files import read_arms
from rsp_robot.experiments.suite.run import SuiteConfig
from rsp_robot.files import read_json
from rsp_robot.pretrain.checkpoints import build_objective, load_objective
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.rsp import RSPConfig
from rsp_robot.pretrain.train import pretrain

CPU = torch.device("cpu")
RSP = RSPConfig(decoder_width=16, decoder_depth=1, decoder_heads=2, groups=3, classes=4, min_gap=1, max_gap=2)


@pytest.fixture
def material(toy_suite: Path, tmp_path: Path) -> Any:
    module = import_module("suite_material")
    module.demonstrate(tmp_path / "data", "reach", "leave")
    return module


@pytest.fixture
def pretraining(material: Any, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=str(tmp_path / "data" / "toy-reach.hdf5"), out=tmp_path / "run", arch="vit-pico", image_size=16,
        patch_size=8, objective=RSP, steps=5, batch_size=4, base_lr=0.1, device="cpu", log_every=5, keep_last=1,
        keep_doublings=True,
    )  # fmt: skip


def protocol_of(material: Any) -> Any:
    task = material.PROTOCOL.tasks[0]
    return replace(
        material.PROTOCOL, tasks=(task, replace(task, task="toy/leave")), seeds=(0,), epochs=2, evaluate_every=0,
        headline="last",
    )  # fmt: skip


def stamps(folder: Path) -> dict[Path, int]:
    """When each encoder and each score was written."""
    found = [*folder.rglob("model.safetensors"), *folder.rglob("score.json")]
    return {path: path.stat().st_mtime_ns for path in found}


def test_every_doubling_is_frozen_judged_and_drawn_once(
    material: Any, pretraining: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    run, out, protocol = pretrain(pretraining), tmp_path / "budget", protocol_of(material)
    config = replace(material.command(tmp_path), encoder=(), out=out)
    measure_budget(run, protocol, config, first_step=2)
    assert "0 of 6 policies are there already" in capsys.readouterr().err
    result = measure_budget(run, protocol, config)
    said = capsys.readouterr()
    assert "Success by pretraining: RSP, vit-pico: toy, 2 tasks" in said.out
    assert "6 of 8 policies are there already" in said.err
    assert result == out / "budget.json"

    # The encoders are those of the checkpoints.
    encoders = {step: FrozenEncoder.load(out / "encoders" / f"step-{step:08d}") for step in (0, 1, 2, 4)}
    assert sorted(path.name for path in (out / "encoders").iterdir()) == [f"step-{step:08d}" for step in encoders]
    assert encoders[0].fingerprint == build_objective(pretraining).encoder().fingerprint
    for step in (1, 2, 4):
        assert encoders[step].fingerprint == load_objective(run, CPU, step).encoder().fingerprint
    assert len({encoder.weights_checksum() for encoder in encoders.values()}) == 4
    assert encoders[4].provenance == {
        "objective": "rsp", "data": pretraining.data, "steps": 4, "samples": 16, "seed": 0, "start": "random weights",
    }  # fmt: skip

    # The numbers are those of compare.
    found = read_json(result)
    table = compare(read_arms([str(out / "suite")], None, []))
    arms = {arm.name: arm for arm in table.arms}
    differences = {pair.a: pair.difference for pair in table.pairs if pair.b == "0"}
    assert [point["samples"] for point in found["checkpoints"]] == [0, 4, 8, 16]
    for point in found["checkpoints"]:
        arm, difference = arms[str(point["samples"])], differences.get(str(point["samples"]))
        for name in ("mean", "iqm"):
            expected = arm.aggregates[name]  # type: ignore[index]
            low_high = [expected.interval.low, expected.interval.high]
            assert point[name] == {"value": expected.value, "interval": low_high}
        assert point["tasks"] == {task.task: task.rate for task in arm.tasks}
        if difference is None:
            assert point["samples"] == 0 and point["difference_to_step_0"] is None
        else:
            assert point["difference_to_step_0"]["value"] == difference.value
            assert point["difference_to_step_0"]["interval"] == [difference.interval.low, difference.interval.high]
            mean = point["mean"]["value"] - found["checkpoints"][0]["mean"]["value"]
            assert point["difference_to_step_0"]["value"] == pytest.approx(mean), "later less earlier"
    assert [point["minutes"] for point in found["checkpoints"]] == sorted(
        point["minutes"] for point in found["checkpoints"]
    )
    assert Image.open(out / "budget.png").width == 1200

    # Another time there is nothing to do.
    before = stamps(out)
    measure_budget(run, protocol, config)
    assert "8 of 8 policies are there already, 0 jobs to do" in capsys.readouterr().err
    assert stamps(out) == before
    with pytest.raises(UserError, match=rf"{out} is about the run {run}, not {tmp_path / 'other'}; give another"):
        measure_budget(pretrain(replace(pretraining, out=tmp_path / "other", seed=1)), protocol, config)


def test_early_checkpoints_can_be_left_out_and_a_start_from_weights_is_step_0(
    material: Any, pretraining: PretrainConfig, tmp_path: Path, own_cache: Path
) -> None:
    first = pretrain(replace(pretraining, steps=2))
    run = pretrain(replace(pretraining, out=tmp_path / "second", init=first))
    config = replace(material.command(tmp_path), encoder=(), out=tmp_path / "budget")
    protocol = protocol_of(material).narrowed(("toy/reach",))
    found = read_json(measure_budget(run, protocol, config, first_step=3))
    assert [point["step"] for point in found["checkpoints"]] == [0, 4]
    start = FrozenEncoder.load(tmp_path / "budget" / "encoders" / "step-00000000")
    assert start.weights_checksum() == FrozenEncoder.load(first).weights_checksum()


def test_what_has_no_doublings_is_refused_in_a_line(
    material: Any, pretraining: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(run: Path, *options: str) -> str:
        out = tmp_path / "budget"
        words = ["budget", str(run), "--out", str(out), "--tasks", "metaworld/push-v3", *options]
        assert cli.main(words) == cli.USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert not out.exists(), "a mistake leaves nothing behind"
        return line

    nothing = f"error: {tmp_path / 'data'} is not a run folder of `rsp-robot pretrain`; give one"
    assert refused(tmp_path / "data") == nothing
    plain = pretrain(replace(pretraining, out=tmp_path / "plain", keep_doublings=False, steps=3))
    kept = pretrain(replace(pretraining, steps=3))
    capsys.readouterr()
    assert "was pretrained without --keep-doublings and has only steps 3; pretrain with it" in refused(plain)
    assert "--first-step 4 is beyond the last doubling of" in refused(kept, "--first-step", "4")
    assert "--first-step 0 is out of range; choose 1 or more" in refused(kept, "--first-step", "0")


def test_a_folder_with_something_else_is_left_alone(material: Any, pretraining: PretrainConfig, tmp_path: Path) -> None:
    run = pretrain(replace(pretraining, steps=1))
    with pytest.raises(UserError, match="holds something that is no budget of a run; give another --out"):
        measure_budget(run, material.PROTOCOL, SuiteConfig("toy", out=tmp_path / "data"))


# What the numbers say


def table_of(means: Mapping[int, float], better: set[tuple[int, int]] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """A comparison as it is written, of arms with these means; ``better`` are the pairs with an interval above 0."""
    longest = sorted(means, reverse=True)
    estimates = {name: {"value": mean, "interval": [mean - 0.1, mean + 0.1]} for name, mean in means.items()}
    return {
        "arms": [
            {
                "name": str(name),
                "aggregates": {"mean": estimates[name], "iqm": estimates[name]},
                "tasks": [{"task": f"toy/task-{i}", "rate": min(1.0, i * means[name] / 4)} for i in range(8)],
            }
            for name in longest
        ],
        "pairs": [
            {
                "a": str(a), "b": str(b), "difference": means[a] - means[b],
                "interval": [0.01 if (a, b) in better else -0.2, 0.9],
            }
            for place, a in enumerate(longest) for b in longest[place + 1 :]
        ],
    }  # fmt: skip


MEANS = {0: 0.2, 64: 0.2, 128: 0.4, 256: 0.3, 512: 0.5, 1024: 0.5}
STEPS = (0, 1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("better", "helps_from", "unsurpassed", "said"),
    [
        (set(), None, 0, "That this pretraining helps is not shown: its last checkpoint less step 0 is +30 points"),
        ({(128, 0)}, None, 64, "No later checkpoint surpasses that of 64 samples by its interval."),
        (
            {(128, 0), (512, 0), (1024, 0), (512, 64)},
            512,
            128,
            "From 512 samples on, every checkpoint surpasses step 0 by its interval.",
        ),
        (
            {(1024, few) for few in MEANS} - {(1024, 1024)},
            1024,
            1024,
            "Every earlier checkpoint is surpassed by a later one: still more pretraining may help.",
        ),
    ],
)
def test_it_is_said_from_where_on_pretraining_helps_and_when_more_is_not_shown_to(
    better: set[tuple[int, int]], helps_from: int | None, unsurpassed: int, said: str
) -> None:
    budget = read_budget(table_of(MEANS, better), STEPS, 64, [])
    assert (budget.helps_from, budget.unsurpassed) == (helps_from, unsurpassed)
    assert any(said in line for line in sentences(budget))


def test_the_picture_has_a_line_per_task_and_a_point_per_checkpoint(tmp_path: Path) -> None:
    budget = read_budget(table_of(MEANS), STEPS, 64, [])
    figure = draw_budget(budget, "RSP", tmp_path / "budget.png")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    mean = lines.pop("mean, 95 % interval")
    assert list(mean.get_ydata()) == list(MEANS.values())
    assert np.diff(mean.get_xdata()).tolist() == [1.5, 1, 1, 1, 1], "doublings are equally far apart"
    assert lines.pop("mean without pretraining").get_ydata() == [0.2, 0.2]
    assert sorted(lines) == [f"task-{i}" for i in range(8)]
    assert all(len(line.get_xdata()) == len(MEANS) for line in lines.values())
    assert len({(line.get_color(), str(line.get_linestyle())) for line in lines.values()}) == 8
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["none", "64", "128", "256", "512", "1.02k"]
    picture = np.asarray(Image.open(tmp_path / "budget.png").convert("L"))
    assert picture.shape[1] == 1200 and picture.min() < 60


def test_the_tables_have_a_row_per_checkpoint_and_a_row_per_task() -> None:
    budget = read_budget(table_of(MEANS), STEPS, 64, [(8, 64.0)])
    columns = {str(column.header): list(column.cells) for column in budget_table(budget, "RSP").columns}
    assert columns["samples"] == ["none", "64", "128", "256", "512", "1024"]
    assert columns["minutes"] == ["0.0", "0.0", "0.0", "0.1", "0.1", ""]
    assert columns["mean success"][2] == "40 % [30, 50]"
    assert columns["less step 0, points"][:2] == ["", "0 [−20, +90]"]
    columns = {str(column.header): list(column.cells) for column in task_table(budget).columns}
    assert columns["task"] == [f"toy/task-{i}" for i in range(8)]
    assert columns["none"][4] == "20 %" and columns["128"][4] == "40 %"


def test_minutes_are_those_of_the_steps_that_were_logged() -> None:
    rows = [(10, 4.0), (30, 8.0)]
    assert [minutes_until(step, 4, rows) for step in (0, 5, 10, 30)] == pytest.approx([0, 5 / 60, 10 / 60, 20 / 60])
    assert minutes_until(31, 4, rows) is None
