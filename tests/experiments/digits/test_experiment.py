from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsp_robot.errors import UserError
from rsp_robot.experiments.digits import experiment
from rsp_robot.experiments.digits.experiment import DigitsConfig, digits
from rsp_robot.experiments.digits.judge import (
    PSNR,
    RANK,
    SPEED,
    SSIM,
    WAY,
    Effort,
    Film,
    Row,
    from_json,
    judge_prediction,
    judge_way,
    to_json,
)
from rsp_robot.experiments.digits.output import claim_line, draw_films, judge_claims
from rsp_robot.experiments.digits.variants import VARIANTS, settled
from rsp_robot.pretrain.checkpoints import build_objective
from rsp_robot.pretrain.config import PretrainConfig
from rsp_robot.pretrain.objectives.srvp import SRVP
from rsp_robot.pretrain.objectives.vj_vcr import VJVCR, Seen

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

LITTLE = Effort(probe_clips=60, speed_clips=60, test_clips=60, predicted_clips=4, samples=3, rank_frames=8)


def tiny(name: str, **changed: Any) -> PretrainConfig:
    """The run of a variant, two steps long and with narrow networks."""
    config = VARIANTS[name].config
    if name.startswith("srvp"):
        changed |= {"filters": 4, "residual_width": 16, "inference_width": 16}
    return replace(config, out=Path(name), steps=2, batch_size=4, objective=replace(config.objective, **changed))


# -- judging -----------------------------------------------------------------------------------------------------------


class Knowing(VJVCR):
    """Finds as a latent whether the digit went down: the light of the last frame against that of the last past one."""

    def see(self, frames: torch.Tensor) -> Seen:
        self.frames_seen = frames
        return super().see(frames)

    def infer(self, seen: Seen) -> torch.Tensor:
        light = self.frames_seen[:, :, 0] - self.frames_seen.min()
        rows = torch.arange(light.shape[-2], dtype=light.dtype)
        height = (light.sum(dim=-1) * rows).sum(dim=-1) / light.sum(dim=(-2, -1))
        down = height[:, self.config.past] > height[:, self.config.past - 1]
        return torch.stack([down, ~down], dim=1).float()


def test_a_latent_that_knows_the_way_is_told_right() -> None:
    config = tiny("vj-vcr")
    model = build_objective(config).eval()
    model.__class__ = Knowing
    row = judge_way("knowing", config, model, LITTLE)  # type: ignore[arg-type]
    assert row.value == 1 and row.high == 1 and 0.9 < row.low < 1 and row.n == 60 and row.of == "the latent"


@torch.no_grad()
def test_without_a_latent_the_prediction_is_asked_and_it_only_saw_the_past() -> None:
    config = tiny("vj-vcr-no-latent")
    model = build_objective(config).eval()
    assert isinstance(model, VJVCR)
    row = judge_way("blind", config, model, replace(LITTLE, test_clips=200))
    assert row.of == "the prediction" and row.low < 0.5 < row.high + 0.1


@torch.no_grad()
def test_a_prediction_is_scored_by_its_best_sample() -> None:
    config = tiny("srvp")
    model = build_objective(config).eval()
    assert isinstance(model, SRVP)
    once, often = (judge_prediction("srvp", config, model, replace(LITTLE, samples=k)) for k in (1, 4))
    assert [row.question for row in once] == [PSNR, SSIM]
    for few, many in zip(once, often, strict=True):
        assert len(many.each) == 4 == many.n and all(np.array(many.each) >= np.array(few.each))
        assert many.value == pytest.approx(np.mean(many.each), abs=1e-3) and many.low < many.value < many.high


def row(question: str, variant: str, value: float, half: float, each: list[float] | None = None) -> Row:
    return Row(question, variant, value, value - half, value + half, 9, "", each or [])


def test_rows_survive_json() -> None:
    rows = [row(PSNR, "srvp", 1.5, 0.5, [1.0, 2.0])]
    assert from_json(json.loads(json.dumps(to_json(rows)))) == rows


def test_a_claim_holds_where_the_intervals_leave_no_doubt() -> None:
    clear = judge_claims([row(WAY, "vj-vcr", 0.9, 0.05), row(WAY, "vj-vcr-no-latent", 0.5, 0.1)])
    assert len(clear) == 1 and clear[0].holds and clear[0].difference is None
    assert claim_line(clear[0]).startswith("holds: with a latent") and "90.0 % against 50.0 %" in claim_line(clear[0])
    doubtful = judge_claims([row(WAY, "vj-vcr", 0.6, 0.05), row(WAY, "vj-vcr-no-latent", 0.5, 0.1)])
    assert not doubtful[0].holds and claim_line(doubtful[0]).startswith("NOT shown")


def test_clip_by_clip_a_small_difference_can_be_certain() -> None:
    worse = [10.0, 20.0, 30.0, 40.0]
    better = [value + shift for value, shift in zip(worse, (1.0, 1.1, 0.9, 1.0), strict=True)]
    rows = [row(PSNR, "srvp", 26, 13, better), row(PSNR, "srvp-no-noise", 25, 13, worse)]
    (found,) = judge_claims(rows)
    assert found.holds and found.difference is not None
    assert found.difference[0] == pytest.approx(1) and found.difference[1] > 0.9
    (turned,) = judge_claims([replace(rows[0], each=worse), replace(rows[1], each=better)])
    assert not turned.holds


