from __future__ import annotations

import time

import pytest
import torch

from rsp_robot.experiments.bench import measure
from rsp_robot.experiments.bench.measure import matmul_peak, memory_of, seconds

CPU = torch.device("cpu")
MIB = 2**20


def test_seconds() -> None:
    assert 0.02 <= seconds(lambda: time.sleep(0.02), CPU) < 1


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_peak_is_the_best_product_after_the_first(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.001, 0.5, 0.25, 1.0])
    dtypes: list[torch.dtype] = []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: (dtypes.append(a.dtype), multiply(a, b, out=out)))

    def timed(work: object, device: torch.device) -> float:
        assert callable(work)
        work()
        return next(times)

    monkeypatch.setattr(measure, "seconds", timed)
    assert matmul_peak(CPU, precision, size=100, repeats=3) == 2 * 100**3 / 0.25
    assert dtypes == 4 * [measure.DTYPES[precision]]


def test_memory_is_the_most_held_at_once_beyond_what_was_there(capfd: pytest.CaptureFixture[str]) -> None:
    kept: list[torch.Tensor] = [torch.zeros(8 * MIB, dtype=torch.uint8)]

    def work() -> None:
        first = torch.zeros(3 * MIB, dtype=torch.uint8)
        second = torch.zeros(2 * MIB, dtype=torch.uint8)
        del first
        kept.append(torch.zeros(MIB, dtype=torch.uint8))
        del second

    assert memory_of(work, CPU) == pytest.approx(5 * MIB, rel=1e-3)
    assert memory_of(work, CPU) == pytest.approx(5 * MIB, rel=1e-3)
    assert capfd.readouterr().err == ""


def test_memory_of_a_step_holds_its_activations() -> None:
    weight = torch.zeros(256, 1024, requires_grad=True)  # 1 MiB
    rows = torch.zeros(1024, 256)

    def work() -> None:
        (rows @ weight).relu().sum().backward()
        weight.grad = None

    # Two activations of 4 MiB and the gradient of one; the weight's own gradient comes later.
    assert 8 * MIB <= memory_of(work, CPU) <= 14 * MIB
