"""Action chunking with a transformer, on features instead of pictures.

ACT: Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError
from rsp_robot.policies.heads.attention import (
    MemoryTokens,
    check_execution,
    check_transformer,
    decoder_block,
    encoder_block,
    learned_positions,
)
from rsp_robot.policies.heads.base import Features, Head, HeadShape
from rsp_robot.policies.heads.layers import drawn_from, masked_mean, start_small


@dataclass(frozen=True)
class ChunkingConfig:
    """Chunk of actions from a conditional variational autoencoder.

    Published, for bimanual tasks at 50 Hz: chunk 100, width 512, 8 heads, 4 encoder and 7 decoder layers, 4 posterior
    layers, latent 32, kl_weight 10.
    """

    chunk: int = 10
    """Actions predicted at once."""
    execute: int = 0
    """Actions of a chunk carried out before the next prediction; 0 predicts at every step and averages what the last
    chunks say about it (temporal ensembling)."""
    ensemble_decay: float = 0.01
    """m of the ensembling weights exp(-m i), where i = 0 is the oldest prediction: the larger, the slower a new
    observation is taken up."""
    width: int = 128
    """Width of a token."""
    heads: int = 4
    """Attention heads."""
    encoder_layers: int = 2
    """Blocks over the observation's tokens."""
    decoder_layers: int = 2
    """Blocks from which the actions come."""
    posterior_layers: int = 1
    """Blocks that infer the latent from the actions, in training only."""
    latent: int = 32
    """Numbers in the latent, the style of a demonstration; zero when acting."""
    kl_weight: float = 10.0
    """Weight of the latent's Kullback-Leibler divergence from the standard normal."""
    last_layer_scale: float = 1e-2
    """Factor on the first weights of the last layer, so that training starts near the zero action."""

    def __post_init__(self) -> None:
        check_transformer(self.width, self.heads, self.encoder_layers, self.decoder_layers, self.posterior_layers)
        check_execution(self.chunk, self.execute, least=0)
        if self.latent < 1 or self.kl_weight < 0 or self.ensemble_decay < 0:
            raise UserError(
                "latent must be at least 1, kl_weight and ensemble_decay not negative; correct the settings"
            )


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) summed over the last axis (Kingma and Welling 2014, appendix B).

    >>> kl_to_standard_normal(torch.tensor([1.0, 0.0]), torch.zeros(2)).item()
    0.5
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1)


def latest_predictions(chunks: Tensor) -> Tensor:
    """Return what each chunk says about the present step.

    Args:
        chunks: ``(n, H, A)``, the oldest first, one made at each of the last n steps, n <= H.

    Returns:
        ``(n, A)``, the oldest first: the first action of the newest chunk, the second of the one before it.
    """
    n = len(chunks)
    return chunks[torch.arange(n), torch.arange(n - 1, -1, -1)]


def ensemble(predictions: Tensor, decay: float) -> Tensor:
    """Average ``predictions`` ``(n, A)``, the oldest first, with weights exp(-decay i) (ACT, section IV-A).

    >>> ensemble(torch.tensor([[0.0], [1.0]]), 0.0).tolist()
    [0.5]
    """
    weights = torch.exp(-decay * torch.arange(len(predictions), dtype=torch.float64))
    return (weights / weights.sum()).to(predictions) @ predictions


class Posterior(nn.Module):
    """Infers the latent of a chunk from its actions and the observed vector, by a transformer with a class token."""

    def __init__(self, config: ChunkingConfig, shape: HeadShape) -> None:
        super().__init__()
        self.summary = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.vector = nn.Linear(shape.vector, config.width) if shape.vector else None
        self.actions = nn.Linear(shape.actions, config.width)
        self.positions = learned_positions(config.chunk, config.width)
        self.blocks = nn.ModuleList(encoder_block(config.width, config.heads) for _ in range(config.posterior_layers))
        self.norm = nn.LayerNorm(config.width)
        self.last = nn.Linear(config.width, 2 * config.latent)

    def forward(self, vector: Tensor, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent's mean and log variance, ``(B, latent)`` each; actions outside the mask do not count."""
        tokens = [self.summary.expand(len(actions), -1, -1)]
        if self.vector is not None:
            tokens.append(self.vector(vector))
        ignored = nn.functional.pad(~mask, (len(tokens), 0), value=False)
        x = torch.cat([*tokens, self.actions(actions) + self.positions], dim=1)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=ignored)
        mean, log_variance = self.last(self.norm(x[:, 0])).chunk(2, dim=-1)
        return mean, log_variance


class ChunkingHead(Head):
    """Predicts the next H actions at once; acting averages overlapping chunks, or carries out a part of each."""

    reads_tokens = True

    def __init__(self, config: ChunkingConfig, shape: HeadShape, *, generator: torch.Generator) -> None:
        super().__init__(config, shape, generator=generator)
        self.action_steps = config.chunk
        with drawn_from(generator):
            self.posterior = Posterior(config, shape)
            self.observed = MemoryTokens(shape, config.width)
            self.latent = nn.Linear(config.latent, config.width)
            self.encoder = nn.ModuleList(
                encoder_block(config.width, config.heads) for _ in range(config.encoder_layers)
            )
            self.encoder_norm = nn.LayerNorm(config.width)
            self.queries = learned_positions(config.chunk, config.width)
            self.decoder = nn.ModuleList(
                decoder_block(config.width, config.heads) for _ in range(config.decoder_layers)
            )
            self.norm = nn.LayerNorm(config.width)
            self.last = start_small(nn.Linear(config.width, shape.actions), config.last_layer_scale)

    def forward(self, features: Features, latent: Tensor) -> Tensor:
        """Decode a chunk ``(B, H, A)`` from features with ``T = 1`` and latents ``(B, latent)``."""
        memory = torch.cat([self.latent(latent)[:, None], self.observed(features)], dim=1)
        for block in self.encoder:
            memory = block(memory)
        memory = self.encoder_norm(memory)
        x = self.queries.expand(len(latent), -1, -1)
        for block in self.decoder:
            x = block(x, memory)
        actions: Tensor = self.last(self.norm(x))
        return actions

    def loss(self, features: Features, actions: Tensor, mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the absolute error plus the weighted divergence of the drawn latent (ACT, algorithm 1).

        ``l1`` and ``kl`` are the two parts.
        """
        mean, log_variance = self.posterior(features.vector, actions, mask)
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        predicted = self(features, mean + (0.5 * log_variance).exp() * noise)
        l1 = masked_mean((predicted - actions).abs(), mask)
        kl = kl_to_standard_normal(mean, log_variance).mean()
        return {"loss": l1 + self.config.kl_weight * kl, "l1": l1.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def act(self, features: Features, memory: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Return the next action; nothing is drawn, for the latent is zero.

        The memory holds the chunks ``(n, H, A)`` of the last steps, or the actions ``(n, A)`` still to be carried out.
        """
        config: ChunkingConfig = self.config
        if config.execute and memory is not None and len(memory):
            return memory[:1], memory[1:]
        chunk = self(features, features.vector.new_zeros(1, config.latent))
        if config.execute:
            return chunk[0, :1], chunk[0, 1 : config.execute]
        memory = chunk if memory is None else torch.cat([memory, chunk])[-config.chunk :]
        return ensemble(latest_predictions(memory), config.ensemble_decay)[None], memory
