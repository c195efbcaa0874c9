"""Pick the device explicitly: nothing in the package has a global one."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

from rsp_robot.errors import UserError


def pick_device(name: str = "auto") -> torch.device:
    """Turn ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` into a device; ``auto`` takes CUDA where there is one.

    Raises:
        UserError: the name is no device, or the device is not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"{name!r} is not a device; use auto, cpu, cuda or cuda:<index>")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device {name!r} is not on this machine ({torch.cuda.device_count()} CUDA devices); use auto")
    return device


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far, in MiB: tensors on a CUDA device, else the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not ru_maxrss where it can be helped: a child process inherits the peak of its parent there.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
