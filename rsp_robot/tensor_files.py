"""Weights on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, with the permissions that any new file gets.

    The library's own ``save_file`` (since 0.8) makes files that nobody but their owner may read: a folder that was
    exported to a shared disk would load for one person alone.
    """
    path.write_bytes(save(dict(tensors)))
