from __future__ import annotations

import math

import pytest
import torch

from rsp_robot.policies.heads import Features
from rsp_robot.policies.heads.chunking import ensemble, kl_to_standard_normal, latest_predictions

SMALL = {"width": 32, "chunk": 4, "encoder_layers": 1, "decoder_layers": 1, "latent": 4}


def test_divergence_of_the_latent_by_hand() -> None:
    mean, log_variance = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(4)]])
    assert kl_to_standard_normal(mean, log_variance).tolist() == pytest.approx([0, 2 + 0.5 * (4 - 1 - math.log(4))])


def test_the_present_step_is_on_the_diagonal_of_the_chunks() -> None:
    chunks = torch.tensor([[0.0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]])[..., None]
    assert latest_predictions(chunks).flatten().tolist() == [2, 11, 20]  # made two steps ago, one step ago, now


def test_the_oldest_prediction_weighs_most() -> None:
    weight = math.exp(-math.log(2))
    expected = (8 + 4 * weight + 2 * weight**2) / (1 + weight + weight**2)
    assert ensemble(torch.tensor([[8.0], [4.0], [2.0]]), math.log(2)).item() == pytest.approx(expected)


def test_chunks_are_averaged_where_they_overlap(make_head) -> None:
    head = make_head("chunking", 2, 3, last_layer_scale=1.0, **SMALL).eval()
    seen = torch.randn(6, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chunks = torch.cat([head(Features(vector), torch.zeros(1, 4)) for vector in seen])
    memory = None
    for step, vector in enumerate(seen):
        action, memory = head.act(Features(vector), memory, torch.Generator())
        first = max(0, step - 3)  # a chunk reaches three steps ahead
        said = torch.stack([chunks[made, step - made] for made in range(first, step + 1)])
        assert torch.allclose(action[0], ensemble(said, 0.01), atol=1e-5), step
        assert len(memory) == min(step + 1, 4)


def test_a_part_of_each_chunk_is_carried_out(make_head) -> None:
    head = make_head("chunking", 2, 3, execute=3, last_layer_scale=1.0, **SMALL).eval()
    seen = torch.randn(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (head(Features(seen[step]), torch.zeros(1, 4))[0] for step in (0, 3))
    memory = None
    for step, expected in enumerate([*first[:3], *second[:2]]):
        action, memory = head.act(Features(seen[step]), memory, torch.Generator())
        assert torch.allclose(action[0], expected, atol=1e-6), step


def test_it_learns_what_comes_next(make_head, fit) -> None:
    start = torch.linspace(-1, 1, 32).reshape(-1, 1, 1)
    actions = (start + 0.5 * torch.arange(4).reshape(1, 4, 1)).sin()
    head = make_head("chunking", **SMALL)
    assert fit(head, start, actions, steps=250, lr=3e-3)["l1"] < 0.06
    chunk = head(Features(torch.full((1, 1, 1), 0.25)), torch.zeros(1, 4))
    assert torch.allclose(chunk[0, :, 0], torch.tensor([0.25, 0.75, 1.25, 1.75]).sin(), atol=0.15)


def test_it_reads_the_patch_token_that_matters(make_head, fit) -> None:
    """Three tokens are up or down; the middle one decides, so that they have to be told apart by their place."""
    tokens = torch.zeros(64, 1, 3, 8)
    tokens[..., 0] = torch.randn(64, 1, 3, generator=torch.Generator().manual_seed(0)).sign()
    actions = tokens[:, 0, 1, :1][:, None].expand(-1, 4, -1).clone()
    head = make_head("chunking", tokens=(3, 8), **SMALL)
    fit(head, torch.ones(64, 1, 1), actions, tokens, steps=150, lr=3e-3)
    chunk = head(Features(torch.ones(64, 1, 1), tokens), torch.zeros(64, 4))
    assert (chunk.sign() == actions).float().mean() > 0.95


def test_the_error_is_the_absolute_one(make_head) -> None:
    head = make_head("chunking", actions=2, last_layer_scale=0.0, **SMALL)  # answers zero
    actions = torch.tensor([[1.0, -3.0]]).expand(1, 4, 2)
    losses = head.loss(Features(torch.ones(1, 1, 1)), actions, torch.ones(1, 4, dtype=torch.bool), torch.Generator())
    assert losses["l1"].item() == 2.0
    assert losses["loss"].item() == pytest.approx(2.0 + 10 * losses["kl"].item(), rel=1e-6)


def test_the_latent_carries_what_the_observation_does_not_say(make_head, fit) -> None:
    actions = torch.tensor([-1.0, 1.0]).repeat(16)[:, None, None].expand(-1, 4, -1).clone()
    vector = torch.ones(32, 1, 1)
    free = fit(make_head("chunking", kl_weight=0.01, **SMALL), vector, actions, steps=150, lr=3e-3)
    tight = fit(make_head("chunking", kl_weight=100.0, **SMALL), vector, actions, steps=150, lr=3e-3)
    assert free["l1"] < 0.2 and free["kl"] > 0.5
    assert tight["l1"] > 0.8 and tight["kl"] < 0.05
    assert tight["loss"] == pytest.approx(tight["l1"] + 100 * tight["kl"], rel=1e-4)
