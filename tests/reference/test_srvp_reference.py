"""SRVP against numbers of the published formulation: every output and every gradient, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from rsp_robot.pretrain.objectives.srvp import SRVP, Draws, SRVPConfig

TOLERANCE = 1e-6


class Reference(NamedTuple):
    """A model with published weights in float64, what goes in, and what has to come out."""

    model: SRVP
    pixels: torch.Tensor
    draws: Draws
    outputs: dict[str, np.ndarray]
    gradient_norms: dict[str, float]


@pytest.fixture
def reference(path: Path, read_reference: Any) -> Reference:
    config, groups = read_reference(path)
    assert config["nx"] == 64 and config["nt"] == len(groups["in"]["x"])
    settings = SRVPConfig(
        architecture=config["archi"],
        channels=config["nc"],
        filters=config["nf"],
        skip=config["skipco"],
        code_width=config["nhx"],
        state_width=config["ny"],
        noise_width=config["nz"],
        inference_width=config["nh_inf"],
        inference_depth=config["nlayers_inf"],
        residual_width=config["nh_res"],
        residual_depth=config["nlayers_res"],
        euler_steps=config["n_euler_steps"],
        length=config["nt"],
        observed=config["nt_inf"],
        condition=min(config["nt_inf"], config["nt"] - 1),
        obs_std=config["obs_scale"],
        beta_y=config["beta_y"],
        beta_z=config["beta_z"],
        residual_weight=config["l2_res"],
    )
    model = SRVP(settings).double()
    model.load_published({name: torch.tensor(value).double() for name, value in groups["state"].items()})
    model.train()
    drawn = {name: torch.tensor(value) for name, value in groups["in"].items()}
    batch = drawn["x"].shape[1]
    skip = drawn.get("skip_frame", torch.zeros(batch, dtype=torch.int64))
    draws = Draws(drawn["noise_y"], drawn["noise_z"].transpose(0, 1), skip, drawn["content_frames"].T)
    norms = {name: float(value) for name, value in groups["gradnorm"].items()}
    return Reference(model, drawn["x"], draws, groups["out"], norms)


def test_every_output(reference: Reference, wrong_outputs: Any) -> None:
    model, pixels, draws, expected, _ = reference
    inferred = model.infer(pixels, draws)
    losses = model.losses(pixels, inferred)
    found = {
        "x_pred": inferred.pictures,
        "y": inferred.trajectory.states[:: model.config.euler_steps],
        "z": inferred.trajectory.noise,
        "w": inferred.content,
        "q_y": inferred.first_state,
        "q_z": inferred.posterior,
        "p_z": inferred.prior,
        "residuals": inferred.trajectory.steps,
        **losses,
    }
    assert wrong_outputs(found, expected, TOLERANCE) == {}


def test_every_gradient(reference: Reference, wrong_gradients: Any) -> None:
    model, pixels, draws, _, expected = reference
    model.losses(pixels, model.infer(pixels, draws))["loss"].backward()
    published = {name.replace("backbone.", "encoder.", 1): p for name, p in model.named_parameters()}
    assert wrong_gradients(published, expected, TOLERANCE) == {}
