"""What is to be exported, as every format is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.export_checks import Latency, Parity


@dataclass(frozen=True)
class Order:
    """One export."""

    original: FrozenEncoder
    """The encoder as given: what the written file must agree with."""
    encoder: FrozenEncoder
    """The encoder to write: with ``half`` its weights are rounded."""
    half: bool
    """Whether weights are stored as float16."""
    frame_size: tuple[int, int] | None
    """Height and width in pixels of the frames that a program takes; None for the encoder's own input size."""
    on_check: Callable[[Parity, Latency], None] | None
    """Is told how a written program compared with the original, and of both latencies."""

    @property
    def dtype(self) -> torch.dtype:
        """What weights are stored as."""
        return torch.float16 if self.half else torch.float32

    @property
    def stored_as(self) -> str:
        """The same in words."""
        return "float16" if self.half else "float32"

    def cast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a weight as it is stored; counters stay whole numbers."""
        tensor = tensor.detach().cpu()
        return (tensor.to(self.dtype) if tensor.is_floating_point() else tensor).contiguous()

    def stored(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """Return the weights of a module as they are stored."""
        return {name: self.cast(tensor) for name, tensor in module.state_dict().items()}

    def cannot_hold(self, form: str, held: str) -> UserError:
        """Build the error for a backbone that a format has no place for; ``held`` says what it has."""
        name = type(self.encoder.backbone).__name__
        return UserError(f"format {form} holds {held}, no {name}; choose torch-export or onnx, or folder")


def rounded(encoder: FrozenEncoder) -> FrozenEncoder:
    """Return a copy whose weights are float32 values that float16 holds exactly.

    Raises:
        UserError: a weight is too large for float16.
    """
    copied = copy.deepcopy(encoder)
    copied.provenance["rounded_to"] = "float16"
    for name, tensor in copied.backbone.state_dict().items():
        if not tensor.is_floating_point():  # a BatchNorm counts its batches
            continue
        tensor.copy_(tensor.half())
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} is too large for float16; export without half precision")
    return copied
