"""From what an environment shows to what a learner stores: pictures become embeddings, earlier ones are kept."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from rsp_robot.errors import UserError
from rsp_robot.policies.embeddings import encode_rows
from rsp_robot.policies.history import Past, fuse

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder

EMBEDDING = "embedding"
"""Key of the joined embeddings of all cameras in an observation."""
LARGEST_HALF = float(np.finfo(np.float16).max)

Observation = Mapping[str, np.ndarray]


def picture_keys(space: spaces.Dict) -> tuple[str, ...]:
    """Return the keys of an observation space that hold pictures, uint8 ``(H, W, 3)``."""
    return tuple(
        key for key, part in space.spaces.items()
        if isinstance(part, spaces.Box) and part.dtype == np.uint8 and len(part.shape) == 3
    )  # fmt: skip


def ordered_keys(keys: Sequence[str]) -> list[str]:
    """Return the keys of an embedded observation in the order in which a network joins them: embeddings first.

    >>> ordered_keys(["proprio", "embedding", "state"])
    ['embedding', 'proprio', 'state']
    """
    return sorted(keys, key=lambda key: (key != EMBEDDING, key))


def join(observations: Observation) -> np.ndarray:
    """Return the parts of embedded observations side by side, float32 ``(..., F)``, as networks join them."""
    return np.concatenate([observations[key].astype(np.float32) for key in ordered_keys(list(observations))], axis=-1)


class Embedder:
    """Replaces the pictures of observations by the fused embeddings of the latest ones; other parts are passed on.

    An episode's memory is kept under an id of the caller's choice. Rows do not depend on the batch they come in, to the
    last bit.
    """

    def __init__(
        self,
        encoder: FrozenEncoder | None,
        cameras: Sequence[str] = (),
        vectors: Sequence[str] = ("proprio",),
        history: int = 1,
        fusion: str = "concat",
        half: bool = True,
    ) -> None:
        """Set up.

        Args:
            encoder: the frozen encoder; None where nothing is seen.
            cameras: keys of the pictures, in the order in which their embeddings are joined.
            vectors: keys of the parts to pass on, as float32.
            history: pictures that a row sees: the latest, and those of the calls before in the same episode.
            fusion: see :mod:`rsp_robot.policies.history`.
            half: round embeddings to half precision; values beyond its range are cut.
        """
        if (encoder is None) != (not cameras):
            raise UserError("an encoder needs cameras, and cameras need an encoder; give both or neither")
        if not cameras and not vectors:
            raise UserError("nothing is observed; give cameras, proprioception or the state")
        self.encoder, self.cameras, self.vectors = encoder, tuple(cameras), tuple(vectors)
        self.history, self.fusion, self.half = history, fusion, half
        self._memory: dict[Hashable, Past] = {}

    @property
    def dim(self) -> int:
        """Length of the fused embedding of one row; 0 without pictures."""
        if self.encoder is None:
            return 0
        return len(self.cameras) * int(self.encoder.dim) * self.history

    def space(self, original: spaces.Space[Any]) -> spaces.Dict:
        """Return the space of embedded observations.

        Raises:
            UserError: the environment does not show what is wanted.
        """
        if not isinstance(original, spaces.Dict):
            raise UserError(f"observations must be a dictionary of pictures and vectors, got {original}")
        parts: dict[str, spaces.Space[Any]] = {}
        pictures = picture_keys(original)
        for camera in self.cameras:
            if camera not in pictures:
                raise UserError(f"the environment shows no pictures {camera!r}, only {', '.join(pictures) or 'none'}")
        if self.cameras:
            dtype = np.float16 if self.half else np.float32
            parts[EMBEDDING] = spaces.Box(-np.inf, np.inf, (self.dim,), dtype)
        for key in self.vectors:
            part = original.spaces.get(key)
            if not isinstance(part, spaces.Box) or len(part.shape) != 1:
                raise UserError(f"the environment shows no vector {key!r}, only {', '.join(original.spaces)}")
            parts[key] = spaces.Box(
                part.low.astype(np.float32), part.high.astype(np.float32), part.shape, np.float32
            )  # fmt: skip
        return spaces.Dict(parts)

    def forget(self, ids: Sequence[Hashable]) -> None:
        """Begin new episodes under these ids."""
        for key in ids:
            self._memory.pop(key, None)

    def embed(self, observations: Observation, ids: Sequence[Hashable]) -> dict[str, np.ndarray]:
        """Embed one row for each id and remember its pictures.

        Args:
            observations: ``{camera: uint8 (B, H, W, 3)}`` and vectors ``(B, V)``.
            ids: the episode of each row.

        Returns:
            ``"embedding"`` float16 or float32 ``(B, dim)``, and the vectors as float32.
        """
        embedded: dict[str, np.ndarray] = {}
        if self.encoder is not None:
            windows = []
            for row, key in zip(self._encode(observations), ids, strict=True):
                windows.append(self._memory.setdefault(key, Past(self.history)).add(row))
            fused = fuse(torch.cat(windows), self.history, self.fusion).flatten(1).numpy()
            embedded[EMBEDDING] = to_half(fused) if self.half else fused
        for key in self.vectors:
            embedded[key] = np.asarray(observations[key], np.float32)
        return embedded

    def _encode(self, observations: Observation) -> torch.Tensor:
        """Return the embeddings of all cameras, float32 ``(B, C, dim)``."""
        assert self.encoder is not None
        parts = []
        for camera in self.cameras:
            rows = encode_rows(self.encoder, np.asarray(observations[camera]))
            parts.append(torch.from_numpy(rows.reshape(len(rows), -1)))
        return torch.stack(parts, dim=1)


def to_half(values: np.ndarray) -> np.ndarray:
    """Round to half precision, cutting what is beyond its range.

    >>> to_half(np.array([1e6, -2.0]))
    array([ 6.55e+04, -2.00e+00], dtype=float16)
    """
    return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
