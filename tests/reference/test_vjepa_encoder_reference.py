"""The encoder of V-JEPA against numbers of the published formulation, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rsp_robot.backbones.vjepa import VideoTransformer
from rsp_robot.published_vjepa import vjepa_encoder, vjepa_weights


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder: Path = metafunc.config.getoption("--reference-dir")
    files = sorted(folder.glob("vjepa-*.npz"))
    if not files:
        raise pytest.UsageError(f"{folder} holds no vjepa-*.npz; give --reference-dir a folder that does")
    metafunc.parametrize("path", files, ids=lambda path: path.stem)


def test_the_target_encoder_on_a_whole_clip(path: Path) -> None:
    with np.load(path, allow_pickle=False) as file:
        content = {part: {} for part in ("encoder", "target_encoder")}
        for key in file.files:
            _, part, name = [*key.split("/", 2), ""][:3]
            if key.startswith("state/") and part in content:
                content[part][f"module.{name}"] = torch.tensor(file[key])
        clip, expected = torch.tensor(file["in/clip"]), file["out/target_full"]
        sizes = {key.removeprefix("config/"): file[key].item() for key in file.files if key.startswith("config/")}
    state = vjepa_weights(content)
    assert state is not None
    config, weights = vjepa_encoder(state, {"num_heads": sizes["num_heads"]}, str(path))
    assert (config.image_size, config.patch_size, config.tubelet, config.frames, config.width, config.depth) == tuple(
        sizes[name] for name in ("img_size", "patch_size", "tubelet_size", "num_frames", "embed_dim", "depth")
    )
    model = VideoTransformer(config).double()
    model.load_state_dict(weights)
    with torch.no_grad():
        found = model.clip(clip).numpy()
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
