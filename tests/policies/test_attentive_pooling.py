from __future__ import annotations

import torch

from rsp_robot.policies.attentive_pooling import AttentivePooling


def make(seed: int = 0, width: int = 128) -> AttentivePooling:
    return AttentivePooling(width, generator=torch.Generator().manual_seed(seed))


def by_hand(pooling: AttentivePooling, tokens: torch.Tensor) -> torch.Tensor:
    """Head by head, with nothing fused."""
    D, width = tokens.shape[-1], tokens.shape[-1] // pooling.heads
    normed = pooling.token_norm(tokens)
    query, (keys, values) = pooling.to_query(pooling.query), pooling.to_key_value(normed).split(D, dim=-1)
    parts = []
    for head in range(pooling.heads):
        own = slice(head * width, (head + 1) * width)
        weights = (keys[..., own] @ query[own] / width**0.5).softmax(dim=1)
        parts.append((weights[..., None] * values[..., own]).sum(dim=1))
    return pooling.out_norm(pooling.query + pooling.to_out(torch.cat(parts, dim=1)))


def test_attention_by_hand():
    pooling, tokens = make(), torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(1))
    assert pooling.heads == 2
    assert torch.allclose(pooling(tokens), by_hand(pooling, tokens), atol=1e-5)


def test_the_order_of_tokens_does_not_count_and_every_token_does():
    pooling, tokens = make(), torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.allclose(pooling(tokens), pooling(tokens.flip(1)), atol=1e-6)
    pooling(tokens)[..., 0].sum().backward()
    assert (tokens.grad.abs().sum(dim=2) > 0).all()


def test_it_learns_to_take_from_the_token_that_tells():
    generator = torch.Generator().manual_seed(0)
    pooling, last = make(width=16), torch.nn.Linear(16, 1)
    optimiser = torch.optim.Adam([*pooling.parameters(), *last.parameters()], lr=3e-3)
    for _ in range(300):
        tokens = torch.randn(64, 6, 16, generator=generator)
        place = torch.randint(6, (64,), generator=generator)
        tokens[torch.arange(64), place, 0] = 8.0  # the mark
        wanted = tokens[torch.arange(64), place, 1]
        loss = (last(pooling(tokens))[:, 0] - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3, "a mean over six tokens would leave most of the variance of 1"


def test_first_weights_come_from_the_generator():
    assert all(torch.equal(a, b) for a, b in zip(make(3).parameters(), make(3).parameters(), strict=True))
    assert not torch.equal(make(3).query, make(4).query)
