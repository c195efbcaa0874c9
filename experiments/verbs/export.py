"""``rsp-robot export``: write an encoder for other programs, or a published one as a folder of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ExportCommand:
    """Which encoder goes where, and in which form."""

    encoder: str
    """Encoder folder, run folder of `rsp-robot pretrain`, published checkpoint (*.pth, *.safetensors), or
    random:<arch>."""
    out: Path
    """Folder to write; must be new."""
    format: Literal["folder", "timm", "published"] = "folder"
    """folder: for every rsp-robot command; timm: for timm.create_model, its call in a README.md; published: encoder.pth
    under the names of RSP's and MAE's checkpoints."""
    half: bool = False
    """Store weights as float16: half the size, rounded to about three digits."""


def export(command: ExportCommand) -> Path:
    """Export the encoder; return the folder.

    Raises:
        UserError: the encoder cannot be read, or ``out`` is not empty.
    """
    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.exporting import export_encoder

    return export_encoder(FrozenEncoder.load(command.encoder), command.out, command.format, command.half)
