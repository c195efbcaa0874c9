from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from rsp_robot.backbones.vit import VisionTransformer, ViTConfig, initialise_transformer
from rsp_robot.backbones.vjepa import VideoTransformer, VJEPAConfig
from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.export_checks import Latency, Parity, Run, check_frames
from rsp_robot.export_programs import EmbeddingProgram
from rsp_robot.exporting import PROGRAMS, export_encoder
from rsp_robot.preprocessing import Preprocessing

SMALL = ViTConfig(image_size=32, patch_size=8, width=48, depth=2, heads=3)
FILES = {"torch-export": "encoder.pt2", "onnx": "encoder.onnx"}


def make(
    pooling: str = "cls", config: ViTConfig = SMALL, backbone: type[VisionTransformer] = VisionTransformer
) -> FrozenEncoder:
    built = backbone(config)
    built.initialise(torch.Generator().manual_seed(0))
    return FrozenEncoder(built, Preprocessing(config.image_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), pooling)


def program(folder: Path, form: str) -> Run:
    """The written file, loaded."""
    if form == "torch-export":
        loaded = torch.export.load(folder / "encoder.pt2").module()
        return lambda frames: loaded(torch.from_numpy(frames)).numpy()
    session = onnxruntime.InferenceSession(folder / "encoder.onnx")
    return lambda frames: np.asarray(session.run(None, {"frames": frames})[0])


