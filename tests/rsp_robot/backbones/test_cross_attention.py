from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rsp_robot.backbones.cross_attention import CrossAttention, CrossSelfBlock

WIDTH, HEADS = 8, 2


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(0.5 * draw(*parameter.shape, seed=index))
    return module.eval()


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """``softmax(q k^T / sqrt(d)) v``, one head and one picture at a time."""
    out = torch.zeros_like(q)
    size = q.shape[-1] // heads
    for picture in range(q.shape[0]):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[picture, :, part] @ k[picture, :, part].T / math.sqrt(size)
            weights = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
            out[picture, :, part] = weights @ v[picture, :, part]
    return out


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_equals_a_plain_softmax(fused: bool) -> None:
    module = shaken(CrossAttention(WIDTH, HEADS, fused))
    queries, memory = draw(3, 5, WIDTH, seed=10), draw(3, 7, WIDTH, seed=11)
    kv = memory @ module.kv.weight.T + module.kv.bias
    q = queries @ module.q.weight.T + module.q.bias
    attended = plain_attention(q, kv[..., :WIDTH], kv[..., WIDTH:], HEADS)
    wanted = attended @ module.proj.weight.T + module.proj.bias
    found = module(queries, memory)
    assert found.shape == (3, 5, WIDTH)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hand_values() -> None:
    module = CrossAttention(2, 1)
    module.q.weight.copy_(torch.eye(2))
    module.kv.weight.copy_(torch.cat([torch.eye(2), 10 * torch.eye(2)]))  # keys are the memory, values ten times it
    module.proj.weight.copy_(torch.eye(2))
    for layer in (module.q, module.kv, module.proj):
        layer.bias.zero_()
    # The query (a, 0) scores the keys (1, 0) and (0, 1) with a / sqrt 2 and 0; a = sqrt 2 * ln 3 gives weights 3 : 1.
    found = module(torch.tensor([[[math.sqrt(2) * math.log(3), 0.0]]]), torch.eye(2)[None])
    torch.testing.assert_close(found, torch.tensor([[[7.5, 2.5]]]))


@torch.no_grad()
def test_queries_do_not_see_each_other_and_memory_has_no_order() -> None:
    module = shaken(CrossAttention(WIDTH, HEADS))
    queries, memory = draw(2, 4, WIDTH, seed=3), draw(2, 6, WIDTH, seed=4)
    found = module(queries, memory)
    torch.testing.assert_close(module(queries[:, 1:2], memory), found[:, 1:2], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module(queries, memory.flip(1)), found, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module(queries[1:], memory[1:]), found[1:], atol=1e-6, rtol=1e-5)


def plain_norm(tokens: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


@torch.no_grad()
def test_block_is_cross_attention_self_attention_mlp_each_pre_normed_and_added() -> None:
    block = shaken(CrossSelfBlock(WIDTH, HEADS, mlp_ratio=2.0))
    tokens, memory = draw(2, 5, WIDTH, seed=20), draw(2, 3, WIDTH, seed=21)
    wanted = tokens + block.cattn(plain_norm(tokens, block.norm1), plain_norm(memory, block.norm_kv1))
    normed = plain_norm(wanted, block.norm3)
    q, k, v = (normed @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(WIDTH, dim=-1)
    wanted = wanted + plain_attention(q, k, v, HEADS) @ block.attn.proj.weight.T + block.attn.proj.bias
    hidden = plain_norm(wanted, block.norm4) @ block.mlp2.fc1.weight.T + block.mlp2.fc1.bias
    assert hidden.shape[-1] == 2 * WIDTH
    activated = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))  # the exact GELU
    wanted = wanted + activated @ block.mlp2.fc2.weight.T + block.mlp2.fc2.bias
    torch.testing.assert_close(block(tokens, memory), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_block_that_adds_nothing_returns_its_tokens() -> None:
    block = CrossSelfBlock(WIDTH, HEADS)
    for layer in (block.cattn.proj, block.attn.proj, block.mlp2.fc2):
        layer.weight.zero_()
        layer.bias.zero_()
    tokens = draw(1, 4, WIDTH)
    assert torch.equal(block(tokens, draw(1, 2, WIDTH, seed=1)), tokens)


def test_gradients_reach_tokens_memory_and_every_parameter() -> None:
    block = CrossSelfBlock(WIDTH, HEADS)
    tokens, memory = draw(1, 4, WIDTH).requires_grad_(), draw(1, 3, WIDTH, seed=1).requires_grad_()
    F.mse_loss(block(tokens, memory), draw(1, 4, WIDTH, seed=2)).backward()
    for name, tensor in [("tokens", tokens), ("memory", memory), *block.named_parameters()]:
        assert tensor.grad is not None and float(tensor.grad.abs().sum()) > 0, name


def test_names_are_those_of_the_published_decoder() -> None:
    names = {name.rpartition(".")[0] for name in CrossSelfBlock(WIDTH, HEADS).state_dict()}
    assert names == {
        "norm1", "norm_kv1", "norm3", "norm4", "cattn.q", "cattn.kv", "cattn.proj", "attn.qkv", "attn.proj",
        "mlp2.fc1", "mlp2.fc2",
    }  # fmt: skip


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(AssertionError):
        CrossSelfBlock(8, 3)