def test_a_claim_of_which_a_row_is_missing_is_left_out() -> None:
    assert judge_claims([row(RANK, "vj-vcr-features", 9, 1), row(SPEED, "vj-vcr", 0, 1)]) == []


def test_the_picture_frames_what_is_predicted_and_puts_short_groups_side_by_side() -> None:
    white = np.full((3, 64, 64, 3), 255, np.uint8)
    group = [Film("truth", white, 3), Film("code 1", white, 1)]
    drawn = draw_films({"one": [group, group]})
    assert drawn.shape[:2] == (26 + 2 * 68 + 6, 2 * (88 + 3 * 68))
    grey, orange = (120, 120, 120), (230, 120, 20)
    for left in (88, 88 + 3 * 68 + 88):
        assert (drawn[26, left : left + 3 * 68 : 68] == grey).all()
        assert (drawn[26 + 68, left] == grey).all() and (drawn[26 + 68, [left + 68, left + 136]] == orange).all()
    long = draw_films({"one": [[Film("truth", white.repeat(5, axis=0), 15)]] * 2})
    assert long.shape[:2] == (26 + 2 * (68 + 6), 88 + 15 * 68)


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("vj-vcr", "vj-vcr-no-latent", "srvp", "srvp-no-noise")
    for name in names:
        config = replace(tiny(name), data=VARIANTS[name].config.data.replace("/2000", "/8"))
        monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], config=config))
    monkeypatch.setattr(experiment, "Effort", lambda: LITTLE)


def test_every_variant_is_trained_and_judged_and_the_same_command_continues(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DigitsConfig(tmp_path / "digits", ("vj-vcr", "vj-vcr-no-latent", "srvp", "srvp-no-noise"), device="cpu")
    picture = digits(config)
    assert Image.open(picture).width > 600
    found = json.loads((config.out / "digits.json").read_text())
    asked = {(row["question"], row["variant"]) for row in found["rows"]}
    assert {(WAY, name) for name in ("vj-vcr", "vj-vcr-no-latent", "untrained")} <= asked
    assert {(question, name) for question in (PSNR, SSIM, SPEED) for name in ("srvp", "srvp-no-noise")} <= asked
    assert (PSNR, "untrained-srvp") not in asked and len(found["claims"]) == 2
    shown = capsys.readouterr()
    assert "VJ-VCR without latent" in shown.out and "2/4" in shown.err and "left" in shown.err
    before = {path: path.stat().st_mtime_ns for path in config.out.glob("*/judged.json")}
    (config.out / "srvp" / "judged.json").unlink()
    assert digits(config) == picture
    again = json.loads((config.out / "digits.json").read_text())
    assert again["rows"] == found["rows"]
    after = {path: path.stat().st_mtime_ns for path in config.out.glob("*/judged.json")}
    assert {path.parent.name for path in before if before[path] != after[path]} == {"srvp"}


def test_a_mistake_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"unknown variant 'srpv'; did you mean .*srvp"):
        DigitsConfig(tmp_path / "digits", ("srpv",))
    monkeypatch.setattr(experiment, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rsp-robot\[metrics\]'"):
        digits(DigitsConfig(tmp_path / "digits"))
    assert not (tmp_path / "digits").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_run_that_its_folder_describes(name: str, tmp_path: Path) -> None:
    whole, quick = (settled(VARIANTS[name], tmp_path, quick, 3, "cpu") for quick in (False, True))
    assert whole.out == tmp_path / name and whole.seed == 3 and 0 < quick.steps <= whole.steps / 5
    assert whole.objective.frames.shortest(10.0) <= 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    folder = tmp_path_factory.mktemp("digits")

    def run(*variants: str) -> dict[str, Any]:
        digits(DigitsConfig(folder / variants[0], variants, device="cpu"))
        found: dict[str, Any] = json.loads((folder / variants[0] / "digits.json").read_text())
        return found

    return run


@pytest.mark.slow
def test_only_with_a_latent_vj_vcr_tells_which_way_the_digit_went(trained: Callable[..., dict[str, Any]]) -> None:
    found = trained("vj-vcr", "vj-vcr-no-latent")
    ways = {row["variant"]: row for row in found["rows"] if row["question"] == WAY}
    assert ways["vj-vcr"]["low"] > 0.75
    assert ways["vj-vcr-no-latent"]["low"] < 0.5 < ways["vj-vcr-no-latent"]["high"] < 0.65
    assert ways["untrained"]["low"] < 0.5 < ways["untrained"]["high"] < 0.65
    assert [claim["holds"] for claim in found["claims"]] == [True]


@pytest.mark.slow
def test_without_the_variance_term_the_features_collapse(trained: Callable[..., dict[str, Any]]) -> None:
    found = trained("vj-vcr-features", "vj-vcr-no-variance")
    ranks = {row["variant"]: row["value"] for row in found["rows"] if row["question"] == RANK}
    assert ranks["vj-vcr-features"] > 5 > 1.5 > ranks["vj-vcr-no-variance"]


@pytest.mark.slow
def test_srvp_predicts_better_with_its_noise_variable(trained: Callable[..., dict[str, Any]]) -> None:
    (claim,) = trained("srvp", "srvp-no-noise")["claims"]
    assert claim["holds"] and claim["difference"][1] > 0
