from __future__ import annotations

import numpy as np
import pytest
import torch

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.policies.bc_data import Rows, assemble, fuse_rows, measure
from rsp_robot.policies.behaviour_cloning import BCConfig, train_bc
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.episodes import read_recording
from rsp_robot.policies.history import Past, fuse, window_rows
from rsp_robot.policies.policy import load_policy


def episode_bounds(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, last, start = [], [], 0
    for length in lengths:
        first += [start] * length
        last += [start + length - 1] * length
        start += length
    return torch.tensor(first), torch.tensor(last)


def test_windows_stay_within_their_episode():
    first, last = episode_bounds(3, 2)
    assert window_rows(torch.arange(5), first, last, 2, 1).tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4],
    ]  # fmt: skip
    assert window_rows(torch.tensor([1, 3]), first, last, 0, 4).tolist() == [[1, 2, 2, 2], [3, 4, 4, 4]]
    assert window_rows(torch.tensor([4, 0]), first, last, 0, 1).tolist() == [[4], [0]]


def test_fusion_by_hand():
    embeddings = torch.tensor([[1.0, 10.0], [2.0, 30.0], [4.0, 20.0]])[None, :, None]  # one camera of two numbers
    assert fuse(embeddings, 3, "concat").flatten().tolist() == [1, 10, 2, 30, 4, 20]
    assert fuse(embeddings, 3, "difference").flatten().tolist() == [1, 20, 2, -10, 4, 20]
    assert fuse(embeddings, 1, "difference").flatten().tolist() == [1, 10, 2, 30, 4, 20]
    assert fuse(embeddings, 2, "difference").shape == (1, 2, 1, 2, 2)


def test_each_camera_keeps_its_numbers_together():
    first, last = episode_bounds(3)
    left, right = np.array([[1.0], [2.0], [4.0]]), np.array([[10.0], [30.0], [20.0]])
    fused = fuse_rows(Rows([[left, right]], np.arange(3)), first, last, 2, "difference")
    assert fused.tolist() == [[0, 1, 0, 10], [1, 2, 20, 30], [2, 4, -10, 20]]


def test_tokens_are_fused_place_by_place():
    tokens = torch.randn(2, 3, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    fused = fuse(tokens, 3, "difference")
    assert fused.shape == (2, 1, 1, 3, 5, 4)
    assert torch.equal(fused[:, 0, 0, 1], tokens[:, 2, 0] - tokens[:, 1, 0])


@pytest.mark.parametrize("fusion", ["concat", "difference"])
@pytest.mark.parametrize("history", [1, 2, 3, 5])
def test_whole_episodes_and_step_by_step_give_the_same_bits(history, fusion):
    generator = torch.Generator().manual_seed(history)
    embeddings = torch.randn(9, 2, 7, generator=generator)  # rows of two episodes, two cameras
    first, last = episode_bounds(4, 5)
    rows = Rows([[embeddings[:, 0].numpy(), embeddings[:, 1].numpy()]], np.arange(9))
    whole = fuse_rows(rows, first, last, history, fusion)
    for start, stop in ((0, 4), (4, 9)):
        past = Past(history)
        for row in range(start, stop):
            assert torch.equal(fuse(past.add(embeddings[row]), history, fusion).flatten(), whole[row])


def test_the_policy_sees_what_the_data_set_holds_to_the_last_bit(make_data, encoder, tmp_path, monkeypatch):
    """Through the whole of training and acting: the features of a demonstration, and those of playing it."""
    path = make_data(count=3, cameras=("front", "side"))
    config = BCConfig(steps=5, batch_size=8, history=3, fusion="difference")
    policy = load_policy(train_bc(path, encoder, tmp_path / "run", config), encoder)
    with DemonstrationFile(path) as file:
        recording = read_recording([file], "auto")
        played = file.read(1)
        # Rows of a matrix product may depend on the batch: both sides get what encode_rows gives.
        embeddings = [
            np.concatenate([encode_rows(encoder, file.read_frames(i, camera)) for i in range(3)])
            for camera in ("front", "side")
        ]
        data = assemble([file], recording, measure([file], recording, "none"), [embeddings], 3, "difference")
        start = file.lengths[0]
    with torch.no_grad():
        wanted = [
            policy.network.features(data.observations(torch.tensor([start + step]))).vector
            for step in range(len(played))
        ]
    seen = []
    act = policy.network.head.act
    monkeypatch.setattr(
        policy.network.head, "act", lambda features, *rest: (seen.append(features), act(features, *rest))[1]
    )
    policy.reset([7, 8])
    for step in range(len(played)):
        observation = {key: value[[step, 0]] for key, value in played.observations.items()}
        policy.act(observation, [7, 8])  # the other row must not disturb
    assert len(seen) == 2 * len(played)
    for step in range(len(played)):
        assert torch.equal(seen[2 * step].vector, wanted[step]), step
