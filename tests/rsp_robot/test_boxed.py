"""The encoder that comes with the package."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.boxed import boxed_encoder, boxed_names
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.pretrain.monitors import rank_me

SMALL = "rsp-robot/small"
MOST_BYTES = 15e6


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("somebody went to the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrozenEncoder:
    monkeypatch.chdir(tmp_path)
    return FrozenEncoder.load(SMALL)


def scene(seed: int, size: int = 96) -> np.ndarray:
    """A table, a robot's arm, an object and a goal, as a camera might see them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    picture = np.where((rows > 0.4)[..., None], rng.uniform(90, 180, 3), rng.uniform(20, 220, 3))
    hand, thing, goal = rng.uniform((0.2, 0.2), (0.6, 0.8)), rng.uniform(0.45, 0.9, 2), rng.uniform(0.45, 0.9, 2)
    along = np.clip(rows / hand[0], 0, 1)
    picture[(rows < hand[0]) & (abs(columns - 0.5 - along * (hand[1] - 0.5)) < 0.05)] = (170, 40, 40)
    for place, radius in ((goal, 0.05), (thing, 0.07)):
        picture[np.hypot(rows - place[0], columns - place[1]) < radius] = rng.uniform(0, 255, 3)
    return picture.clip(0, 255).astype(np.uint8)


def test_it_loads_without_network_wherever_one_stands(encoder: FrozenEncoder) -> None:
    assert encoder.source == SMALL and encoder.embedding_shape == (encoder.dim,)
    assert FrozenEncoder.from_pretrained(SMALL).fingerprint == encoder.fingerprint
    assert FrozenEncoder.load(SMALL, pooling="mean").pooling == "mean"
    assert boxed_names() == [SMALL]


def test_its_weights_are_small_on_disk_and_float32_in_memory(encoder: FrozenEncoder) -> None:
    file = boxed_encoder(SMALL) / "model.safetensors"
    assert file.stat().st_size <= MOST_BYTES
    stored = load_file(file)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    for name, tensor in encoder.backbone.state_dict().items():
        assert tensor.dtype == torch.float32 and tensor.isfinite().all() and torch.equal(tensor, stored[name].float())


def test_its_golden_embedding_is_reproduced(encoder: FrozenEncoder) -> None:
    config = json.loads((boxed_encoder(SMALL) / "config.json").read_text(encoding="utf-8"))
    golden = torch.tensor(config["golden"])
    assert (encoder._golden() - golden).norm() < 1e-3 * golden.norm()
    assert encoder.fingerprint == config["fingerprint"]


def test_it_was_pretrained(encoder: FrozenEncoder) -> None:
    assert encoder.provenance["objective"] and encoder.provenance["steps"] >= 1
    vit: ViTConfig = encoder.backbone.config
    drawn = FrozenEncoder.random(vit).backbone.state_dict()
    moved = {name: (tensor - drawn[name]).norm() for name, tensor in encoder.backbone.state_dict().items()}
    still = [name for name, distance in moved.items() if distance == 0 and name != "pos_embed"]
    assert not still, "biases and norms begin the same for every seed"


def test_it_tells_scenes_apart(encoder: FrozenEncoder) -> None:
    embeddings = encoder(np.stack([scene(seed) for seed in range(48)]))
    assert embeddings.isfinite().all()
    first, second = embeddings[:2]
    assert (first - second).norm() > 0.05 * first.norm()
    assert rank_me(embeddings) > 5


def test_its_card_says_what_a_user_must_know(encoder: FrozenEncoder) -> None:
    folder = boxed_encoder(SMALL)
    card = (folder / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", card, re.MULTILINE)
    for heading in ("How to load it", "What it is", "Where it comes from", "Data", "Command", "Hardware and hours",
                    "Results", "Licence", "Limits"):  # fmt: skip
        assert heading in headings
    assert f'FrozenEncoder.load("{SMALL}")' in card and f"`{encoder.fingerprint}`" in card
    assert "license: mit\n" in card and "Not stated" not in card
    for text in (card, (folder / "config.json").read_text(encoding="utf-8")):
        assert not re.search(r"/(tmp|work|home|root)/", text), "paths of somebody's machine"


def test_an_unknown_name_is_answered_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"unknown encoder 'rsp-robot/smal'; did you mean rsp-robot/small\?"):
        FrozenEncoder.load("rsp-robot/smal")
    (tmp_path / "rsp-robot").mkdir()  # a clone of the repository
    assert FrozenEncoder.load(SMALL).source == SMALL
    with pytest.raises(UserError, match="no encoder in rsp-robot/runs/rsp; give an encoder folder"):
        FrozenEncoder.load("rsp-robot/runs/rsp")


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = FrozenEncoder.load("random:vit-nano/16@32")
    other.save(tmp_path / "rsp-robot" / "small")
    assert FrozenEncoder.load(SMALL).fingerprint == other.fingerprint