def noise(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


@dataclass
class Written:
    """An export that several tests look at."""

    form: str
    encoder: FrozenEncoder
    folder: Path
    run: Run
    parity: Parity
    latency: Latency


@pytest.fixture(scope="module", params=PROGRAMS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    encoder, told = make("grid3"), []
    folder = tmp_path_factory.mktemp("written") / "out"
    export_encoder(encoder, folder, request.param, frame_size=(40, 48), on_check=lambda *both: told.append(both))
    ((parity, latency),) = told
    return Written(request.param, encoder, folder, program(folder, request.param), parity, latency)


# -- what is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (64, 32), (21, 50), (16, 16)])
def test_pictures_are_resized_as_by_the_encoder(size: tuple[int, int]) -> None:
    frames = torch.from_numpy(check_frames(*size))
    program = EmbeddingProgram(make(), size)
    expected = frames.permute(0, 3, 1, 2).float()
    if size != (32, 32):
        expected = F.interpolate(expected, (32, 32), mode="bicubic", antialias=True).clamp(0, 255)
    torch.testing.assert_close(program.resize(frames), expected, rtol=0, atol=1e-3)
    assert program.resize(frames).min() == 0 and program.resize(frames).max() == 255


def test_a_program_gives_the_embeddings_of_the_encoder(written: Written) -> None:
    for batch in (1, 3, 7):
        frames = noise(batch, 40, 48)
        found = written.run(frames)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, written.encoder(frames).numpy(), atol=2e-5, rtol=0)
    assert written.parity.relative < 1e-5 < written.parity.tolerance
    assert written.latency.original > 0 and written.latency.written > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", PROGRAMS)
@pytest.mark.parametrize("size", [(64, 64), (96, 96)])
@pytest.mark.parametrize("pooling", ["cls", "mean", "grid2", "cls+mean", "spatial-softmax", "tokens"])
def test_programs_of_every_pooling(tmp_path: Path, form: str, pooling: str, size: tuple[int, int]) -> None:
    encoder = FrozenEncoder.load("random:vit-nano/16@64", pooling=pooling)
    folder = export_encoder(encoder, tmp_path / "out", form, frame_size=size)
    np.testing.assert_allclose(
        program(folder, form)(noise(3, *size)), encoder(noise(3, *size)).numpy(), atol=2e-5, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", PROGRAMS)
@pytest.mark.parametrize("spec", ["random:resnet18@64", "random:vit_tiny_patch16_224@64", "random:convnext_atto@64"])
def test_programs_of_other_backbones(tmp_path: Path, form: str, spec: str) -> None:
    encoder = FrozenEncoder.load(spec)
    folder = export_encoder(encoder, tmp_path / "out", form, frame_size=(96, 96))
    frames = noise(2, 96, 96)
    np.testing.assert_allclose(program(folder, form)(frames), encoder(frames).numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", PROGRAMS)
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_programs_of_video_transformers(tmp_path: Path, form: str, rotary: bool, half: bool) -> None:
    backbone = VideoTransformer(VJEPAConfig(32, 8, 2, 4, 48, 2, 3, 96, rotary))
    initialise_transformer(backbone, torch.Generator().manual_seed(0))
    encoder = FrozenEncoder(backbone)
    folder = export_encoder(encoder, tmp_path / "out", form, half, frame_size=(48, 48))
    tolerance = 2e-2 if half else 2e-5
    np.testing.assert_allclose(
        program(folder, form)(noise(3, 48, 48)), encoder(noise(3, 48, 48)).numpy(), atol=tolerance
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", PROGRAMS)
def test_a_program_of_a_module_of_ones_own(tmp_path: Path, form: str) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.BatchNorm2d(8), torch.nn.GELU())
    encoder = FrozenEncoder.wrap(module, image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    folder = export_encoder(encoder, tmp_path / "out", form)
    np.testing.assert_allclose(program(folder, form)(noise(2, 32, 32)), encoder(noise(2, 32, 32)).numpy(), atol=1e-5)


def test_a_program_takes_uint8_frames_of_its_size_only(written: Written) -> None:
    frames = noise(2, 40, 48)
    for wrong in (frames.astype(np.float32) / 255, frames[:, :, :30], frames.transpose(0, 3, 1, 2).copy()):
        with pytest.raises(Exception, match="dtype|Expected|Guard|data type|invalid dimensions"):
            written.run(wrong)


@pytest.mark.parametrize("form", PROGRAMS)
def test_half_precision_halves_the_file_and_computes_in_float32(
    tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder, frames = make(config=ViTConfig(image_size=32, patch_size=8, width=192, depth=2, heads=3)), noise(3, 32, 32)
    before, expected = encoder.weights_checksum(), encoder(frames).numpy()
    folder = export_encoder(encoder, tmp_path / "out", form, half=True)
    assert capfd.readouterr() == ("", ""), "exporting is silent"
    found = program(folder, form)(frames)
    assert found.dtype == np.float32
    assert 1e-5 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 5e-3
    whole = sum(tensor.nbytes for tensor in encoder.backbone.state_dict().values())
    assert (folder / FILES[form]).stat().st_size < 0.6 * whole
    stated = json.loads((folder / "config.json").read_text())
    assert stated["weights"] == "float16" and stated["parity"]["tolerance"] == 2e-2
    assert stated["fingerprint"] != encoder.fingerprint and stated["provenance"]["rounded_to"] == "float16"
    assert encoder.weights_checksum() == before and np.array_equal(encoder(frames).numpy(), expected)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Otherwise(VisionTransformer):
    """Computes something else where it is exported, as a mistake of an exporter would."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (1.001 if torch.compiler.is_exporting() else 1)


class Undecided(VisionTransformer):
    """Does what no exporter can follow: the values decide what is computed."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(-images if images.mean() > 0.1 else images)


@pytest.mark.parametrize(("form", "half"), [("torch-export", True), ("onnx", False)])
def test_a_program_that_differs_from_the_encoder_is_not_kept(tmp_path: Path, form: str, half: bool) -> None:
    with pytest.raises(
        UserError, match="differs from the encoder by 1.0e-03 of an embedding's length, more than 1e-04"
    ):
        export_encoder(make(backbone=Otherwise), tmp_path / "out", form, half)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", PROGRAMS)
def test_a_backbone_that_cannot_be_followed_is_one_line(tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match="cannot follow the backbone .*; change that line of it, or use") as caught:
        export_encoder(make(backbone=Undecided), tmp_path / "out", form)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_the_extra_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"format onnx needs {package}; pip install 'rsp-robot\[export\]'"):
        export_encoder(make(), tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


# -- what lies beside it -----------------------------------------------------------------------------------------------


def test_the_lines_in_the_readme_need_no_package_of_ours(tmp_path: Path, written: Written) -> None:
    form, folder, encoder = written.form, written.folder, written.encoder
    frames = noise(2, 40, 48)
    np.save(tmp_path / "frames.npy", frames)
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 3
    absent = ["rsp_robot", "timm", "transformers", *(["torch", "onnx"] if form == "onnx" else [])]
    program = f"""
import sys
sys.modules.update(dict.fromkeys({absent}))  # importing any of them fails from here on
import numpy
frames = numpy.load({str(tmp_path / "frames.npy")!r})
{"" if form == "onnx" else "import torch; frames = torch.from_numpy(frames)"}
{block}
numpy.save({str(tmp_path / "embeddings.npy")!r}, numpy.asarray(embeddings))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), encoder(frames).numpy(), atol=2e-5, rtol=0)


def test_the_file_and_the_folder_say_what_it_is(written: Written) -> None:
    form, folder, encoder = written.form, written.folder, written.encoder
    assert sorted(path.name for path in folder.iterdir()) == sorted(["README.md", "config.json", FILES[form]])
    stated = json.loads((folder / "config.json").read_text())
    assert (stated["format"], stated["file"], stated["frame_size"]) == (form, FILES[form], [40, 48])
    assert (stated["fingerprint"], stated["pooling"]) == (encoder.fingerprint, "grid3")
    assert stated["preprocessing"] == {"image_size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    assert stated["architecture"]["kind"] == "vit" and stated["output"]["shape"] == ["batch", 9 * 48]
    assert 0 <= stated["parity"]["relative"] <= 1e-4
    del stated["parity"]  # measured on the finished file
    if form == "onnx":
        model = onnx.load(folder / "encoder.onnx")
        inside = {entry.key: entry.value for entry in model.metadata_props}
        assert {name: json.loads(inside[name]) for name in ("frame_size", "preprocessing", "architecture")} == {
            name: stated[name] for name in ("frame_size", "preprocessing", "architecture")
        }
        assert (inside["fingerprint"], inside["pooling"]) == (encoder.fingerprint, "grid3")
        batch = model.graph.input[0].type.tensor_type.shape.dim[0]
        assert batch.dim_param == "batch" == model.graph.output[0].type.tensor_type.shape.dim[0].dim_param
    else:
        extra = {"config.json": ""}
        torch.export.load(folder / "encoder.pt2", extra_files=extra)
        assert json.loads(extra["config.json"]) == stated


def test_an_exported_program_is_not_taken_for_an_encoder(written: Written) -> None:
    with pytest.raises(UserError, match="is not an encoder of format"):
        FrozenEncoder.load(written.folder)
