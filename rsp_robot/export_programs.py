"""Formats that hold a program: torch.export and ONNX, from uint8 frames to embeddings, everything inside."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.export_checks import (
    HALF_TOLERANCE,
    TOLERANCE,
    Latency,
    Run,
    check_frames,
    compare,
    latencies_ms,
    one_thread,
)
from rsp_robot.export_order import Order
from rsp_robot.files import write_json
from rsp_robot.model_card import write_card
from rsp_robot.pooling import pool
from rsp_robot.resample import resize_matrix

ONE_FILE_LIMIT = 1_900_000_000  # bytes of weights; a protobuf, and so an ONNX file, ends at 2 GiB

_LOAD_TORCH = """With torch {version} or newer, and nothing else:

```python
import torch

program = torch.export.load("encoder.pt2").module()
embeddings = program(frames)
```

`frames` is a uint8 RGB tensor (B, {height}, {width}, 3) for any B; `embeddings` are float32 ({shape}).
"""

_LOAD_ONNX = """With onnxruntime and numpy, and nothing else:

```python
import onnxruntime

session = onnxruntime.InferenceSession("encoder.onnx")
(embeddings,) = session.run(None, {{"frames": frames}})
```

`frames` is a uint8 RGB array (B, {height}, {width}, 3) for any B; `embeddings` are float32 ({shape}).
The metadata of the model (`session.get_modelmeta().custom_metadata_map`) hold what `config.json` holds.
"""


class EmbeddingProgram(nn.Module):
    """What a :class:`FrozenEncoder` computes, for frames of one size, in operations that every format can hold.

    The antialiased resize becomes two constant matrices. Frames are not checked: the program's signature does that.
    """

    down: torch.Tensor
    across: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: FrozenEncoder, frame_size: tuple[int, int], half: bool = False) -> None:
        """Wrap the encoder's backbone, on the CPU; with ``half`` a copy of it, stored as float16."""
        super().__init__()
        seen = encoder.preprocessing
        self.frame_size, self.image_size, self.pooling = frame_size, seen.image_size, encoder.pooling
        self.class_token = encoder.backbone.class_token
        backbone = encoder.backbone if encoder.device.type == "cpu" else copy.deepcopy(encoder.backbone).cpu()
        weights = chain(backbone.parameters(), backbone.buffers())
        self.dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float32)
        self.backbone = StoredAsHalf(backbone) if half else backbone
        self.register_buffer("down", resize_matrix(frame_size[0], seen.image_size))
        self.register_buffer("across", resize_matrix(frame_size[1], seen.image_size).T.contiguous())
        self.register_buffer("mean", torch.tensor(seen.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(seen.std)[:, None, None])
        self.eval()

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` -> embeddings float32."""
        images = (self.resize(frames) / 255 - self.mean) / self.std
        return pool(self.backbone(images.to(self.dtype)).float(), self.pooling, self.class_token)

    def resize(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` -> ``(B, 3, S, S)`` in [0, 255], within 1e-3 of the encoder's preprocessing."""
        images = frames.permute(0, 3, 1, 2).float()
        if self.frame_size == (self.image_size, self.image_size):
            return images
        return (self.down @ (images @ self.across)).clamp(0, 255)


class StoredAsHalf(nn.Module):
    """A module whose weights are kept as float16 and become float32 on their way into every computation."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        for tensor in self.module.state_dict(keep_vars=True).values():  # tables that are no weights stay as they are
            if tensor.is_floating_point():
                tensor.data = tensor.data.half()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute in float32."""
        stored = [*self.module.named_parameters(), *self.module.named_buffers()]
        whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored}
        result: torch.Tensor = torch.func.functional_call(self.module, whole, (images,))
        return result


def write_torch_export(order: Order, folder: Path) -> None:
    """``encoder.pt2`` for ``torch.export.load``."""
    folder.mkdir()
    path, config = folder / "encoder.pt2", _config(order, "torch-export", "encoder.pt2", ("torch",))
    with _quiet(), _explained("torch.export"), torch.no_grad():
        program = torch.export.export(*_traced(order), dynamic_shapes={"frames": {0: torch.export.Dim("batch")}})
        torch.export.save(program, path, extra_files={"config.json": json.dumps(config)})

    def load() -> Run:
        loaded = torch.export.load(path).module()
        return lambda frames: loaded(torch.from_numpy(frames)).numpy()

    _finish(order, folder, config, load, _LOAD_TORCH)


