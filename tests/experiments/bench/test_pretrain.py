"""The bench itself, on a model that steps in milliseconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rsp_robot.backbones import vit
from rsp_robot.errors import UserError
from rsp_robot.experiments.bench import pretrain
from rsp_robot.experiments.bench.flops import Flops
from rsp_robot.experiments.bench.formulations import FULL, PLAIN, Formulation
from rsp_robot.experiments.bench.pretrain import Contender, Measured, PretrainBench, Row, full_formulation, measure
from rsp_robot.pretrain.engine import Engine

CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> PretrainBench:
    monkeypatch.setitem(vit.VARIANTS, "vit-toy", {"width": 16, "depth": 1, "heads": 2})
    monkeypatch.setattr(pretrain, "matmul_peak", lambda device, precision: {"bf16": 4e9, "fp32": 1e9}[precision])
    monkeypatch.setattr(pretrain, "cpu_has_bf16", lambda: True)
    return PretrainBench(
        "vit-toy", 16, 8, decoder_width=16, decoder_depth=1, decoder_heads=2, batch=4, rounds=2, device="cpu",
        compile=False,
    )  # fmt: skip


def test_all_formulations_take_the_same_step(bench: PretrainBench) -> None:
    measured = measure(bench, quiet=True)
    names = [row.name for row in measured.rows]
    assert names[0] == FULL and names[-1] == PLAIN and len(names) == 7
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 and row.micro_batch == 4 for row in measured.rows)
    losses = {row.name: row.loss for row in measured.rows}
    assert losses["bf16 off: fp32"] == pytest.approx(losses[PLAIN], rel=1e-5)
    assert losses[FULL] == pytest.approx(losses[PLAIN], rel=0.02) and losses[FULL] != losses[PLAIN]
    memory = {row.name: row.memory for row in measured.rows}
    model = bench.objective.build(bench.vit)
    assert memory[PLAIN] > memory["bf16 off: fp32"] > 3 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert (measured.batch, measured.peaks) == (4, {"bf16": 4e9, "fp32": 1e9})


def test_rounds_are_interleaved_and_warm_up_is_not_timed(bench: PretrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, str]] = []
    step = Contender.step

    def recorded(self: Contender) -> dict[str, torch.Tensor]:
        turns.append((self.formulation.precision, "timed" if timing else "warm"))
        return step(self)

    timing = False

    def timed(work: Any, device: torch.device) -> float:
        nonlocal timing
        timing = True
        work()
        timing = False
        return 3.0

    monkeypatch.setattr(Contender, "step", recorded)
    monkeypatch.setattr(pretrain, "seconds", timed)
    monkeypatch.setattr(pretrain, "LABELS", {})  # the full setting in bf16 and the plain formulation in fp32
    measured = measure(PretrainBench(**{**vars(bench), "steps": 2}), quiet=True)
    assert [row.seconds for row in measured.rows] == [(1.5, 1.5), (1.5, 1.5)], "per step, not per turn"
    warm = [precision for precision, kind in turns if kind == "warm"]
    assert warm == ["bf16", "bf16", "fp32", "fp32"] and [kind for _, kind in turns] == 4 * ["warm"] + 8 * ["timed"]
    assert [precision for precision, _ in turns[4:]] == 2 * ["bf16", "bf16", "fp32", "fp32"]


def test_only_the_switches_asked_for(bench: PretrainBench) -> None:
    measured = measure(PretrainBench(**{**vars(bench), "only": ("one_pass",), "rounds": 1}), quiet=True)
    assert [row.name for row in measured.rows] == [FULL, "a pass for each frame", PLAIN]


def test_settings_reach_the_engine(bench: PretrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **named: compiled.append(named))
    whole, weights = pretrain._draw(bench, CPU, 4)
    world = pretrain.World(0, 1, CPU)
    fast = Contender(Formulation(True, True, True, True, True, True), bench, world, whole, weights).engine
    plain = Contender(Formulation(), bench, world, whole, weights).engine
    assert len(compiled) == 1 and compiled[0]["fullgraph"]
    assert (fast.config.precision, plain.config.precision) == ("bf16", "fp32")
    assert (fast.optimizer.defaults["fused"], plain.optimizer.defaults["fused"]) == (True, False)
    torch.testing.assert_close(fast.objective.state_dict(), plain.objective.state_dict())
    assert fast.objective.mask_token.data_ptr() != plain.objective.mask_token.data_ptr(), "each trains its own"


def refuse_more_than(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Engine.step

    def limited(self: Engine, batches: Any, rate: float) -> dict[str, torch.Tensor]:
        if max(len(batch.frames) for batch in batches) > pairs:
            raise torch.OutOfMemoryError
        return step(self, batches, rate)

    monkeypatch.setattr(Engine, "step", limited)


def test_what_does_not_fit_is_accumulated(bench: PretrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = PretrainBench(**{**vars(bench), "batch": 7, "only": ("bf16",), "rounds": 1})
    fitting = measure(bench, quiet=True)
    refuse_more_than(2, monkeypatch)
    measured = measure(bench, quiet=True)
    assert [row.micro_batch for row in measured.rows] == [2, 2, 2]
    assert [row.loss for row in measured.rows] == pytest.approx([row.loss for row in fitting.rows], rel=0.1)
    assert measured.rows[-1].memory < fitting.rows[-1].memory


def test_a_batch_is_split_whole(bench: PretrainBench) -> None:
    whole, _ = pretrain._draw(bench, CPU, 7)
    parts = list(pretrain.split(whole, 3))
    assert [len(part.frames) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat([part.frames for part in parts]), whole.frames)
    torch.testing.assert_close(torch.cat([part.draws.mask for part in parts]), whole.draws.mask)


def test_no_memory_at_all_is_told(bench: PretrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_more_than(0, monkeypatch)
    with pytest.raises(UserError, match="not even one pair fits the memory; choose"):
        measure(bench, quiet=True)


def test_mistakes_are_told(bench: PretrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="rounds must be at least 1"):
        PretrainBench(rounds=0)
    with pytest.raises(UserError, match="unknown optimisation 'onepass'; choose from: compile, bf16"):
        PretrainBench(only=("onepass",))
    monkeypatch.setattr(pretrain.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler; install one"):
        measure(PretrainBench(**{**vars(bench), "compile": True}), quiet=True)


def test_the_full_setting_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "cpu_has_bf16", lambda: True)
    assert full_formulation(CPU, compile=True) == Formulation(False, True, False, True, True, True)
    monkeypatch.setattr(pretrain, "cpu_has_bf16", lambda: False)
    assert full_formulation(CPU, compile=True) == Formulation(False, False, True, True, True, True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    cuda = torch.device("cuda")
    assert full_formulation(cuda, compile=True) == Formulation(True, True, True, True, True, True)
    assert not full_formulation(cuda, compile=False).compile


def test_the_numbers_of_a_row() -> None:
    full = Row(FULL, Formulation(bf16=True), 8, (0.5, 4.0, 0.4), 100, 1.0)
    plain = Row(PLAIN, Formulation(), 8, (2.0, 1.0, 1.5), 200, 1.0)
    measured = Measured((full, plain), 8, Flops(10, 30), {"bf16": 1000.0, "fp32": 400.0})
    assert (full.step_s, plain.step_s) == (0.5, 1.5)
    assert full.spread == pytest.approx(7.2)
    assert measured.pairs_s(full) == 16 and measured.flops_s(full) == 480
    assert measured.of_peak(full) == 0.48 and measured.of_peak(plain) == pytest.approx(0.4)
    assert measured.speed_up(full, plain) == 3 and measured.speed_up(plain, full) == pytest.approx(1 / 3)


@pytest.mark.slow
def test_compiled_formulations_stand_side_by_side(bench: PretrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pretrain.has_compiler():
        pytest.skip("torch.compile needs a C++ compiler")
    monkeypatch.setattr(pretrain, "full_formulation", lambda device, compile: Formulation(*6 * [True]))
    chosen = {"compile": True, "only": ("one_pass",), "rounds": 1}
    measured = measure(PretrainBench(**{**vars(bench), **chosen}), quiet=True)
    assert [row.formulation.compile for row in measured.rows] == [True, True, False]
    assert [row.loss for row in measured.rows] == pytest.approx(3 * [measured.rows[-1].loss], rel=0.02)
