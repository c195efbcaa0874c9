from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest

from rsp_robot.demonstrations import DemonstrationFile
from rsp_robot.envs.collect import CollectConfig, collect
from rsp_robot.envs.replay import Replay, ReplayConfig, Replayed, largest_difference, replay, summary
from rsp_robot.errors import UserError
from rsp_robot.experiments.cli import main


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CollectConfig(
        "metaworld/reach-v3",
        tmp_path_factory.mktemp("replay") / "d.hdf5",
        demonstrations=2,
        cameras=("close",),
        image_size=16,
    )
    return collect(config, quiet=True)


@pytest.fixture
def changed(recorded: Path, tmp_path: Path) -> Callable[[str, np.ndarray], Path]:
    """A copy of the file in which one array of the second demonstration is another."""

    def change(name: str, value: np.ndarray) -> Path:
        (tmp_path / "d.hdf5").write_bytes(recorded.read_bytes())
        with h5py.File(tmp_path / "d.hdf5", "a") as file:
            del file[f"data/demo_1/{name}"]
            file[f"data/demo_1/{name}"] = value
        return tmp_path / "d.hdf5"

    return change


def test_demonstrations_replay_bit_for_bit_and_one_is_filmed(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = replay(ReplayConfig(recorded), quiet=True)
    assert [(row.number, row.drift) for row in found.rows] == [(0, 0.0), (1, 0.0)]
    assert all(row.found == row.recorded is not None for row in found.rows)
    assert found.same and not found.other_versions
    assert found.film == Path("d-replay.mp4") and [path.name for path in recorded.parent.iterdir()] == ["d.hdf5"]
    with DemonstrationFile(recorded) as file, av.open(str(found.film)) as film:
        assert sum(1 for _ in film.decode(video=0)) == file.lengths[0] + 1


def test_other_actions_are_noticed(recorded: Path, changed: Callable[[str, np.ndarray], Path]) -> None:
    with DemonstrationFile(recorded) as file:
        still = np.zeros_like(file.read(1).actions)
    path = changed("actions", still)
    found = replay(ReplayConfig(path, film=False), quiet=True)
    assert [row.same for row in found.rows] == [True, False] and found.rows[1].drift > 0
    assert not found.same and found.film is None
    assert main(["replay", "--data", str(path), "--no-film"]) == 1


def test_only_the_first_ones(recorded: Path, changed: Callable[[str, np.ndarray], Path]) -> None:
    with DemonstrationFile(recorded) as file:
        path = changed("actions", np.zeros_like(file.read(1).actions))
    assert replay(ReplayConfig(path, demonstrations=1, film=False), quiet=True).same


def test_a_file_without_states_is_refused(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "d.hdf5").write_bytes(recorded.read_bytes())
    with h5py.File(tmp_path / "d.hdf5", "a") as file:
        del file["data/demo_0/states"]
    with pytest.raises(UserError, match=r"d.hdf5 holds no simulator states to start from; collect it with"):
        replay(ReplayConfig(tmp_path / "d.hdf5"), quiet=True)


def test_differences_of_states() -> None:
    one = np.array([1.0, np.nan, -2.0])
    assert largest_difference(one, one) == 0.0
    assert largest_difference(one, np.array([1.0, np.nan, -2.5])) == 0.5
    assert largest_difference(one, np.array([1.0, 3.0, -2.0])) == np.inf


def test_what_is_said() -> None:
    same, other = Replayed(0, 31, 31, 0.0), Replayed(1, 40, None, 0.25)
    lines = summary(Replay((same, other), None, ("mujoco 3.2.0 -> 3.3.0",)))
    assert lines == [
        "1 of 2 demonstrations end as recorded, 1 of them bit for bit",
        "demonstration 1: recorded success at step 40, replayed no success, states differ by up to 0.25",
        "simulators differ from the recording's: mujoco 3.2.0 -> 3.3.0",
    ]
    assert replace_drift(same).same and summary(Replay((replace_drift(same),), None, ()))[0].endswith(
        "0 of them bit for bit"
    )


def replace_drift(row: Replayed) -> Replayed:
    return row._replace(drift=1e-9)
