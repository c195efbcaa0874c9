from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsp_robot.envs.registry import list_tasks
from rsp_robot.experiments.cli import main
from rsp_robot.experiments.verbs import tasks as module


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_all_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    text = said(capsys)
    assert all(task in text for task in list_tasks())


def test_a_single_task_is_described_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "metaworld/push-v3"]) == 0
    text = said(capsys)
    assert "corner2 (default)" in text and "hand x (m)" in text and "500 steps at 80 per second" in text
    assert "gripper effort (close +)" in text and "MIT" in text and "it may be met" in text


def test_a_suite_that_is_not_installed_is_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    assert main(["tasks", "metaworld/window-*"]) == 0
    assert "metaworld/window-close-v3 (not installed)" in said(capsys)


def test_unknown_tasks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "metaworld/psh-v3"]) == 2
    assert "metaworld/push-v3" in capsys.readouterr().err


def test_the_sheet_shows_every_task(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    command = ["tasks", "metaworld/window-*", "metaworld/push-v3", "--sheet", str(path)]
    assert main([*command, "--size", "48", "--columns", "2", "--quality", "lean", "--workers", "1"]) == 0
    sheet = np.asarray(Image.open(path).convert("RGB"))
    assert sheet.shape == (2 * (48 + 14), 2 * 48, 3)
    pictures = [sheet[top : top + 48, left : left + 48] for top in (0, 62) for left in (0, 48)]
    assert all(picture.std() > 20 for picture in pictures[:3]) and (pictures[3] == 255).all()
    assert len({picture.tobytes() for picture in pictures}) == 4
