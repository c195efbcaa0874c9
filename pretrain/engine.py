"""One optimiser step of any objective: precision, accumulation, clipping, and steps that are skipped when not finite.

Nothing here waits for the device: what a step computes stays there until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rsp_robot.backbones.cross_attention import use_fused_attention
from rsp_robot.errors import UserError
from rsp_robot.pretrain.batches import Prepared
from rsp_robot.pretrain.config import Pace, PretrainConfig
from rsp_robot.pretrain.distributed import World
from rsp_robot.pretrain.objectives import Objective
from rsp_robot.pretrain.schedule import parameter_groups

BETA1 = 0.9
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fuses_attention(device: torch.device, precision: str) -> bool:
    """Whether scaled_dot_product_attention is the faster attention: everywhere but in bf16 on a CPU.

    There it took three times as long as two products and a softmax (docs/performance.md).
    """
    return device.type != "cpu" or precision != "bf16"


class Engine:
    """An objective, its optimiser, and the step that moves both."""

    def __init__(
        self,
        objective: Objective,
        config: PretrainConfig,
        world: World,
        fused: bool = True,
        backend: str = "inductor",
    ) -> None:
        """Take an objective that is on the world's device already.

        Args:
            objective: what learns.
            config: precision, compilation, clipping and weight decay are read from it.
            world: this process and the others.
            fused: use the fused optimiser.
            backend: of torch.compile.
        """
        self.objective, self.config, self.world = objective, config, world
        use_fused_attention(objective, fuses_attention(world.device, config.precision))
        if config.compile and not objective.compiles:
            raise UserError(f"{config.objective.name} as set up here does not compile; leave out --compile")
        if config.compile:
            objective.compile(fullgraph=True, backend=backend)
        self.forward: nn.Module = objective
        if world.size > 1:
            self.forward = DistributedDataParallel(
                objective, device_ids=[world.device] if world.device.type == "cuda" else None
            )
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(objective, config.weight_decay), lr=0.0, betas=(BETA1, config.beta2), fused=fused
        )
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the arithmetic of the forward pass."""
        half = HALF.get(self.config.precision)
        return nullcontext() if half is None else torch.autocast(self.world.device.type, half)

    def step(self, batches: Sequence[Prepared], pace: Pace) -> dict[str, torch.Tensor]:
        """Take one step over all micro-batches of this process.

        A step whose loss or gradient is not finite leaves weights and optimiser as they were, decided on the device.

        Returns:
            The losses, averaged over this process's micro-batches, ``grad_norm`` before clipping, and ``bad``: 1 where
            the step was skipped. All on the device.
        """
        totals: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(batches):
            with nullcontext() if i == len(batches) - 1 else self._without_exchange():
                with self.autocast():
                    losses: dict[str, torch.Tensor] = self.forward(batch.frames, batch.draws)
                loss = losses["loss"] / len(batches)
                # A loss that is not finite can have finite gradients: make sure that it has none, in every process.
                spoiled = loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
                self.scaler.scale(spoiled).backward()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / len(batches)
        return totals | self._update(pace)

    def _update(self, pace: Pace) -> dict[str, torch.Tensor]:
        decayed, plain = self.optimizer.param_groups
        decayed["lr"] = plain["lr"] = pace.lr
        decayed["weight_decay"] = pace.weight_decay
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.trained if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = (~norm.isfinite()).float()
        if self.config.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, self.config.clip_grad, norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.optimizer.defaults["fused"]:
            # What GradScaler does with a fused optimiser: the kernel itself leaves everything as it was.
            self.optimizer.found_inf = bad  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bad:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(pace.share, bad)
        return {"grad_norm": norm, "bad": bad}

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch stay in their process."""
        if isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold: tensors, numbers and their containers."""
        return {
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.objective.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
