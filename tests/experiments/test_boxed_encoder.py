"""What stores an encoder by name finds the one that comes with the package again, wherever the policy has gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.experiments.cli import main
from rsp_robot.experiments.suite.run import SuiteConfig, run_protocol
from rsp_robot.experiments.suite.work import identify
from rsp_robot.files import read_json, read_jsonl
from rsp_robot.policies.policy import load_policy

SMALL = "rsp-robot/small"


@pytest.fixture
def material(toy_suite: Path, tmp_path: Path) -> Any:
    module = import_module("suite_material")
    module.demonstrate(tmp_path / "data", count=4)
    return module


def test_a_cloned_policy_is_moved_and_played_elsewhere(
    material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["bc", "--data", str(tmp_path / "data" / "toy-reach.hdf5"), "--encoder", SMALL, "--steps", "10"]
    assert main([*words, "--out", str(tmp_path / "run"), "--pooling", "cls+mean"]) == 0
    before = load_policy(tmp_path / "run")
    (tmp_path / "far" / "away").mkdir(parents=True)
    shutil.move(tmp_path / "run" / "policy", tmp_path / "far" / "away" / "policy")
    monkeypatch.chdir(tmp_path / "far")
    stored = read_json("away/policy/config.json")["encoder"]
    assert stored["source"] == SMALL
    assert stored["fingerprint"] == FrozenEncoder.load(SMALL, pooling="cls+mean").fingerprint
    policy = load_policy("away/policy")
    rng = np.random.default_rng(0)
    seen = {"front": rng.integers(0, 256, (2, 16, 16, 3), np.uint8), "proprio": rng.normal(size=(2, 2))}
    seen["proprio"] = seen["proprio"].astype(np.float32)
    assert np.array_equal(policy.act(seen), before.act(seen))
    assert main(["evaluate", "away/policy", "--episodes", "2", "--horizon", "4", "--workers", "1",
                 "--out", "rows.jsonl"]) == 0  # fmt: skip
    assert [row["error"] for row in read_jsonl("rows.jsonl")] == [None, None]


def test_a_suite_knows_it_by_name(material: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    protocol = replace(material.PROTOCOL, demonstrations=3, episodes=2, seeds=(0,), epochs=2, evaluate_every=1)
    encoder = identify(SMALL, protocol, "cpu")
    assert (encoder.spec, encoder.fingerprint) == (SMALL, FrozenEncoder.load(SMALL).fingerprint)
    config = SuiteConfig(protocol="toy", encoder=(SMALL,), data=Path("data"), out=Path("suite"), workers=1)
    run_protocol(protocol, config)
    (found,) = tmp_path.glob("suite/policy/rsp-robot-small/*/seed-0/training/policy/config.json")
    assert read_json(found)["encoder"]["source"] == SMALL


def test_it_is_exported_under_its_own_fingerprint(tmp_path: Path) -> None:
    assert main(["export", "--encoder", SMALL, "--half", "--out", str(tmp_path / "out")]) == 0
    boxed, copied = FrozenEncoder.load(SMALL), FrozenEncoder.load(tmp_path / "out")
    assert copied.fingerprint == boxed.fingerprint, "float16 holds it exactly"
