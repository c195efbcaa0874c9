"""The frozen encoder: what every policy sees of a picture, and the folder it lives in.

A folder holds ``config.json`` (architecture, preprocessing, pooling, fingerprint, a golden embedding) and
``model.safetensors``. Nothing in it is executed when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rsp_robot.backbones.base import Backbone
from rsp_robot.backbones.registry import BACKBONES
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.backbones.vjepa import VideoTransformer
from rsp_robot.backbones.wrapped import WrappedBackbone
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.files import atomic_path, read_json
from rsp_robot.hub import upload
from rsp_robot.model_card import write_card
from rsp_robot.pooling import default_pooling, pool, pooled_shape
from rsp_robot.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from rsp_robot.sources import find, random_vit
from rsp_robot.tensor_files import write_tensors

FORMAT = 1
GOLDEN_TOLERANCE = 1e-2


class FrozenEncoder(nn.Module):
    """A backbone that cannot be trained, with its preprocessing and pooling.

    ``encoder(frames)`` turns uint8 RGB frames ``(B, H, W, 3)`` of any size into embeddings
    ``(B, *embedding_shape)`` float32.
    """

    embedding_shape: tuple[int, ...]
    """Shape of one frame's embedding: ``(dim,)``, or ``(N, D)`` with the pooling ``tokens``."""
    dim: int
    """Numbers in one frame's embedding."""
    source: str | None
    """What :meth:`load` was given; None for an encoder that was made in this program."""

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing | None = None,
        pooling: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Freeze ``backbone``, in place.

        Args:
            backbone: gives tokens ``(B, [1 +] N, D)`` for normalised images.
            preprocessing: how frames become its input; ImageNet statistics at its own size by default.
            pooling: see :mod:`rsp_robot.pooling`; by default ``cls`` where there is a class token, else ``mean``.
            provenance: where the weights come from, for the record.

        Raises:
            UserError: the pooling is unknown or needs what the backbone has not, or the preprocessing makes pictures of
                another size than the backbone's.
        """
        super().__init__()
        self.backbone = backbone
        self.preprocessing = preprocessing or Preprocessing(backbone.image_size)
        if self.preprocessing.image_size != backbone.image_size:
            raise UserError(
                f"the preprocessing makes pictures of {self.preprocessing.image_size} px but the backbone takes "
                f"{backbone.image_size} px; give both one image size"
            )
        self.pooling = pooling if pooling is not None else default_pooling(backbone.class_token)
        self.provenance = dict(provenance or {})
        self.embedding_shape = pooled_shape(self.pooling, backbone.width, backbone.grid, backbone.class_token)
        self.dim = prod(self.embedding_shape)
        self.source = None
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        image_size: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        pooling: str | None = None,
    ) -> FrozenEncoder:
        """Make an encoder of any module, which is frozen in place.

        Args:
            module: takes normalised images ``(B, 3, image_size, image_size)``; gives a vector ``(B, D)``, tokens
                ``(B, N, D)`` (a square of patches, with or without a class token before it) or a feature map
                ``(B, C, h, w)``.
            image_size: side of its input in pixels.
            mean: per-channel mean of its pictures in [0, 1].
            std: per-channel standard deviation of its pictures in [0, 1].
            pooling: see :mod:`rsp_robot.pooling`.

        Raises:
            UserError: the module does not take such pictures, or gives something else.
        """
        backbone = WrappedBackbone(module, image_size)
        provenance = {"source": "module", "class": type(module).__qualname__}
        return cls(backbone, Preprocessing(image_size, mean, std), pooling, provenance)

    def with_pooling(self, pooling: str) -> FrozenEncoder:
        """Return an encoder that pools otherwise and shares this one's backbone.

        Raises:
            UserError: the pooling is unknown, or the backbone has not what it needs.
        """
        other = FrozenEncoder(self.backbone, self.preprocessing, pooling, self.provenance)
        other.source = self.source
        return other

    @property
    def image_size(self) -> int:
        """Side of the backbone's input in pixels."""
        return self.preprocessing.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._like().device

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode, whatever a surrounding module asks for: running statistics stay as they are."""
        return super().train(False)

    @torch.no_grad()
    def tokens(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` -> all tokens ``(B, [1 +] N, D)`` float32, class token first where there is one."""
        like = self._like()
        tokens: torch.Tensor = self.backbone(self.preprocessing(frames, like.device).to(like.dtype))
        return tokens.float()

    @torch.no_grad()
    def forward(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 ``(B, H, W, 3)`` -> embeddings ``(B, *embedding_shape)`` float32."""
        return pool(self.tokens(frames), self.pooling, self.backbone.class_token)

    @torch.no_grad()
    def clip(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Embed short histories as a video Vision Transformer sees them.

        Tokens are averaged over time before they are pooled, so that a clip's embedding looks like a frame's.

        Args:
            frames: uint8 ``(B, T, H, W, 3)``; T a multiple of the tubelet, and at most the frames of fixed positions.

        Returns:
            ``(B, *embedding_shape)`` float32.

        Raises:
            UserError: the backbone knows single frames only, or takes no clips of that length.
        """
        backbone, (batch, length) = self.backbone, frames.shape[:2]
        if not isinstance(backbone, VideoTransformer):
            raise UserError(
                f"this encoder's {type(backbone).__name__} sees single frames; embed them one by one, or load V-JEPA"
            )
        tubelet, longest = backbone.config.tubelet, length if backbone.config.rotary else backbone.config.frames
        if length % tubelet or not 0 < length <= longest:
            limit = "" if backbone.config.rotary else f", {longest} at most"
            raise UserError(f"clips of {length} frames do not fit; give a multiple of {tubelet} frames{limit}")
        like = self._like()
        pictures = self.preprocessing(frames.reshape(-1, *frames.shape[2:]), like.device).to(like.dtype)
        tokens = backbone.clip(pictures.unflatten(0, (batch, length)).transpose(1, 2)).float()
        still = tokens.unflatten(1, (length // tubelet, -1)).mean(dim=1)
        return pool(still, self.pooling, backbone.class_token)

    def _like(self) -> torch.Tensor:
        """Some weight, for its device and its precision."""
        tensors = chain(self.backbone.parameters(), self.backbone.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(0))

    # -- identity ------------------------------------------------------------------------------------------------------

    def weights_checksum(self) -> str:
        """Hash of every weight as it is now: equal before and after training a policy, or it was not frozen."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the architecture, the weights, the preprocessing or the pooling."""
        identity = self.backbone.identity()
        if identity.get("kind") == "vit":  # the first kind there was; its fingerprints are stored in policies
            del identity["kind"]
        parts = [identity, self.weights_checksum(), asdict(self.preprocessing), self.pooling]
        text = json.dumps(parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # -- on disk -------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the encoder's folder, atomically; an encoder that is there already is replaced.

        Raises:
            UserError: the folder holds something else, or the backbone is a module of the user's.
        """
        architecture = self.backbone.describe()
        if architecture is None:
            raise UserError(
                f"a wrapped {self.provenance.get('class', 'module')} cannot be saved: only your program can build it "
                "again; wrap it there, and pass the encoder itself"
            )
        target = Path(folder)
        if target.exists() and not (target / "config.json").exists() and (target.is_file() or any(target.iterdir())):
            raise UserError(f"{target} holds something that is not an encoder; give a new folder")
        config = {
            "format": FORMAT,
            "architecture": architecture,
            "preprocessing": asdict(self.preprocessing),
            "pooling": self.pooling,
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
            "golden": [round(value, 6) for value in self._golden().tolist()],
        }
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.backbone.state_dict().items()}
            write_tensors(temporary / "model.safetensors", weights)
            (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(
        cls, spec: str | os.PathLike[str], device: str | torch.device = "cpu", pooling: str | None = None
    ) -> FrozenEncoder:
        """Load an encoder.

        Args:
            spec: one of

                - ``rsp-robot/small``, which comes with the package: no network needed;
                - an encoder folder, or a run folder that holds ``encoder/``;
                - a published checkpoint (``.pth``, ``.pt`` or ``.safetensors``) of RSP, MAE, any plain Vision
                  Transformer, V-JEPA or V-JEPA 2 (``vjepa2.pt@128`` for pictures of 128 px);
                - ``timm:<model>[@size]``, pretrained; ``timm:<model>[@size]=<file>`` with weights of a file;
                  ``timm:local-dir:<folder>``;
                - ``random:<architecture>[/patch][@size][#seed]`` such as ``random:vit-nano/8@64``,
                  ``random:conv64-dcgan`` (SRVP's convolutions), or any model of timm;
                - ``hub:<owner>/<name>``, an encoder folder on the Hugging Face Hub.
            device: where to put it.
            pooling: see :mod:`rsp_robot.pooling`; by default the folder's, or the backbone's usual one.

        Raises:
            UserError: nothing is there, or it is damaged or of another layout, or its golden embedding is not
                reproduced.
        """
        found = find(spec)
        if isinstance(found, Path):
            encoder = _load_folder(cls, found)
        else:
            encoder = cls(found.backbone, found.preprocessing, provenance=found.provenance)
        if pooling is not None:
            encoder = encoder.with_pooling(pooling)
        encoder.source = os.fspath(spec)
        return encoder.to(device)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], device: str | torch.device = "cpu", pooling: str | None = None
    ) -> FrozenEncoder:
        """Do what :meth:`load` does, under the name that users of the Hugging Face Hub know."""
        return cls.load(name, device, pooling)

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Put the encoder's folder on the Hugging Face Hub.

        Args:
            repo_id: ``owner/name``; created where it is not there.
            private: whether a new repository is private.
            token: of the Hub; by default the one that ``hf auth login`` stored.

        Returns:
            Address of the commit.

        Raises:
            UserError: the backbone cannot be saved, or the Hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save(Path(temporary) / "encoder")
            write_card(self, folder)
            return upload(folder, repo_id, private, token)

    @classmethod
    def random(cls, config: ViTConfig, seed: int = 0, pooling: str = "cls") -> FrozenEncoder:
        """Weights as drawn at initialisation: the baseline that any pretraining has to beat."""
        return cls(random_vit(config, seed), None, pooling, {"source": "random weights", "seed": seed})

    def _golden(self) -> torch.Tensor:
        """Embedding of a fixed test picture, ``(dim,)``."""
        rows, columns, channels = np.ogrid[: self.image_size, : self.image_size, :3]
        frame = ((7 * rows + 13 * columns + 61 * channels + rows * columns // 5) % 256).astype(np.uint8)
        return self(frame[None])[0].cpu().flatten()


def _load_folder(cls: type[FrozenEncoder], folder: Path) -> FrozenEncoder:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        if isinstance(config, dict) and isinstance(config.get("architecture"), str):
            raise UserError(
                f"{folder} holds a model of timm, not an encoder of format {FORMAT}; give timm:local-dir:{folder}"
            )
        raise UserError(f"{folder}/config.json is not an encoder of format {FORMAT}; export the encoder again")
    try:
        architecture = dict(config["architecture"])
        if architecture["kind"] not in BACKBONES:
            raise unknown_name("architecture", architecture["kind"], BACKBONES)
        backbone = BACKBONES[architecture["kind"]](architecture)
        stored = config["preprocessing"]
        preprocessing = Preprocessing(int(stored["image_size"]), tuple(stored["mean"]), tuple(stored["std"]))
        backbone.load_state_dict(load_file(folder / "model.safetensors"))
        if not isinstance(config["pooling"], str):
            raise TypeError(f"pooling is {config['pooling']!r}")
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
