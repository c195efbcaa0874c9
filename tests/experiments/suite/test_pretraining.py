from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.experiments.presets import find_preset
from rsp_robot.experiments.protocols import find_protocol
from rsp_robot.experiments.suite.pretraining import (
    pretraining_config,
    pretraining_fingerprint,
    read_pretraining,
    small_objectives,
)
from rsp_robot.experiments.suite.run import run_protocol
from rsp_robot.files import append_jsonl, read_json
from rsp_robot.pretrain.config import read_config
from rsp_robot.pretrain.objectives import OBJECTIVES

HONEST = find_protocol("honest")


def test_every_objective_has_a_preset_for_small_data_and_the_protocol_compares_them_all() -> None:
    assert set(small_objectives()) == set(OBJECTIVES)
    named = {word.partition("=")[2].removeprefix("pretrain:") for word in find_protocol("objectives").encoders}
    assert set(OBJECTIVES) < named


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_budget_is_the_protocols_and_the_rest_the_presets(objective: str) -> None:
    protocol = replace(HONEST, pretraining_steps=80, pretraining_batch=8)
    config, preset = pretraining_config(objective, protocol, "a.hdf5", Path("run")), find_preset(f"{objective}-small")
    assert config.objective == preset.objective and config.objective.name == objective
    assert (config.steps, config.samples_per_step, config.probe_every, config.log_every) == (80, 8, 80, 2)
    assert config.peak_lr == pytest.approx(preset.peak_lr)


def test_what_changes_the_encoder_changes_its_fingerprint() -> None:
    protocols = [
        HONEST,
        replace(HONEST, pretraining_steps=HONEST.pretraining_steps + 1),
        replace(HONEST, demonstrations=7),
        HONEST.narrowed(("metaworld/push-v3",)),
    ]
    assert len({pretraining_fingerprint("rsp", protocol) for protocol in protocols}) == len(protocols)
    same = replace(HONEST, episodes=7, steps=9)
    assert pretraining_fingerprint("rsp", same) == pretraining_fingerprint("rsp", HONEST), "policies do not matter"
    with pytest.raises(UserError, match="unknown objective to pretrain with 'rps'; did you mean rsp?"):
        pretraining_fingerprint("rps", HONEST)


def test_an_objective_is_pretrained_frozen_cloned_and_compared(
    material: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = replace(
        material.PROTOCOL, pretraining_steps=4, pretraining_batch=4, encoders=("pretrain:rsp", "blind=none"), seeds=(0,)
    )
    command = replace(material.command(tmp_path), encoder=())
    summary = read_json(run_protocol(protocol, command))
    printed = capsys.readouterr()
    assert "Pretraining: 4 steps of 4 samples each, one seed" in printed.out and "pretraining/rsp: " in printed.err
    assert [arm["encoder"] for arm in summary["pretraining"]] == ["rsp"]
    run = tmp_path / "suite" / "pretraining" / "rsp"
    assert read_config(run).steps == 4
    policy = read_json(next((tmp_path / "suite" / "policy" / "rsp").rglob("training/policy/config.json")))
    assert FrozenEncoder.load(run).fingerprint in str(policy)

    made = (run / "encoder" / "model.safetensors").stat().st_mtime_ns
    run_protocol(protocol, command)
    assert "0 jobs to do" in capsys.readouterr().err
    assert (run / "encoder" / "model.safetensors").stat().st_mtime_ns == made
    with pytest.raises(
        UserError, match=r"holds a suite with other settings \(pretraining_steps 4 instead of 5\); give another --out"
    ):
        run_protocol(replace(protocol, pretraining_steps=5), command)


def test_a_protocol_without_encoders_of_its_own_wants_some(material: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoders to compare"):
        run_protocol(material.PROTOCOL, replace(material.command(tmp_path), encoder=()))


def test_time_is_that_of_the_training_steps(material: Any, tmp_path: Path) -> None:
    protocol = replace(material.PROTOCOL, pretraining_steps=2, pretraining_batch=4)
    run_protocol(replace(protocol, seeds=(0,)), material.command(tmp_path, "pretrain:rsp"))
    run = tmp_path / "suite" / "pretraining" / "rsp"
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="tells of no training"):
        read_pretraining("rsp", "rsp", run)
    for step, speed in ((10, 4.0), (30, 8.0)):
        append_jsonl(run / "metrics.jsonl", {"step": step, "pairs_per_s": speed, "rank": step / 10})
    # 10 steps of 4 samples at 4 samples per second, then 20 at 8.
    found = read_pretraining("rsp", "rsp", run)
    assert (found.minutes, found.rank, found.probe_actions) == (pytest.approx(20 / 60), 3.0, None)
