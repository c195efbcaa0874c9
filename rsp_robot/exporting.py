"""A frozen encoder for other programs: one folder per format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.export_checks import Latency, Parity
from rsp_robot.export_order import Order, rounded
from rsp_robot.export_programs import write_onnx, write_torch_export
from rsp_robot.export_timm import write_timm
from rsp_robot.export_weights import write_folder, write_published
from rsp_robot.files import atomic_path
from rsp_robot.model_card import with_own_words

FORMS: dict[str, Callable[[Order, Path], None]] = {
    "folder": write_folder,
    "timm": write_timm,
    "published": write_published,
    "torch-export": write_torch_export,
    "onnx": write_onnx,
}
PROGRAMS = ("torch-export", "onnx")


def export_encoder(
    encoder: FrozenEncoder,
    folder: str | os.PathLike[str],
    form: str,
    half: bool = False,
    frame_size: tuple[int, int] | None = None,
    on_check: Callable[[Parity, Latency], None] | None = None,
    own_words: str = "",
) -> Path:
    """Write an encoder into a new folder, atomically.

    Every folder has a README.md with the lines that load it.

    Args:
        encoder: what to export.
        folder: where to; must be new or empty.
        form: ``folder`` for :meth:`FrozenEncoder.load`; ``timm`` for ``timm.create_model``; ``published`` for code that
            reads checkpoints of RSP or MAE; ``torch-export`` and ``onnx`` for programs with preprocessing and pooling
            inside, which are run and compared with the encoder before they are kept.
        half: store the weights as float16: half the size, rounded to about three digits. Programs compute in float32
            all the same.
        frame_size: height and width in pixels of the frames that a program takes; its own input size by default.
        on_check: is told how a program compared with the encoder, and of both latencies.
        own_words: Markdown for README.md: see :func:`rsp_robot.model_card.with_own_words`.

    Returns:
        ``folder``.

    Raises:
        UserError: the form is unknown or cannot hold this encoder, the folder is not empty, a weight is too large for
            float16, the extra ``export`` is not installed, the program differs from the encoder, or the header of
            ``own_words`` cannot be read.
    """
    if form not in FORMS:
        raise unknown_name("export format", form, FORMS)
    if frame_size is not None and form not in PROGRAMS:
        raise UserError(f"format {form} takes frames of any size; leave the frame size {frame_size} out")
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"{target} holds something already; give a new folder")
    order = Order(encoder, rounded(encoder) if half else encoder, half, frame_size, on_check)
    with atomic_path(target) as temporary:
        FORMS[form](order, temporary)
        if own_words:
            card = temporary / "README.md"
            card.write_text(with_own_words(card.read_text(encoding="utf-8"), own_words), encoding="utf-8")
    return target
