from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from rsp_robot.encoder import FrozenEncoder
from rsp_robot.errors import UserError
from rsp_robot.experiments.usage import parse_options
from rsp_robot.experiments.verbs.export import ExportCommand, export
from rsp_robot.exporting import FORMS

SPEC = "random:vit-nano/16@32#3"


def parse(*words: str) -> ExportCommand:
    command: ExportCommand = parse_options(ExportCommand, list(words), "rsp-robot export", "")
    return command


def test_the_formats_offered_are_those_there_are() -> None:
    assert get_args(get_type_hints(ExportCommand)["format"]) == tuple(FORMS)


@pytest.mark.parametrize("form", ["folder", "timm", "published"])
def test_an_encoder_is_exported(tmp_path: Path, form: str) -> None:
    command = parse("--encoder", SPEC, "--out", str(tmp_path / "out"), "--format", form)
    assert export(command) == tmp_path / "out"
    weights = "encoder.pth" if form == "published" else "model.safetensors"
    assert (
        FrozenEncoder.load(tmp_path / "out" / weights).weights_checksum() == FrozenEncoder.load(SPEC).weights_checksum()
    )


def test_the_usual_format_is_a_folder_of_ours(tmp_path: Path) -> None:
    export(parse("--encoder", SPEC, "--out", str(tmp_path / "out")))
    assert FrozenEncoder.load(tmp_path / "out").fingerprint == FrozenEncoder.load(SPEC).fingerprint
    export(parse("--encoder", SPEC, "--out", str(tmp_path / "half"), "--half"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("out", "half")]
    assert sizes[1] < 0.55 * sizes[0]


@pytest.mark.parametrize("form", ["folder", "timm"])
def test_a_card_puts_own_words_into_the_readme(tmp_path: Path, form: str) -> None:
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: mit\n---\n## Data\n\nA drawer.\n\n## Licence\n\nMIT.\n", encoding="utf-8")
    export(parse("--encoder", SPEC, "--out", str(tmp_path / "out"), "--format", form, "--card", str(card)))
    shown = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: mit\n" in shown and "## Data\n\nA drawer.\n\n## Licence\n\nMIT.\n\n## Limits" in shown
    assert FrozenEncoder.load(SPEC).fingerprint in shown and "Not stated" not in shown


def test_a_card_that_cannot_be_read_is_told_before_there_is_a_folder(tmp_path: Path) -> None:
    options = ["--encoder", SPEC, "--out", str(tmp_path / "out"), "--card"]
    with pytest.raises(
        UserError, match=r"cannot read the card .*absent.md \(FileNotFoundError\); give a Markdown file"
    ):
        export(parse(*options, str(tmp_path / "absent.md")))
    (tmp_path / "card.md").write_text("---\nlicense: mit\n", encoding="utf-8")
    with pytest.raises(UserError, match="the header of the card does not end"):
        export(parse(*options, str(tmp_path / "card.md")))
    assert not (tmp_path / "out").exists()


def test_a_program_is_compared_with_the_encoder_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--encoder", SPEC, "--out", str(tmp_path / "out"), "--format", "onnx"]
    export(parse(*options, "--pooling", "grid2", "--frame-size", "40x48"))
    shown = capsys.readouterr()
    assert re.fullmatch(
        r"largest difference from the encoder: \d\.\de-\d\d \(relative \d\.\de-\d\d, at most 1e-04\)\n"
        r"one frame on one thread: \d+\.\d ms by the encoder, \d+\.\d ms by the written program\n",
        shown.err,
    )
    assert shown.out == ""
    stated = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (stated["frame_size"], stated["pooling"], stated["output"]["shape"]) == ([40, 48], "grid2", ["batch", 512])


@pytest.mark.parametrize("text", ["0", "96x", "x96", "96x0", "big", "9.5", "-96"])
def test_a_frame_size_that_is_none_is_a_user_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is no size in pixels; write 96, or HEIGHTxWIDTH such as 96x128"):
        export(ExportCommand(SPEC, tmp_path / "out", "onnx", frame_size=text))


def test_nothing_to_export_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder in"):
        export(parse("--encoder", str(tmp_path / "absent"), "--out", str(tmp_path / "out")))
