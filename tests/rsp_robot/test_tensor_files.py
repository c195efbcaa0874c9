from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.tensor_files import write_tensors


def test_tensors_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_encoder_may_be_read_by_whoever_may_read_a_new_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "new").write_text("")
    FrozenEncoder.load("random:vit-pico/8@16").save(tmp_path / "encoder")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new", tmp_path / "encoder" / name)}
    assert len(modes) == 1
