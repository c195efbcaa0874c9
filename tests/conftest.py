"""What more than one folder of tests uses: the option ``--reference-dir`` and a reader for the references."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Before numpy and torch read it. Tests run side by side: arithmetic threads of one would spin on the cores that the
# other needs, for minutes on end; and sums in another order differ in their last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch

    from rsp_robot.pretrain.objectives.rsp import RSP, Draws

REFERENCES = Path(__file__).parent / "reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        default=REFERENCES,
        help="folder of numerical references (<method>-*.npz); by default those of the repository",
    )


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep indices and embeddings of test data out of the user's cache, those of fixtures too."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSP_ROBOT_CACHE", str(folder))
        yield folder


class RSPReference(NamedTuple):
    """A model with published weights in float64, what goes in, and what has to come out."""

    model: RSP
    frames: torch.Tensor
    draws: Draws
    latent: torch.Tensor
    outputs: dict[str, np.ndarray]
    gradient_norms: dict[str, float]


@pytest.fixture
def load_rsp_reference() -> Callable[[Path], RSPReference]:
    return read_rsp_reference


def read_groups(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Read the sizes of a reference file, and its arrays by group (state, in, out, gradnorm) and name."""
    groups: dict[str, dict[str, np.ndarray]] = {"config": {}, "state": {}, "in": {}, "out": {}, "gradnorm": {}}
    with np.load(path, allow_pickle=False) as file:
        for key in file.files:
            group, _, name = key.partition("/")
            groups[group][name] = file[key]
    return {name: value.item() for name, value in groups.pop("config").items()}, groups


@pytest.fixture
def read_reference() -> Callable[[Path], tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]]:
    return read_groups


def read_rsp_reference(path: Path) -> RSPReference:
    """Build the model that a file describes; the encoder's parameters live below ``backbone.`` here."""
    import torch

    from rsp_robot.backbones.vit import ViTConfig
    from rsp_robot.pretrain.objectives.rsp import RSP, Draws, RSPConfig

    config, groups = read_groups(path)
    vit = ViTConfig(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    rsp = RSPConfig(
        decoder_width=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
        groups=config["stoch"],
        classes=config["discrete"],
        noise_std=config["noise_scale"],
        mask_ratio=config["mask_ratio"],
        kl_scale=config["kl_scale"],
        kl_balance=config["kl_balance"],
        free_bits=config["kl_freebit"],
        normalise_targets=config["norm_pix_loss"],
    )
    model = RSP(vit, rsp).double()
    of_backbone = {name for name, _ in model.backbone.named_parameters()}
    ours = {name: f"backbone.{name}" if name in of_backbone else name for name in groups["state"]}
    model.load_state_dict({ours[name]: torch.tensor(value).double() for name, value in groups["state"].items()})

    inputs = {name: torch.tensor(value).double() for name, value in groups["in"].items()}
    noise = (inputs["tgt_noised"] - inputs["tgt"]) / config["noise_scale"]
    # Uniform noise that makes the Gumbel-max rule choose what was drawn: its Gumbels are 20 apart.
    uniform = torch.where(inputs["z_onehot"] > 0, 1 - 1e-7, 1e-20)
    return RSPReference(
        model,
        torch.stack([inputs["src"], inputs["tgt"]], dim=1),
        Draws(noise, inputs["mask_noise"], uniform),
        inputs["z_onehot"].flatten(1),
        groups["out"],
        {ours.get(name, name): float(value) for name, value in groups["gradnorm"].items()},
    )
