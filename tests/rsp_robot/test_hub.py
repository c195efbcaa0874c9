"""The Hugging Face Hub, without a network: a cache laid out on disk, and an API that takes notes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.hub import download, upload

TINY = ViTConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)


@pytest.fixture
def encoder() -> FrozenEncoder:
    return FrozenEncoder.random(TINY, seed=3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a machine that is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home" / "hub"


def keep(cache: Path, repository: str, encoder: FrozenEncoder) -> Path:
    """Lay out what a download of the repository leaves behind."""
    folder, commit = cache / f"models--{repository.replace('/', '--')}", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return encoder.save(folder / "snapshots" / commit)


# -- download ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["hub:someone/encoder", "someone/encoder"])
def test_a_repository_in_the_cache_is_loaded_offline(
    cache: Path, encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    keep(cache, "someone/encoder", encoder)
    monkeypatch.chdir(tmp_path)
    for load in (FrozenEncoder.load, FrozenEncoder.from_pretrained):
        loaded = load(spec, pooling="mean")
        assert loaded.source == spec and loaded.pooling == "mean"
        assert torch.equal(loaded(FRAMES), encoder.with_pooling("mean")(FRAMES))


def test_from_pretrained_takes_folders_too(encoder: FrozenEncoder, tmp_path: Path) -> None:
    assert FrozenEncoder.from_pretrained(encoder.save(tmp_path / "encoder")).fingerprint == encoder.fingerprint


def test_a_folder_comes_before_a_repository_of_that_name(
    cache: Path, encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(cache, "runs/rsp", FrozenEncoder.random(TINY, seed=4))
    monkeypatch.chdir(tmp_path)
    assert FrozenEncoder.load("runs/rsp").fingerprint != encoder.fingerprint
    encoder.save(tmp_path / "runs" / "rsp" / "encoder")
    assert FrozenEncoder.load("runs/rsp").fingerprint == encoder.fingerprint
    with pytest.raises(UserError, match="no encoder in runs/rps; give an encoder folder"):  # and nobody goes online
        FrozenEncoder.load("runs/rps")


def test_what_is_neither_in_the_cache_nor_reachable_is_refused(cache: Path) -> None:
    with pytest.raises(UserError, match="cannot download someone/absent from the Hub .*go online, or copy") as caught:
        FrozenEncoder.load("hub:someone/absent")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["someone", "a/b/c", "someone/", "", "../x", "someone/.."])
def test_a_name_that_is_none_is_refused(cache: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no repository|the Hub has no repository"):
        download(name)


def test_a_repository_of_something_else_is_refused(cache: Path, encoder: FrozenEncoder) -> None:
    (keep(cache, "someone/data", encoder) / "model.safetensors").unlink()
    with pytest.raises(UserError, match="someone/data has no model.safetensors: it is no encoder folder"):
        download("someone/data")


@pytest.mark.slow
def test_hf_home_and_hf_hub_offline_are_honoured(encoder: FrozenEncoder, tmp_path: Path) -> None:
    keep(tmp_path / "home" / "hub", "someone/encoder", encoder)
    program = "from rsp_robot.encoder import FrozenEncoder; print(FrozenEncoder.load('someone/encoder').fingerprint)"
    usual = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**usual, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert found.stdout.strip() == encoder.fingerprint


# -- upload ------------------------------------------------------------------------------------------------------------


class Notes:
    """Stands in for huggingface_hub.HfApi, where the network would begin."""

    said: dict[str, Any]
    refuses = False

    def __init__(self, token: str | None = None) -> None:
        type(self).said = {"token": token}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self.refuses:
            raise OSError("401 Client Error\nmore about it")
        self.said |= {"created": repo_id, "private": private, "exist_ok": exist_ok}

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        folder = Path(folder_path)
        self.said |= {
            "uploaded": repo_id,
            "files": sorted(path.name for path in folder.iterdir()),
            "config": json.loads((folder / "config.json").read_text()),
            "weights": load_file(folder / "model.safetensors"),
            "folder": folder,
        }
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> type[Notes]:
    class Fresh(Notes):
        pass

    monkeypatch.setattr("huggingface_hub.HfApi", Fresh)
    return Fresh


def test_an_encoder_is_pushed_as_a_folder(encoder: FrozenEncoder, notes: type[Notes]) -> None:
    address = encoder.push_to_hub("someone/encoder", private=True, token="secret")
    assert address == "https://huggingface.co/someone/encoder/commit/1"
    said = notes.said
    assert said["token"] == "secret" and said["private"] is True and said["exist_ok"] is True
    assert said["created"] == said["uploaded"] == "someone/encoder"
    assert {"config.json", "model.safetensors", "README.md"} == set(said["files"])
    assert said["config"]["fingerprint"] == encoder.fingerprint and "secret" not in json.dumps(said["config"])
    assert torch.equal(said["weights"]["norm.weight"], encoder.backbone.state_dict()["norm.weight"])
    assert not said["folder"].exists(), "the temporary folder is gone"


def test_what_the_hub_refuses_is_told_in_one_line(encoder: FrozenEncoder, notes: type[Notes]) -> None:
    notes.refuses = True
    with pytest.raises(
        UserError, match=r"cannot upload to someone/encoder \(401 Client Error\); log in with"
    ) as caught:
        encoder.push_to_hub("someone/encoder")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="'encoder' is no repository; write <owner>/<name>"):
        upload(".", "encoder")


def test_a_wrapped_module_cannot_be_pushed(notes: type[Notes]) -> None:
    with pytest.raises(UserError, match="cannot be saved"):
        FrozenEncoder.wrap(torch.nn.AvgPool2d(4), 16).push_to_hub("someone/encoder")
