"""The training loop of behaviour cloning: one for every head and every kind of eyes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rsp_robot.errors import UserError
from rsp_robot.policies.bc_data import BCData
from rsp_robot.policies.eyes import random_shift
from rsp_robot.policies.network import PolicyNetwork
from rsp_robot.progress import Progress
from rsp_robot.run_folder import RunFolder
from rsp_robot.threads import one_thread

if TYPE_CHECKING:
    from rsp_robot.policies.bc_config import BCConfig

VALID_ROWS, VALID_BATCH = 1024, 128
"""Validation samples looked at for a row of the learning curve, evenly spread, and how many at once."""


def learning_rate(config: BCConfig, step: int) -> float:
    """Return the learning rate of optimiser step ``step``, counted from 0.

    >>> from rsp_robot.policies.bc_config import BCConfig
    >>> learning_rate(BCConfig(steps=100, lr=0.5), 0), learning_rate(BCConfig(steps=100, lr=0.5), 50)
    (0.5, 0.25)
    """
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / config.steps))


class Average:
    """An exponential moving average of the parameters that learn; buffers are taken as they are.

    A decay of 0 keeps no average: then the parameters themselves count.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = [p for p in network.parameters() if p.requires_grad] if decay else []
        self.values = [p.detach().clone() for p in self.parameters]

    def update(self, step: int) -> None:
        """Follow the parameters after optimiser step ``step``; closely at the beginning, to forget the first ones."""
        if self.parameters:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    def keep(self) -> None:
        """Put the average in the place of the parameters for good."""
        self._swap()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the parameters meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(held)


def make_optimiser(network: PolicyNetwork, config: BCConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, and a lower rate for an encoder that is fine-tuned.

    Every group has ``"factor"``, by which its learning rate is multiplied.
    """
    groups = []
    for of_eyes, factor in ((False, 1.0), (True, config.finetune_factor if config.finetune else 1.0)):
        for matrix in (True, False):
            chosen = [
                parameter
                for name, parameter in network.named_parameters()
                if parameter.requires_grad and name.startswith("eyes.") == of_eyes and (parameter.ndim > 1) == matrix
            ]
            if chosen:
                groups.append(
                    {"params": chosen, "weight_decay": config.weight_decay if matrix else 0.0, "factor": factor}
                )
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def compute_losses(
    network: PolicyNetwork, data: BCData, rows: Tensor, generator: torch.Generator, shift: bool = False
) -> dict[str, Tensor]:
    """Return the head's loss and metrics on the samples that begin at ``rows``."""
    sample = data.observations(rows, network.head.observation_steps, network.shape.history)
    if shift and sample.pictures is not None:
        B, S, C = sample.pictures.shape[:3]
        cameras = sample.pictures.transpose(1, 2).flatten(0, 1)
        sample = sample._replace(pictures=random_shift(cameras, generator).unflatten(0, (B, C)).transpose(1, 2))
    actions, mask = data.targets(rows, network.head.action_steps)
    return network.head.loss(network.features(sample), actions, mask, generator)


@torch.no_grad()
def validation_loss(network: PolicyNetwork, data: BCData, seed: int) -> float:
    """Return the loss on held-out episodes in evaluation mode; what the head draws is the same every time."""
    every = max(1, -(-len(data.valid) // VALID_ROWS))
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    total = count = 0.0
    for rows in data.valid[::every].split(VALID_BATCH):
        total += float(compute_losses(network, data, rows, generator)["loss"]) * len(rows)
        count += len(rows)
    network.train()
    return total / count


def fit(
    network: PolicyNetwork,
    data: BCData,
    config: BCConfig,
    generator: torch.Generator,
    run: RunFolder | None = None,
    title: str = "clone",
    checkpoint: Callable[[int], None] | None = None,
) -> str:
    """Train the network; on the CPU the same data, configuration and generator give the same bits.

    Args:
        network: trained in place; afterwards it has the weights that are kept, and is in evaluation mode.
        data: on the device of the network.
        config: how to train.
        generator: of the CPU; draws minibatches and what heads and augmentation draw.
        run: where the curve is logged: the means of the head's metrics since the last row, and ``valid_loss``.
        title: beside the progress bar.
        checkpoint: called every ``config.checkpoint_every`` steps with the number of steps, while the network has the
            weights that would be kept if training ended there.

    Returns:
        which weights were kept, in words.

    Raises:
        UserError: the loss is not finite.
    """
    if network.shape.vector == data.vectors.shape[1]:
        network.set_input_statistics(data.vectors[data.train])
    optimiser = make_optimiser(network, config)
    average = Average(network, config.ema)
    device = data.train.device
    kept, lowest = f"last of {config.steps} steps", math.inf
    best: dict[str, Tensor] = {}
    since: list[dict[str, Tensor]] = []
    network.train()
    with one_thread(), Progress(title, total=config.steps, unit="steps") as bar:
        for step in range(config.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step) * group["factor"]
            rows = data.train[torch.randint(len(data.train), (config.batch_size,), generator=generator).to(device)]
            losses = compute_losses(network, data, rows, generator, config.augment == "shift")
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimiser.step()
            average.update(step)
            since.append({name: value.detach() for name, value in losses.items()})
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                metrics = _means(since)
                since.clear()
                if not math.isfinite(metrics["loss"]):
                    raise UserError(f"behaviour cloning diverged at step {done}; lower lr (now {config.lr:g})")
                if len(data.valid):
                    with average.applied():
                        metrics["valid_loss"] = validation_loss(network, data, config.seed)
                        if config.keep == "valid" and metrics["valid_loss"] < lowest:
                            lowest = metrics["valid_loss"]
                            kept = f"lowest validation loss, at step {done} of {config.steps}"
                            best = {name: value.clone() for name, value in network.stored_state().items()}
                if run is not None:
                    run.log(done, **metrics)
                bar.update(done - bar.done, **metrics)
            if checkpoint is not None and config.checkpoint_every and done % config.checkpoint_every == 0:
                with average.applied():
                    checkpoint(done)
    average.keep()
    if best:
        network.load_stored_state(best)
    network.eval()
    return kept


def _means(rows: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    return {name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]}
