from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs.collect import CollectConfig
from rsp_robot.envs.registry import list_tasks
from rsp_robot.errors import UserError
from rsp_robot.experiments.cli import main, read_options
from rsp_robot.experiments.verbs.collect import CollectCommand, is_pattern, matching_tasks

FEW = ["--episodes", "1", "--camera", "close", "--image-size", "16", "--workers", "1"]


def test_tasks_are_found_by_name_and_by_pattern() -> None:
    assert matching_tasks(("metaworld/push-v3",)) == ["metaworld/push-v3"]
    window = ["metaworld/window-close-v3", "metaworld/window-open-v3"]
    assert matching_tasks(("metaworld/window-*", "metaworld/window-open-v3")) == window
    assert matching_tasks(("*",)) == list_tasks()
    assert is_pattern("metaworld/*") and is_pattern("a?") and not is_pattern("metaworld/push-v3")


def test_unknown_tasks_have_their_nearest_names() -> None:
    with pytest.raises(UserError, match="metaworld/push-v3"):
        matching_tasks(("metaworld/psh-v3",))
    with pytest.raises(UserError, match="no task is named; for example: rsp-robot collect"):
        matching_tasks(())


def test_the_words_of_the_command() -> None:
    command: CollectCommand = read_options(
        "collect", ["metaworld/*", "--episodes", "7", "--camera", "close", "corner2", "--out", "demos"]
    )
    assert isinstance(command.collection, CollectConfig)
    assert command.tasks == ("metaworld/*",) and command.collection.demonstrations == 7
    assert command.collection.cameras == ("close", "corner2") and command.collection.out == Path("demos")
    assert command.collection.horizon is None and not command.collection.keep_failures


def test_one_task_makes_a_file_and_several_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "metaworld/reach-v3", *FEW, "--out", str(tmp_path / "d.hdf5")]) == 0
    assert "1 demonstrations of metaworld/reach-v3, 0 more attempts failed" in capsys.readouterr().err
    assert main(["collect", "metaworld/reach-v?", "metaworld/push-v3", *FEW, "--out", str(tmp_path / "many")]) == 0
    names = [path.name for path in sorted((tmp_path / "many").iterdir())]
    assert names == ["metaworld-push-v3.hdf5", "metaworld-reach-v3.hdf5"]
    with DemonstrationFile(tmp_path / "d.hdf5") as one, DemonstrationFile(tmp_path / "many" / names[1]) as same:
        np.testing.assert_array_equal(one.read(0).states, same.read(0).states)
        assert one.info.horizon == 500, "the task's own"


def test_several_tasks_do_not_fit_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "metaworld/window-*", *FEW, "--out", str(tmp_path / "d.hdf5")]) == 2
    assert "d.hdf5 is one file and 2 tasks are asked for; give a folder" in capsys.readouterr().err


def test_failures_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "d.hdf5"
    command = ["collect", "metaworld/reach-v3", *FEW, "--horizon", "3", "--keep-failures", "--out", str(out)]
    assert main(command) == 0
    with DemonstrationFile(out) as file:
        assert file.read(0).first_success is None and file.lengths == (3,) and file.info.keep_failures
    assert main(command) == 0, "finished: nothing to do"
    assert main([word for word in command if word != "--keep-failures"]) == 2
