from __future__ import annotations

import argparse
import collections
import hashlib
import os
import pickle
import subprocess
import types
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsp_robot.checkpoints import (
    Inert,
    arguments_of,
    file_sha256,
    layout_difference,
    read_checkpoint,
    state_dict_of,
)
from rsp_robot.errors import UserError

WEIGHTS = {"norm.weight": torch.tensor([1.0, 2.0]), "norm.bias": torch.tensor([3.0, 4.0])}


class Settings:
    """A class that reading a checkpoint must not touch."""

    touched = False

    def __init__(self) -> None:
        self.depth = 12

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).touched = True


class Calls:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[object], Path]:
    """Save as torch does, in its format of today or in that of torch before 1.6."""

    def to_file(content: object) -> Path:
        path = tmp_path / "checkpoint.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return to_file


def published(**arguments: object) -> dict[str, object]:
    """What the training scripts of RSP and MAE save."""
    args = argparse.Namespace(lr=1e-3, epochs=400, model="rsp_vit_small_patch16", norm_pix_loss=True, **arguments)
    return {"model": WEIGHTS, "optimizer": {"state": {0: {"step": 7}}}, "epoch": 3, "scaler": {}, "args": args}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_a_published_checkpoint_is_read_whole(save: Callable[[object], Path]) -> None:
    content = read_checkpoint(save(published()))
    assert list(content) == ["model", "optimizer", "epoch", "scaler", "args"]
    assert content["epoch"] == 3 and content["optimizer"] == {"state": {0: {"step": 7}}}
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in WEIGHTS.items())
    assert arguments_of(content) == {
        "lr": 1e-3, "epochs": 400, "model": "rsp_vit_small_patch16", "norm_pix_loss": True,
    }  # fmt: skip


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    content = read_checkpoint(str(tmp_path / "model.safetensors"))
    assert content.keys() == WEIGHTS.keys() and torch.equal(content["norm.bias"], WEIGHTS["norm.bias"])
    assert arguments_of(content) == {}


@pytest.mark.parametrize(
    "value",
    [PurePosixPath("/data"), np.float64(0.5), np.arange(3), Settings(), Settings, print, slice(1, 2), frozenset([1])],
    ids=lambda value: type(value).__name__,
)
def test_objects_of_unknown_classes_do_not_block_the_weights(save: Callable[[object], Path], value: object) -> None:
    content = read_checkpoint(save(published(strange=value)))
    strange = content["args"].strange
    assert strange is Inert or type(strange) is Inert
    assert "strange" not in arguments_of(content) and arguments_of(content)["epochs"] == 400
    assert torch.equal(state_dict_of(content)["norm.weight"], WEIGHTS["norm.weight"])
    assert not Settings.touched


def test_other_containers_keep_what_they_hold(save: Callable[[object], Path]) -> None:
    content = published(
        table=collections.defaultdict(list, {"a": [1]}),
        queue=collections.deque([1, 2]),
        inner=types.SimpleNamespace(depth=12),
    )
    args = read_checkpoint(save(content))["args"]
    assert args.table == {"a": [1]} and args.queue == [1, 2] and args.inner.depth == 12
    assert type(args.table) is dict and type(args.queue) is list


def test_nothing_stays_allowed_after_reading(save: Callable[[object], Path]) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(save(published(strange=Settings())))
    assert set(torch.serialization.get_safe_globals()) == before


# -- hostile files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["args", "top", "weights"])
@pytest.mark.parametrize("how", ["open", "exec", "subprocess"])
def test_code_in_a_pickle_does_not_run(save: Callable[[object], Path], tmp_path: Path, at: str, how: str) -> None:
    """What would run comes back as a placeholder, and the weights beside it are usable."""
    mark = tmp_path / "ran"
    bomb = {
        "open": Calls(open, str(mark), "w"),
        "exec": Calls(exec, f"open({str(mark)!r}, 'w')"),
        "subprocess": Calls(subprocess.call, ["touch", str(mark)]),
    }[how]
    content = published(strange=bomb) if at == "args" else published()
    if at == "top":
        content["strange"] = bomb
    if at == "weights":
        content["model"] = {**WEIGHTS, "strange": bomb}
    path = save(content)
    read = read_checkpoint(path)
    assert not mark.exists()
    assert state_dict_of(read).keys() == WEIGHTS.keys()
    torch.load(path, weights_only=False)  # it was a bomb indeed
    assert mark.exists()


