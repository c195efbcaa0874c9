"""``rsp-robot export``: write an encoder for other programs, or a published one as a folder of ours."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rsp_robot.errors import UserError

if TYPE_CHECKING:
    from rsp_robot.export_checks import Latency, Parity


@dataclass(frozen=True)
class ExportCommand:
    """Which encoder goes where, and in which form."""

    encoder: str
    """Encoder folder, run folder, checkpoint, rsp-robot/small, timm:<model>, random:<arch> or hub:<owner>/<name>."""
    out: Path
    """Folder to write; must be new. Its README.md says how to load what is in it."""
    format: Literal["folder", "timm", "published", "torch-export", "onnx"] = "folder"
    """folder: for every rsp-robot command; timm: for timm.create_model; published: encoder.pth under the names of RSP's
    and MAE's checkpoints; torch-export, onnx: a program with preprocessing and pooling inside, uint8 frames in and
    float32 embeddings out, compared with the encoder before it is kept."""
    pooling: str = ""
    """Another pooling than the encoder's own: cls, mean, cls+mean, grid<k>, spatial-softmax or tokens."""
    frame_size: str = ""
    """Frames that a program takes, as 96 or HEIGHTxWIDTH such as 96x128; the encoder's input size by default."""
    half: bool = False
    """Store weights as float16: half the size, rounded to about three digits."""
    card: Path | None = None
    """Markdown file with your own words for README.md: a header with the licence, and sections such as Licence, Limits,
    Data or Results. They replace those of the same heading; what the encoder tells by itself stays."""


def export(command: ExportCommand) -> Path:
    """Export the encoder; return the folder.

    Raises:
        UserError: the encoder or the card cannot be read, the format cannot hold the encoder, or ``out`` is not empty.
    """
    own_words = read_card(command.card) if command.card else ""
    frame_size = parse_frame_size(command.frame_size) if command.frame_size else None

    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.exporting import export_encoder

    encoder = FrozenEncoder.load(command.encoder, pooling=command.pooling or None)
    return export_encoder(encoder, command.out, command.format, command.half, frame_size, _tell, own_words)


def read_card(path: Path) -> str:
    """Read a Markdown file.

    Raises:
        UserError: it is not there, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the card {path} ({type(error).__name__}); give a Markdown file") from None


def parse_frame_size(text: str) -> tuple[int, int]:
    """Read ``96`` or ``96x128`` (height x width).

    >>> parse_frame_size("96"), parse_frame_size("96x128")
    ((96, 96), (96, 128))

    Raises:
        UserError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise UserError(f"frame size {text!r} is no size in pixels; write 96, or HEIGHTxWIDTH such as 96x128")
    return int(match[1]), int(match[2] or match[1])


def _tell(parity: Parity, latency: Latency) -> None:
    print(
        f"largest difference from the encoder: {parity.absolute:.1e} (relative {parity.relative:.1e}, at most "
        f"{parity.tolerance:.0e})\none frame on one thread: {latency.original:.1f} ms by the encoder, "
        f"{latency.written:.1f} ms by the written program",
        file=sys.stderr,
    )
