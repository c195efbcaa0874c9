"""The frozen encoder: what every policy sees of a picture, and the folder it lives in.

A folder holds ``config.json`` (architecture, preprocessing, pooling, fingerprint, a golden embedding) and
``model.safetensors``. Nothing in it is executed when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig, vit_config
from rsp_robot.checkpoints import file_sha256
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.files import atomic_path, read_json
from rsp_robot.pooling import pool, pooled_width
from rsp_robot.preprocessing import Preprocessing
from rsp_robot.published import read_encoder

FORMAT = 1
GOLDEN_TOLERANCE = 1e-2
ARCHITECTURES: dict[str, tuple[type, Callable[[Any], nn.Module]]] = {"vit": (ViTConfig, VisionTransformer)}
_RANDOM = re.compile(r"random:(?P<arch>[\w-]+?)(/(?P<patch>\d+))?(@(?P<size>\d+))?(#(?P<seed>\d+))?$")


class FrozenEncoder(nn.Module):
    """A backbone that cannot be trained, with its preprocessing and pooling.

    ``encoder(frames)`` turns uint8 RGB frames ``(B, H, W, 3)`` of any size into embeddings ``(B, dim)`` float32.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        preprocessing: Preprocessing | None = None,
        pooling: str = "cls",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Freeze ``backbone``.

        Args:
            backbone: gives tokens ``(B, 1 + N, D)`` for normalised images.
            preprocessing: how frames become its input; ImageNet statistics at its own size by default.
            pooling: see :mod:`rsp_robot.pooling`.
            provenance: where the weights come from, for the record.

        Raises:
            UserError: the pooling is unknown, or the preprocessing makes pictures of another size than the backbone's.
        """
        super().__init__()
        self.backbone = backbone
        self.preprocessing = preprocessing or Preprocessing(backbone.config.image_size)
        if self.preprocessing.image_size != backbone.config.image_size:
            raise UserError(
                f"the preprocessing makes pictures of {self.preprocessing.image_size} px but the backbone takes "
                f"{backbone.config.image_size} px; give both one image size"
            )
        self.pooling = pooling
        self.provenance = dict(provenance or {})
        self.dim = pooled_width(pooling, backbone.config.width)
        self.requires_grad_(False)
        self.eval()

    @property
    def image_size(self) -> int:
        """Side of the backbone's input in pixels."""
        return self.preprocessing.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode, whatever a surrounding module asks for."""
        return super().train(False)

    @torch.no_grad()
    def tokens(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` -> all tokens ``(B, 1 + N, D)`` float32, class token first."""
        tokens: torch.Tensor = self.backbone(self.preprocessing(frames, self.device))
        return tokens.float()

    @torch.no_grad()
    def forward(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` -> embeddings ``(B, dim)`` float32."""
        return pool(self.tokens(frames), self.pooling)

    # -- identity ------------------------------------------------------------------------------------------------------

    def weights_checksum(self) -> str:
        """Hash of every weight as it is now: equal before and after training a policy, or it was not frozen."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the architecture, the weights, the preprocessing or the pooling."""
        parts = [asdict(self.backbone.config), self.weights_checksum(), asdict(self.preprocessing), self.pooling]
        text = json.dumps(parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # -- on disk -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the encoder's folder, atomically; an encoder that is there already is replaced.

        Raises:
            UserError: the folder holds something else.
        """
        target = Path(folder)
        if target.exists() and not (target / "config.json").exists() and (target.is_file() or any(target.iterdir())):
            raise UserError(f"{target} holds something that is not an encoder; give a new folder")
        config = {
            "format": FORMAT,
            "architecture": {"kind": "vit", **asdict(self.backbone.config)},
            "preprocessing": asdict(self.preprocessing),
            "pooling": self.pooling,
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
            "golden": [round(value, 6) for value in self._golden().tolist()],
        }
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.backbone.state_dict().items()}
            save_file(weights, temporary / "model.safetensors")
            (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, spec: str | os.PathLike[str], device: str | torch.device = "cpu") -> FrozenEncoder:
        """Load an encoder.

        Args:
            spec: an encoder folder, a run folder that holds ``encoder/``, a published checkpoint (``.pth``, ``.pt`` or
                ``.safetensors``, see :mod:`rsp_robot.published`), or ``random:<arch>[/patch][@size][#seed]`` such as
                ``random:vit-nano/8@64``.
            device: where to put it.

        Raises:
            UserError: nothing is there, or it is damaged or of another layout, or its golden embedding is not
                reproduced.
        """
        if str(spec).startswith("random:"):
            return cls._parse_random(str(spec)).to(device)
        folder = Path(spec)
        if folder.is_file():
            return _load_published(cls, folder).to(device)
        if (folder / "encoder" / "config.json").exists():
            folder = folder / "encoder"
        if not (folder / "config.json").exists():
            raise UserError(
                f"no encoder in {spec}; give an encoder folder, a run folder, a checkpoint (.pth, .safetensors), "
                "or random:<architecture>"
            )
        return _load_folder(cls, folder).to(device)

    @classmethod
    def random(cls, config: ViTConfig, seed: int = 0, pooling: str = "cls") -> FrozenEncoder:
        """Weights as drawn at initialisation: the baseline that any pretraining has to beat."""
        backbone = VisionTransformer(config)
        backbone.initialise(torch.Generator().manual_seed(seed))
        return cls(backbone, pooling=pooling, provenance={"source": "random weights", "seed": seed})

    @classmethod
    def _parse_random(cls, spec: str) -> FrozenEncoder:
        match = _RANDOM.match(spec)
        if match is None:
            raise UserError(f"cannot read {spec!r}; write random:<architecture>[/patch][@size][#seed]")
        patch, size, seed = (int(match[key] or default) for key, default in (("patch", 16), ("size", 224), ("seed", 0)))
        return cls.random(vit_config(match["arch"], size, patch), seed)

    def _golden(self) -> torch.Tensor:
        """Embedding ``(dim,)`` of a fixed test picture."""
        rows, columns, channels = np.ogrid[: self.image_size, : self.image_size, :3]
        frame = ((7 * rows + 13 * columns + 61 * channels + rows * columns // 5) % 256).astype(np.uint8)
        return self(frame[None])[0].cpu()


def _load_published(cls: type[FrozenEncoder], path: Path) -> FrozenEncoder:
    config, weights = read_encoder(path)
    backbone = VisionTransformer(config)
    backbone.load_state_dict(weights)
    return cls(backbone, provenance={"source": "checkpoint", "file": path.name, "sha256": file_sha256(path)})


def _load_folder(cls: type[FrozenEncoder], folder: Path) -> FrozenEncoder:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{folder}/config.json is not an encoder of format {FORMAT}; export the encoder again")
    try:
        architecture = dict(config["architecture"])
        kind = architecture.pop("kind")
        if kind not in ARCHITECTURES:
            raise unknown_name("architecture", kind, ARCHITECTURES)
        backbone = VisionTransformer(ViTConfig(**architecture))
        stored = config["preprocessing"]
        preprocessing = Preprocessing(int(stored["image_size"]), tuple(stored["mean"]), tuple(stored["std"]))
        backbone.load_state_dict(load_file(folder / "model.safetensors"))
        encoder = cls(backbone, preprocessing, config["pooling"], config.get("provenance"))
        golden = torch.tensor(config["golden"]).reshape(encoder.dim)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"the encoder in {folder} is damaged ({str(error).splitlines()[0]}); export it again") from None
    drift = float((encoder._golden() - golden).norm() / golden.norm().clamp(min=1e-6))
    if not drift <= GOLDEN_TOLERANCE:  # not `>`: weights that are NaN make the drift NaN
        raise UserError(
            f"the encoder in {folder} does not reproduce its golden embedding (off by {drift:.1%}); export it again"
        )
    return encoder