def test_a_call_of_the_operating_system_is_refused(save: Callable[[object], Path], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = save(published(strange=Calls(os.system, f"touch {mark}")))
    assert "wants to call posix.system, which no checkpoint needs; do not trust this file" in refusal(path)
    assert not mark.exists()


def test_what_a_placeholder_would_return_is_not_called(save: Callable[[object], Path], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = save(published(strange=Calls(mark.touch)))  # calls what getattr(path, "touch") returns
    assert "Trying to call reduce for unrecognized function" in refusal(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "checkpoint.pth"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"model": WEIGHTS, "strange": Calls(open, str(mark), "w")}, protocol))
        refusal(path)
        assert not mark.exists()


# -- damage ----------------------------------------------------------------------------------------------------------


def test_a_truncated_file_is_refused(save: Callable[[object], Path]) -> None:
    path = save(published())
    whole = path.read_bytes()
    for keep in (0, 1, 30, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:keep])
        assert "is damaged or not a checkpoint that can be read safely" in refusal(path)


@pytest.mark.parametrize("name", ["checkpoint.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>" * 9, b"PK\x03\x04", b"\x80\x02}.", bytes(99)])
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "is damaged or not a checkpoint" in refusal(tmp_path / name)


def test_reasons_are_the_telling_ones(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": WEIGHTS, "args": collections.UserDict(a=1)}, path, pickle_protocol=4)
    assert "(Unsupported operand 149)" in refusal(path)


def test_what_is_no_mapping_or_no_file_is_refused(save: Callable[[object], Path], tmp_path: Path) -> None:
    assert "holds a list instead of weights by name" in refusal(save([1, 2]))
    assert "is a folder; give a file" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "absent.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_bytes_never_end_in_anything_but_a_user_error(save: Callable[[object], Path]) -> None:
    path = save(published(strange=np.float64(1)))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(damaged), 3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except UserError as error:
            assert "\n" not in str(error)


# -- what is in it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model", "state_dict", None])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_are_found(key: str | None, wrapper: str) -> None:
    weights = {wrapper + name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()}
    state = state_dict_of({key: weights, "epoch": 3} if key else {**weights, "epoch": 3})
    assert state.keys() == WEIGHTS.keys() and torch.equal(state["norm.weight"], WEIGHTS["norm.weight"])
    assert not any(tensor.requires_grad for tensor in state.values())


def test_a_prefix_that_only_some_names_have_stays() -> None:
    assert state_dict_of({"module.a": torch.ones(1), "b": torch.ones(1)}).keys() == {"module.a", "b"}


def test_a_checkpoint_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"x.pth holds no weights \(found epoch, args\); give a checkpoint"):
        state_dict_of({"epoch": 3, "args": {}}, "x.pth")


def test_only_simple_arguments_are_given() -> None:
    args = {"lr": 0.1, "epochs": 3, "model": "a", "flag": False, "path": Inert(), "betas": [0.9], "none": None}
    assert arguments_of({"args": args}) == {"lr": 0.1, "epochs": 3, "model": "a", "flag": False}
    assert arguments_of({"args": Inert()}) == {} and arguments_of({}) == {}


def test_a_difference_of_layout_names_the_first_keys() -> None:
    one = torch.zeros(1)
    assert layout_difference(WEIGHTS, {name: torch.empty(2, device="meta") for name in WEIGHTS}) is None
    found = dict.fromkeys("abcdef", one)
    assert layout_difference(found, {"a": torch.zeros(2, 3), "z": one}) == (
        "missing z; unexpected b, c, d and 2 more; a is (1,) instead of (2, 3)"
    )


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()
