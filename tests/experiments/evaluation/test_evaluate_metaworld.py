"""Evaluation on a real simulator: what the toy suite cannot show."""

from __future__ import annotations

from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest

from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate
from rsp_robot.experiments.evaluation.recording import record_videos


class Pixels:
    """Moves as the picture tells it, to the last bit: any pixel that differs shows in the return."""

    cameras: tuple[str, ...] = ("corner2",)

    def reset(self, ids):
        pass

    def act(self, observations, ids=None):
        weights = np.random.default_rng(0).normal(size=(64 * 64 * 3, 4))
        flat = observations["corner2"].reshape(len(ids), -1).astype(np.float64) - 128
        return np.stack([np.sin(row @ weights) for row in flat]).astype(np.float32)


class Still(Pixels):
    cameras = ()

    def act(self, observations, ids=None):
        return np.zeros((len(ids), 4), np.float32)


@pytest.mark.slow
def test_rows_do_not_depend_on_the_processes_nor_on_who_plays(tmp_path):
    pytest.importorskip("metaworld")
    policies = {"pixels": Pixels(), "still": Still()}
    config = EvaluateConfig("metaworld/push-v3", out=tmp_path / "one.jsonl", episodes=3, horizon=12, workers=1)
    alone = evaluate(policies, config)
    together = evaluate(policies, replace(config, out=tmp_path / "two.jsonl", workers=2))
    assert [{**row, "wall_s": 0} for row in alone] == [{**row, "wall_s": 0} for row in together]
    for episode in range(3):
        assert alone[episode]["initial_state"] == alone[3 + episode]["initial_state"]
        assert alone[episode]["return"] != alone[3 + episode]["return"]
    films = record_videos(policies, config, alone, tmp_path / "media", size=96)
    assert set(films) == {(name, "metaworld/push-v3", "failure") for name in policies}, (
        "filming does not change the episode"
    )
    frames = iio.imread(films["pixels", "metaworld/push-v3", "failure"], plugin="pyav")
    assert frames.shape[1:] == (96, 96, 3) and frames.std() > 20
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 0.3, "something moves"
