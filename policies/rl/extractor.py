"""What Stable-Baselines3's networks see of an observation: normalised features, and one frozen encoder for them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from rsp_robot.errors import UserError
from rsp_robot.policies.rl.embedder import EMBEDDING, ordered_keys

if TYPE_CHECKING:
    from rsp_robot.encoder import FrozenEncoder
    from rsp_robot.policies.rl.normaliser import RunningNorm

ENCODE_BATCH = 64
FLAT = "observation"


class Shared:
    """Holds what several networks share and none of them owns.

    A module that is an attribute of a module becomes part of its parameters: it would be saved with it, given to its
    optimiser, and overwritten where a target network follows its critic. Not so one that is held in here; and a copy of
    the network holds the same one.
    """

    def __init__(self, encoder: FrozenEncoder | None, norm: RunningNorm | None) -> None:
        self.encoder, self.norm = encoder, norm

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class FrozenEncoderExtractor(BaseFeaturesExtractor):
    """Joins the parts of an observation into one vector; pictures go through a frozen encoder first.

    It has no parameters of its own: actor, critic and target networks all look through the one encoder, which no
    optimiser and no averaging of targets can reach::

        SAC("MultiInputPolicy", env, policy_kwargs=dict(
            features_extractor_class=FrozenEncoderExtractor,
            features_extractor_kwargs=dict(encoder=encoder),
            normalize_images=False,   # the encoder's own preprocessing does that
        ))

    Every minibatch is encoded anew. Behind :class:`~rsp_robot.policies.rl.embedding_env.EmbeddingVecEnv` there are no
    pictures left, which is much faster. Without a ``norm`` the embedding of each picture is normalised by its own mean
    and deviation and other parts are taken as they are.
    """

    def __init__(
        self,
        observation_space: spaces.Dict | spaces.Box,
        encoder: FrozenEncoder | None = None,
        norm: RunningNorm | None = None,
    ) -> None:
        """Set up.

        Args:
            observation_space: of pictures (with ``encoder``) and vectors, or of one vector.
            encoder: the frozen encoder.
            norm: running statistics of the joined features.

        Raises:
            UserError: pictures without an encoder, or a part that is neither.
        """
        parts = {}
        if isinstance(observation_space, spaces.Box):
            observation_space = spaces.Dict({FLAT: observation_space})
        pictures = [key for key, part in observation_space.spaces.items() if len(part.shape or ()) == 3]
        for key in (*pictures, *ordered_keys([key for key in observation_space.spaces if key not in pictures])):
            part = observation_space.spaces[key]
            if not isinstance(part, spaces.Box) or len(part.shape) not in (1, 3):
                raise UserError(f"observation {key!r} is neither a picture nor a vector: {part}; leave it out")
            if len(part.shape) == 3 and encoder is None:
                raise UserError(f"observation {key!r} is a picture; give the extractor an encoder")
            parts[key] = int(encoder.dim) if len(part.shape) == 3 and encoder is not None else part.shape[0]
        super().__init__(observation_space, sum(parts.values()))
        self.parts = parts
        """``{key: length}`` in the order in which they are joined."""
        self._pictures = pictures
        self._shared = Shared(encoder, norm)

    @property
    def encoder(self) -> FrozenEncoder | None:
        """The shared encoder."""
        return self._shared.encoder

    @property
    def norm(self) -> RunningNorm | None:
        """The shared statistics."""
        return self._shared.norm

    def raw(self, observations: dict[str, Tensor] | Tensor) -> Tensor:
        """Return the joined features ``(B, F)`` float32, not normalised."""
        if isinstance(observations, Tensor):
            return observations.float()
        parts = []
        for key in self.parts:
            value = observations[key]
            parts.append(self._encode(value) if key in self._pictures else value.float().flatten(1))
        return torch.cat(parts, dim=1)

    def forward(self, observations: dict[str, Tensor] | Tensor) -> Tensor:
        """Return the features ``(B, F)`` float32."""
        features = self.raw(observations)
        if self.norm is not None:
            return self.norm.apply(features)
        pieces = features.split(list(self.parts.values()), dim=1)
        seen = (EMBEDDING, *self._pictures)
        return torch.cat(
            [
                torch.nn.functional.layer_norm(piece, piece.shape[1:]) if key in seen else piece
                for key, piece in zip(self.parts, pieces, strict=True)
            ],
            dim=1,
        )

    def _encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures ``(B, 3, H, W)`` or ``(B, H, W, 3)`` with values 0 to 255, of any type."""
        assert self.encoder is not None
        if pictures.is_floating_point():
            whole = pictures.round()
            if not torch.equal(whole, pictures):
                raise UserError(
                    "the pictures were divided by 255 already; give policy_kwargs normalize_images=False, the "
                    "encoder normalises them itself"
                )
            pictures = whole.to(torch.uint8)
        if pictures.shape[-1] != 3:  # Stable-Baselines3 puts the channels first
            pictures = pictures.permute(0, 2, 3, 1)
        pieces = [self.encoder(piece.contiguous()) for piece in pictures.split(ENCODE_BATCH)]
        return torch.cat(pieces).flatten(1).to(pictures.device)
