"""SRVP: Stochastic Latent Residual Video Prediction (Franceschi et al., ICML 2020).

A state y moves from frame to frame by a residual step that a noise variable z feeds; frames are decoded from y and from
a content variable w that does not move. Training maximises the evidence bound of whole clips. Names of the parameters
are those of the published checkpoints, the encoder's below ``backbone.`` instead of ``encoder.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import nn

from rsp_robot.backbones.conv64 import (
    IMAGE_SIZE,
    Conv64,
    Conv64Config,
    Conv64Decoder,
    commit_statistics,
    initialise_convolutions,
)
from rsp_robot.backbones.vit import ViTConfig
from rsp_robot.errors import UserError, unknown_name
from rsp_robot.pretrain.objectives.base import Objective, ObjectiveConfig
from rsp_robot.pretrain.sampling import ClipSpec, Unit
from rsp_robot.pretrain.state_space import MLP, Recurrence, StateLatent, Trajectory, gaussian_nll, integrate

LATENTS = ("gaussian", "none")


@dataclass(frozen=True)
class SRVPConfig(ObjectiveConfig):
    """Settings of the objective; the defaults are those published for robots that push things (BAIR)."""

    name: ClassVar[str] = "srvp"

    latent: Literal["gaussian", "none"] = "gaussian"
    """Whether each frame brings a noise variable z, or the state moves by itself (the paper's ablation without z)."""
    architecture: Literal["dcgan", "vgg"] = "vgg"
    """Convolutional encoder and decoder."""
    channels: int = 3
    """Colours of what is encoded and predicted; 1 sees the mean of red, green and blue."""
    filters: int = 64
    """Channels after the encoder's first stage."""
    skip: bool = True
    """Give the decoder the encoder's feature maps of one frame: random in training, the last one seen in prediction."""
    code_width: int = 128
    """Numbers in the code of a frame."""
    tokens: Literal["code", "map"] = "map"
    """What the exported encoder gives: the code of a frame as one token, or the feature map before it."""
    state_width: int = 50
    """Numbers in the state y."""
    noise_width: int = 50
    """Numbers in the noise variable z."""
    inference_width: int = 256
    """Hidden width of the networks that infer y, z and w; also the width of w."""
    inference_depth: int = 3
    """Layers of the network that infers the first state."""
    residual_width: int = 512
    """Hidden width of the residual function and of the prior."""
    residual_depth: int = 4
    """Layers of the residual function and of the prior."""
    residual_gain: float = 1.41
    """Gain of the residual function's orthogonal initial weights."""
    euler_steps: int = 2
    """Residual steps from each frame to the next."""
    length: int = 12
    """Frames of a clip."""
    stride: float = 1
    """Distance between its frames."""
    stride_unit: Unit = "frames"
    """What the stride is counted in: frames or seconds."""
    observed: int = 2
    """First frames of a clip from which the first state is inferred, and number of frames that the content is."""
    condition: int = 2
    """Frames that a prediction is given."""
    obs_std: float = 0.71
    """Standard deviation of pixels in [0, 1] around what is decoded."""
    beta_y: float = 1.0
    """Weight of the KL divergence of the first state."""
    beta_z: float = 1.0
    """Weight of the KL divergence of the noise variables."""
    residual_weight: float = 1.0
    """Weight of the length of the residual steps."""

    def __post_init__(self) -> None:
        _ = self.frames, self.encoder_config  # refuse what means nothing
        if self.latent not in LATENTS:
            raise unknown_name("latent", self.latent, LATENTS)
        for setting in ("state_width", "noise_width", "inference_width", "inference_depth", "residual_width",
                        "residual_depth", "euler_steps", "observed"):  # fmt: skip
            if getattr(self, setting) < 1:
                raise UserError(f"{setting} must be at least 1, not {getattr(self, setting)}")
        if not self.observed <= self.condition < self.length:
            raise UserError(
                f"a clip of {self.length} frames needs observed <= condition < length, not observed {self.observed} "
                f"and condition {self.condition}; change one"
            )
        if self.obs_std <= 0 or min(self.beta_y, self.beta_z, self.residual_weight) < 0:
            raise UserError(
                "obs_std must be positive and beta_y, beta_z and residual_weight not negative; correct them"
            )

    @property
    def frames(self) -> ClipSpec:
        """A clip."""
        return ClipSpec(self.length, self.stride, self.stride_unit)

    @property
    def encoder_config(self) -> Conv64Config:
        """Sizes of the frame encoder."""
        return Conv64Config(self.architecture, self.channels, self.filters, self.code_width, self.tokens)

    def build(self, vit: ViTConfig) -> SRVP:
        """Make the model; its weights are drawn from torch's global generator.

        Raises:
            UserError: the run asks for pictures that are not 64 px.
        """
        if self.channels not in (1, 3):
            raise UserError(f"videos have 3 colours, or 1 that is their mean, not {self.channels}; set channels")
        if vit.image_size != IMAGE_SIZE:
            raise UserError(
                f"the convolutions of srvp take pictures of {IMAGE_SIZE} px, not {vit.image_size}; "
                f"give --image-size {IMAGE_SIZE}"
            )
        return SRVP(self, vit)


class Draws(NamedTuple):
    """Everything that one pass over clips draws at random."""

    first_state: torch.Tensor
    """``(B, state_width)`` standard normal."""
    noise: torch.Tensor
    """``(B, T - 1, noise_width)`` standard normal, for z."""
    skip_frame: torch.Tensor
    """int64 ``(B,)``: the frame that gives the skip connections."""
    content_frames: torch.Tensor
    """int64 ``(B, observed)``: different frames that give the content."""


class Inferred(NamedTuple):
    """What the model makes of clips, time first."""

    pictures: torch.Tensor
    """``(T, B, C, 64, 64)`` in (0, 1): means of the decoded frames."""
    content: torch.Tensor
    """``(B, inference_width)`` w."""
    trajectory: Trajectory
    first_state: torch.Tensor
    """``(B, 2 · state_width)``: parameters of q(y_1)."""
    posterior: torch.Tensor | None
    """``(T - 1, B, 2 · noise_width)``: parameters of q(z); None without z."""
    prior: torch.Tensor | None
    """The same of p(z)."""


class Foreseen(NamedTuple):
    """What follows frames that were seen, before it is decoded."""

    content: torch.Tensor
    """``(B, inference_width)`` w."""
    states: torch.Tensor
    """``(ahead · euler_steps, B, state_width)``: the states after that of the last frame seen, at every Euler step."""
    skips: list[torch.Tensor] | None
    """Feature maps of the last frame seen."""


class SRVP(Objective):
    """The state-space model with its frame encoder as ``backbone``."""

    config: SRVPConfig
    backbone: Conv64

    def __init__(self, config: SRVPConfig, vit: ViTConfig | None = None) -> None:
        super().__init__()
        self.config = config
        if vit is not None:
            self.vit = vit
        code, state, noise = config.code_width, config.state_width, config.noise_width
        hidden, wide, depth = config.inference_width, config.residual_width, config.residual_depth
        self.y_latent, self.z_latent = StateLatent(state), StateLatent(noise)
        self.backbone = Conv64(config.encoder_config)
        self.decoder = Conv64Decoder(config.encoder_config, hidden + state, config.skip)
        self.w_proj = nn.Sequential(nn.Linear(code, hidden), nn.ReLU())
        self.w_inf = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
        self.q_y = MLP(code * config.observed, hidden, 2 * state, config.inference_depth)
        if config.latent == "gaussian":
            self.inf_z = Recurrence(code, hidden)
            self.q_z = nn.Linear(hidden, 2 * noise)
            self.p_z = MLP(state, wide, 2 * noise, depth)
        self.dynamics = MLP(state + (noise if self.has_noise else 0), wide, state, depth)
        initialise_convolutions(self)
        for layer in self.dynamics.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, config.residual_gain)
                nn.init.zeros_(layer.bias)

    @property
    def has_noise(self) -> bool:
        """Whether there is a z."""
        return self.config.latent == "gaussian"

    # -- the pieces, in the paper's order ------------------------------------------------------------------------------

    def encode(self, pixels: torch.Tensor, skip_frame: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
        """Encode clips ``(T, B, C, 64, 64)`` in [0, 1].

        Returns:
            Codes ``(T, B, code_width)``, and the feature maps of each clip's ``skip_frame`` ``(B,)``, or None.
        """
        clips = pixels.shape[:2]
        code, stages = self.backbone.encode(pixels.flatten(0, 1))
        if not self.config.skip:
            return self._single(code).unflatten(0, clips), None
        rows = torch.arange(clips[1], device=pixels.device)
        return self._single(code).unflatten(0, clips), [maps.unflatten(0, clips)[skip_frame, rows] for maps in stages]

    def content(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes of any frames in any order ``(K, B, code_width)`` -> w ``(B, inference_width)``."""
        w: torch.Tensor = self.w_inf(self.w_proj(codes).sum(dim=0))
        return w

    def infer_first_state(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes of the first frames ``(>= observed, B, code_width)`` -> parameters of q(y_1)."""
        return self._single(self.q_y(codes[: self.config.observed].transpose(0, 1).flatten(1)))

    def infer_noise(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes ``(T, B, code_width)`` -> parameters of q(z) of all frames but the first ``(T - 1, B, ...)``."""
        return self._single(self.q_z(self.inf_z(codes)[1:]))

    def prior(self, states: torch.Tensor) -> torch.Tensor:
        """States ``(..., state_width)`` -> parameters of p(z of the next frame)."""
        return self._single(self.p_z(states))

    def residual(self, state: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """f(y, z): how the state moves, per frame."""
        return self._single(self.dynamics(state if noise is None else torch.cat([state, noise], dim=-1)))

    def decode(self, content: torch.Tensor, states: torch.Tensor, skips: list[torch.Tensor] | None) -> torch.Tensor:
        """Decode states ``(T, B, state_width)`` -> pictures ``(T, B, C, 64, 64)`` in (0, 1)."""
        frames = len(states)
        vectors = torch.cat([content.expand(frames, *content.shape), states], dim=-1).flatten(0, 1)
        repeated = None if skips is None else [maps.repeat(frames, 1, 1, 1) for maps in skips]
        pictures: torch.Tensor = self.decoder(vectors, repeated)
        return pictures.unflatten(0, states.shape[:2])

    def _single(self, values: torch.Tensor) -> torch.Tensor:
        # States and Gaussians in single precision: half of it cannot add up many small steps.
        return values.to(self.dynamics.module[0][0].bias.dtype)  # type: ignore[index]

    # -- the loss ------------------------------------------------------------------------------------------------------

    def draw(self, frames: torch.Tensor, generator: torch.Generator | None = None) -> Draws:
        """Draw what one pass over clips ``(B, T, 3, 64, 64)`` needs."""
        batch, length, device = *frames.shape[:2], frames.device
        first = torch.randn((batch, self.config.state_width), generator=generator, device=device)
        noise = torch.randn((batch, length - 1, self.config.noise_width), generator=generator, device=device)
        skip = torch.randint(length, (batch,), generator=generator, device=device)
        order = torch.rand((batch, length), generator=generator, device=device).argsort(dim=1)
        return Draws(first, noise, skip, order[:, : self.config.observed])

    def infer(self, pixels: torch.Tensor, draws: Draws) -> Inferred:
        """Pass clips ``(T, B, C, 64, 64)`` in [0, 1] through the whole model, all noise from the posterior."""
        length = len(pixels)
        codes, skips = self.encode(pixels, draws.skip_frame)
        chosen = draws.content_frames.T[:, :, None].expand(-1, -1, codes.shape[-1])
        content = self.content(codes.gather(0, chosen))
        first, posterior, drawn = self.infer_first_state(codes), None, None
        if self.has_noise:
            posterior = self.infer_noise(codes)
            drawn = self.z_latent.sample(posterior, draws.noise.transpose(0, 1))
        trajectory = integrate(
            self.residual,
            self.y_latent.sample(first, draws.first_state),
            lambda t, state: None if drawn is None else drawn[t],
            length,
            self.config.euler_steps,
        )
        states = trajectory.states[:: self.config.euler_steps]
        prior = self.prior(states[:-1]) if self.has_noise else None
        return Inferred(self.decode(content, states, skips), content, trajectory, first, posterior, prior)

    def losses(self, pixels: torch.Tensor, inferred: Inferred) -> dict[str, torch.Tensor]:
        """Compute the negative evidence bound of clips ``(T, B, C, 64, 64)`` in [0, 1] with the residual penalty.

        ``loss = nll + beta_y KL(q(y_1) || N(0, 1)) + beta_z Σ KL(q(z) || p(z)) + residual_weight Σ |Δt f|`` (SRVP,
        equations 11 and 12), all summed over pixels and time, mean over the batch.

        Returns:
            Scalars ``loss``, ``nll``, ``kl_y`` and ``kl_z`` (nats; no ``kl_z`` without z) and ``l2_residual``.
        """
        settings, batch = self.config, pixels.shape[1]
        losses = {
            "nll": gaussian_nll(pixels, inferred.pictures, settings.obs_std).sum() / batch,
            "kl_y": self.y_latent.kl_to_standard(inferred.first_state).sum() / batch,
            "l2_residual": inferred.trajectory.steps.norm(dim=-1).sum() / batch,
        }
        loss = losses["nll"] + settings.beta_y * losses["kl_y"] + settings.residual_weight * losses["l2_residual"]
        if inferred.posterior is not None and inferred.prior is not None:
            losses["kl_z"] = self.z_latent.kl(inferred.posterior, inferred.prior).sum() / batch
            loss = loss + settings.beta_z * losses["kl_z"]
        return {"loss": loss, **losses}

    def pixels(self, frames: torch.Tensor) -> torch.Tensor:
        """Clips ``(B, T, 3, 64, 64)``, normalised -> ``(T, B, C, 64, 64)`` in [0, 1]."""
        return self.backbone.pixels(frames).transpose(0, 1)

    def forward(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Compute the losses of clips ``(B, T, 3, 64, 64)``, normalised; see :meth:`losses`."""
        pixels = self.pixels(frames)
        return self.losses(pixels, self.infer(pixels, draws))

    def after_step(self, share: float, bad: torch.Tensor) -> None:
        """Let the batch norms take over the statistics of the step's last micro-batch."""
        commit_statistics(self, bad)

    @torch.no_grad()
    def diagnose(self, frames: torch.Tensor, draws: Draws) -> dict[str, torch.Tensor]:
        """Look at clips ``(B, T, 3, 64, 64)`` as a prediction would, with running statistics.

        Returns:
            ``psnr``: of the frames reconstructed from the posterior, ``psnr_prior``: of those after ``condition``
            predicted from the prior, both in dB; ``residual_size``: mean length of an Euler step; with z also
            ``kl_z_per_frame`` ``(T - 1,)`` in nats and ``z_used``: the dimensions of z that say something (see the
            latent's ``in_use``).
        """
        training, pixels = self.training, self.pixels(frames)
        self.eval()
        try:
            inferred = self.infer(pixels, draws)
            ahead = len(pixels) - self.config.condition
            predicted = self.predict(pixels[: self.config.condition], ahead, draws.first_state, draws.noise)
        finally:
            self.train(training)
        found = {
            "psnr": psnr(inferred.pictures, pixels).mean(),
            "psnr_prior": psnr(predicted, pixels[self.config.condition :]).mean(),
            "residual_size": inferred.trajectory.steps.norm(dim=-1).mean(),
        }
        if inferred.posterior is not None and inferred.prior is not None:
            found["kl_z_per_frame"] = self.z_latent.kl(inferred.posterior, inferred.prior).sum(dim=-1).mean(dim=1)
            found["z_used"] = self.z_latent.in_use(inferred.posterior.flatten(0, 1))
        return found

    # -- prediction ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def foresee(
        self, seen: torch.Tensor, ahead: int, first_state: torch.Tensor, noise: torch.Tensor, euler_steps: int
    ) -> Foreseen:
        """Go on from frames that were seen, in evaluation mode; see :meth:`predict` for the arguments."""
        observed = self.config.observed
        if len(seen) < observed:
            raise ValueError(f"{len(seen)} frames were seen; the first state needs {observed}")
        last = torch.full((seen.shape[1],), len(seen) - 1, device=seen.device)
        codes, skips = self.encode(seen, last)
        posterior = self.infer_noise(codes) if self.has_noise else None

        def noise_at(t: int, state: torch.Tensor) -> torch.Tensor | None:
            if posterior is None:
                return None
            return self.z_latent.sample(posterior[t] if t < len(posterior) else self.prior(state), noise[:, t])

        state = self.y_latent.sample(self.infer_first_state(codes), first_state)
        states = integrate(self.residual, state, noise_at, len(seen) + ahead, euler_steps).states
        return Foreseen(self.content(codes[-observed:]), states[(len(seen) - 1) * euler_steps + 1 :], skips)

    @torch.no_grad()
    def predict(
        self,
        seen: torch.Tensor,
        ahead: int,
        first_state: torch.Tensor,
        noise: torch.Tensor,
        euler_steps: int | None = None,
        rate: int = 1,
    ) -> torch.Tensor:
        """Predict what follows frames that were seen; in evaluation mode.

        z comes from the posterior up to the last frame seen, then from the prior; content and skip connections are
        those of the last frames seen. Smaller Euler steps than in training give pictures between the frames (SRVP,
        section 5.2).

        Args:
            seen: ``(K, B, C, 64, 64)`` in [0, 1], K at least ``observed``.
            ahead: frames to predict, at the distance of those seen.
            first_state: ``(B, state_width)`` standard normal; zeros take the mean.
            noise: ``(B, >= K - 1 + ahead, noise_width)`` standard normal; not used without z.
            euler_steps: from each frame to the next; by default as trained.
            rate: pictures to return for each frame; divides ``euler_steps``.

        Returns:
            ``(ahead · rate, B, C, 64, 64)`` in (0, 1); with a rate of 2 the second, fourth, ... are at whole frames.

        Raises:
            ValueError: the rate does not divide the Euler steps, or too few frames were seen.
        """
        n = euler_steps or self.config.euler_steps
        if rate < 1 or n % rate:
            raise ValueError(f"{rate} pictures per frame need Euler steps that are a multiple of it, not {n}")
        content, states, skips = self.foresee(seen, ahead, first_state, noise, n)
        return self.decode(content, states[n // rate - 1 :: n // rate], skips)

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over weights under their published names.

        Running statistics may be absent, as in files that hold parameters only.

        Raises:
            RuntimeError: a name or a shape is not one of this model's.
        """
        buffers = {name: buffer for name, buffer in self.named_buffers() if name in self.state_dict()}
        ours = {name.replace("encoder.", "backbone.", name.startswith("encoder.")): state[name] for name in state}
        self.load_state_dict({**buffers, **ours})


def psnr(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio ``-10 log10(mean squared error)`` in dB of pictures ``(..., C, H, W)`` in [0, 1]."""
    return -10 * (pictures - truth).square().mean(dim=(-3, -2, -1)).clamp(min=1e-10).log10()
