from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.pretrain.checkpoints import (
    build_objective,
    checkpoint_path,
    is_doubling,
    kept_steps,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    saved_steps,
)
from rsp_robot.pretrain.config import PretrainConfig

CPU = torch.device("cpu")
CONFIG = PretrainConfig("d", Path("o"))


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.full((2,), float(step))}}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"last": 1}, {70}),
        ({"last": 3}, {50, 60, 70}),
        ({"last": 1, "every": 20}, {20, 40, 60, 70}),
        ({"last": 9}, {2, 4, 10, 20, 30, 40, 50, 60, 70}),
        ({"last": 1, "doublings": True}, {1, 2, 4, 70}),
    ],
)
def test_which_checkpoints_stay(rule: dict[str, Any], kept: set[int]) -> None:
    assert kept_steps([1, 2, 4, 10, 20, 30, 40, 50, 60, 70], **rule) == kept


def test_doublings() -> None:
    assert [step for step in range(40) if is_doubling(step)] == [1, 2, 4, 8, 16, 32]


def test_the_newest_are_kept_and_read(tmp_path: Path) -> None:
    assert load_newest(tmp_path, CPU) is None
    for step in (2, 4, 6, 100_000_000):
        save_checkpoint(tmp_path, state(step), replace(CONFIG, keep_last=2, keep_every=4))
    (tmp_path / "step-notes.txt").write_text("a user's own")
    assert saved_steps(tmp_path) == [4, 6, 100_000_000]
    newest = load_newest(tmp_path, CPU)
    assert newest is not None and newest["step"] == 100_000_000
    torch.testing.assert_close(load_checkpoint(checkpoint_path(tmp_path, 4), CPU), state(4))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state(2), CONFIG)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="step-00000002.pt is damaged .*; delete it to go on from the one before"):
        load_newest(tmp_path, CPU)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        load_newest(tmp_path, CPU)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"step": 1, "model": Trap()}, checkpoint_path(tmp_path, 1))
    with pytest.raises(UserError, match="is damaged"):
        load_newest(tmp_path, CPU)
    assert not (tmp_path / "sprung").exists()


def test_initial_weights_come_from_the_seed_alone(toy_arch: str) -> None:
    config = replace(CONFIG, arch=toy_arch, image_size=16, patch_size=8)
    before = torch.random.get_rng_state()
    first = build_objective(config).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    torch.testing.assert_close(build_objective(config).state_dict(), first, rtol=0, atol=0)
    other = build_objective(replace(config, seed=1)).state_dict()
    assert not torch.equal(other["mask_token"], first["mask_token"])
