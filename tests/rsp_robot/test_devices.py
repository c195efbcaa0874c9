from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsp_robot.devices import peak_memory_mib, pick_device
from rsp_robot.errors import UserError


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch):
    """Pretend to have a number of CUDA devices."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_takes_cuda_where_there_is_one(cuda_devices) -> None:
    cuda_devices(0)
    assert pick_device() == pick_device("auto") == torch.device("cpu")
    cuda_devices(1)
    assert pick_device("auto") == torch.device("cuda")


def test_a_named_device_is_taken_as_it_is(cuda_devices) -> None:
    cuda_devices(2)
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2")])
def test_a_device_that_is_not_there_is_refused(cuda_devices, count: int, name: str) -> None:
    cuda_devices(count)
    with pytest.raises(UserError, match=f"device '{name}' is not on this machine \\({count} CUDA devices\\); use auto"):
        pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "CPU", "mps", "meta"])
def test_a_name_that_is_no_device_is_refused_in_one_line(cuda_devices, name: str) -> None:
    cuda_devices(1)
    with pytest.raises(UserError, match=f"'{name}' is not a device; use auto, cpu, cuda or cuda:<index>") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_memory_of_the_processor_is_that_of_the_process() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert peak_memory_mib(torch.device("cpu")) == pytest.approx(peak_kib / 1024, rel=0.05)


def test_peak_memory_stays_when_memory_is_given_back() -> None:
    """In a process of its own: this one may have held more before."""
    code = """
import torch
from rsp_robot.devices import peak_memory_mib
cpu = torch.device("cpu")
before = peak_memory_mib(cpu)
block = torch.ones(int(before + 100) * 2**18)  # float32: as many MiB
held = peak_memory_mib(cpu)
del block
print(before, held, peak_memory_mib(cpu))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, held, after = map(float, done.stdout.split())
    # The kernel counts in batches per thread: the peak may look a fraction of a MiB lower afterwards.
    assert before + 99 <= held <= 2 * before + 110 and after >= held - 1


def test_peak_memory_of_a_gpu_is_that_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 3 * 2**20)
    assert peak_memory_mib(torch.device("cuda", 1)) == 3.0
    assert asked == [torch.device("cuda", 1)]
