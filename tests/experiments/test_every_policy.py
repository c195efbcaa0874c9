"""Every pair of eyes with every head: each row is what ``rsp-robot bc --encoder EYES --head HEAD`` trains.

The task is easy (press a button from above), so that a row that does not reach its level is broken, not weak. All rows
take about 40 minutes on 2 cores; one of them: ``pytest -m slow -k "gmm and resnet18"``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.experiments.evaluation.evaluate import EvaluateConfig, evaluate
from rsp_robot.experiments.presets import find_preset
from rsp_robot.policies.behaviour_cloning import BCConfig, load_policy, train_bc
from rsp_robot.pretrain.train import pretrain

pytestmark = pytest.mark.slow

TASK, HORIZON, EPISODES = "metaworld/button-press-topdown-v3", 150, 20
EYES = (
    "rsp",
    "random:vit_tiny_patch16_224@64",
    "random:resnet18@64",
    "random:vit-nano/16@64",
    "scratch",
    "state",
    "none",
)
HEADS = ("mlp", "gmm", "gru", "chunking", "flow")
LEVELS = {"none": 0.2, "scratch": 0.4}
"""Success rate that a row has to reach; 0.6 for the others. The blind ones press where the button often is (measured:
0.35 to 0.5), and 1000 steps are few for eyes that begin from nothing."""


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("easy") / "button.hdf5"
    return collect(CollectConfig(TASK, out, cameras=("close",), image_size=96, horizon=HORIZON), quiet=True)


@pytest.fixture(scope="module")
def pretrained(demonstrations: Path) -> Path:
    out = demonstrations.with_name("rsp")
    settings = {"data": str(demonstrations), "out": out, "steps": 500, "holdout": 0.0, "probe_every": None}
    return pretrain(replace(find_preset("rsp-small"), **settings))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("eyes", EYES)
def test_it_reaches_its_level_on_an_easy_task(
    eyes: str, head: str, demonstrations: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue("pretrained") if eyes == "rsp" else eyes
    batch = 16 if (eyes, head) == ("scratch", "gru") else 128  # windows of ten pictures each, encoded anew
    config = BCConfig(head=head, steps=1000, batch_size=batch)
    folder = train_bc(demonstrations, encoder, tmp_path / "run", config)
    rows = evaluate(
        {"policy": load_policy(folder)},
        EvaluateConfig(TASK, out=tmp_path / "rows.jsonl", episodes=EPISODES, horizon=HORIZON),
    )
    rate = sum(row["success_once"] for row in rows) / len(rows)
    assert rate >= LEVELS.get(eyes, 0.6)
