from __future__ import annotations

import pytest
import torch

from rsp_robot.devices import pick_device
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