def write_onnx(order: Order, folder: Path) -> None:
    """``encoder.onnx`` for onnxruntime and every other reader of ONNX."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"format onnx needs {' and '.join(missing)}; pip install 'rsp-robot[export]'")
    folder.mkdir()
    path, config = folder / "encoder.onnx", _config(order, "onnx", "encoder.onnx", ("torch", "onnx", "onnxscript"))
    module, example = _traced(order)
    with _quiet(), _explained("torch.onnx.export"), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            verbose=False,
            input_names=["frames"],
            output_names=["embeddings"],
            dynamic_shapes={"frames": {0: torch.export.Dim("batch")}},
        )
        assert program is not None
        program.model.metadata_props.update({name: _text(value) for name, value in config.items()})
        size = sum(tensor.nbytes for tensor in module.state_dict().values())
        program.save(path, external_data=size > ONE_FILE_LIMIT)

    def load() -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda frames: np.asarray(session.run(None, {"frames": frames})[0])

    _finish(order, folder, config, load, _LOAD_ONNX)


def _frame_size(order: Order) -> tuple[int, int]:
    return order.frame_size or (order.encoder.image_size,) * 2


def _traced(order: Order) -> tuple[EmbeddingProgram, tuple[torch.Tensor]]:
    """Return the program, and frames to trace it with: two, since one would be taken for a constant."""
    size = _frame_size(order)
    return EmbeddingProgram(order.encoder, size, order.half), (torch.zeros(2, *size, 3, dtype=torch.uint8),)


def _config(order: Order, form: str, file: str, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return what a reader may want to know of the program, as plain values."""
    encoder, size = order.encoder, _frame_size(order)
    return {
        "format": form,
        "file": file,
        "frame_size": list(size),
        "input": {"name": "frames", "type": "uint8", "shape": ["batch", *size, 3], "channels": "RGB"},
        "output": {"name": "embeddings", "type": "float32", "shape": ["batch", *encoder.embedding_shape]},
        "weights": order.stored_as,
        "fingerprint": encoder.fingerprint,
        "pooling": encoder.pooling,
        "preprocessing": asdict(encoder.preprocessing),
        "architecture": encoder.backbone.describe(),
        "provenance": encoder.provenance,
        "versions": {name: version(name) for name in ("rsp-robot", *packages)},
    }


def _finish(order: Order, folder: Path, config: dict[str, Any], load: Callable[[], Run], loading: str) -> None:
    """Compare the written program with the encoder; write config.json and README.md beside it.

    Raises:
        UserError: it differs from the encoder.
    """
    size, written = _frame_size(order), load()
    with _quiet(), one_thread():
        if order.half:  # 2e-2 would hide other mistakes than rounding
            compare(_run(order.encoder), written, size)
        compared = compare(_run(order.original), written, size, HALF_TOLERANCE if order.half else TOLERANCE)
        latency = Latency(*latencies_ms([_run(order.original), written], check_frames(*size)[:1]))
    write_json(folder / "config.json", {**config, "parity": asdict(compared)})
    height, width = _frame_size(order)
    shape = ", ".join(["B", *map(str, order.encoder.embedding_shape)])
    loading = loading.format(height=height, width=width, shape=shape, version=_release(torch.__version__))
    rows = {
        "frames in": f"uint8 RGB (B, {height}, {width}, 3); other sizes are refused",
        "largest difference from the encoder": f"{compared.absolute:.1e}; {compared.relative:.1e} of an embedding's "
        "length (measured on the written file)",
    }
    write_card(order.encoder, folder, loading, rows, order.stored_as)
    if order.on_check is not None:
        order.on_check(compared, latency)


def _run(encoder: FrozenEncoder) -> Run:
    return lambda frames: encoder(frames).cpu().numpy()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _release(version: str) -> str:
    """``2.8.1+cpu`` -> ``2.8``."""
    return ".".join(version.split(".")[:2])


@contextmanager
def _explained(exporter: str) -> Iterator[None]:
    """Turn what an exporter raises at a backbone that it cannot follow into one line."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{exporter} cannot follow the backbone ({cause}); change that line of it, or use format folder"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings, log lines and prints of the exporters from the user: the check is what counts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
