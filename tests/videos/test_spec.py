from __future__ import annotations

from pathlib import Path

import pytest

from rsp_robot.errors import UserError
from rsp_robot.videos.spec import Part, parse_spec, resolved


def test_one_place() -> None:
    assert parse_spec("data/push.hdf5") == (Part(Path("data/push.hdf5"), None),)
    assert parse_spec(Path("data")) == (Part(Path("data"), None),)


def test_several_places_without_weights() -> None:
    assert parse_spec("a, b/c,d,") == (Part(Path("a"), None), Part(Path("b/c"), None), Part(Path("d"), None))


def test_weights_become_shares() -> None:
    assert parse_spec("a=3,b=1") == (Part(Path("a"), 0.75), Part(Path("b"), 0.25))
    assert parse_spec("a=0.5") == (Part(Path("a"), 1.0),)


def test_paths_that_exist_win_over_the_notation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take=2,left").mkdir()
    Path("lr=3").mkdir()
    assert parse_spec("take=2,left") == (Part(Path("take=2,left"), None),)
    assert parse_spec("lr=3,b") == (Part(Path("lr=3"), None), Part(Path("b"), None))
    assert parse_spec("lr=3=2,b=2") == (Part(Path("lr=3"), 0.5), Part(Path("b"), 0.5))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("a=x,b=1", "'a=x' has the weight 'x'; give a positive number, for example a=0.5"),
        ("a=0,b=1", "'a=0' has the weight '0'; give a positive number"),
        ("a=-1", "'a=-1' has the weight '-1'"),
        ("a=inf", "'a=inf' has the weight 'inf'"),
        ("a=nan", "'a=nan' has the weight 'nan'"),
        ("a=1,b", "b has no weight and others have; write b=WEIGHT, or no weight at all"),
        (",", "',' names nothing; give a file or a folder"),
    ],
)
def test_mistakes_are_told(spec: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse_spec(spec)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_same_places_are_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved("a=2,b=2") == resolved(f"{tmp_path}/a=0.5,./b=0.5") == f"{tmp_path}/a=0.5,{tmp_path}/b=0.5"
    assert resolved("a") == str(tmp_path / "a") != resolved("b")
