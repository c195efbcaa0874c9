from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.policy_folders import find_policies, load_policies, name_policies
from rsp_robot.policies import policy as policies


def test_policies_go_by_the_name_of_their_folder(toy_policies: ModuleType) -> None:
    assert name_policies(["runs/a", "b/policy/", "c=runs/a", "d=x,y/policy"]) == {
        "a": (Path("runs/a"),),
        "b": (Path("b/policy"),),
        "c": (Path("runs/a"),),
        "d": (Path("x"), Path("y/policy")),
    }
    for folder in ("lr=3", "a,b"):
        Path(folder).mkdir()
        assert name_policies([folder]) == {folder: (Path(folder),)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/a", "old/a"], "two policies are called 'a'; give one another name: other=old/a"),
        (["x,y"], "'x,y' is one policy in several folders; give it a name: name=x,y"),
        (["a=x,,y"], r"'a=x,,y' is not \[NAME=\]FOLDER"),
        (["=x"], "'=x' is not"),
        (["a="], "'a=' is not"),
    ],
)
def test_words_that_name_no_policy_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        name_policies(words)


def test_folders_say_what_they_were_trained_on(toy_policies: ModuleType) -> None:
    toy_policies.save(Path("both"), 1.0, "toy/reach", "toy/leave")
    toy_policies.save(Path("reach"), 1.0, "toy/reach")
    toy_policies.save(Path("run/policy"), 1.0, "toy/leave")
    toy_policies.save(Path("silent"), 1.0)
    found = find_policies(["both", "parts=reach,run", "silent"])
    assert found["both"].tasks == {"toy/reach": Path("both"), "toy/leave": Path("both")}
    assert found["parts"].tasks == {"toy/reach": Path("reach"), "toy/leave": Path("run")}
    assert found["silent"].tasks == {} and found["silent"].folder("toy/leave") == Path("silent")
    with pytest.raises(UserError, match="reach and both were both trained on toy/reach; give one of them another name"):
        find_policies(["p=reach,both"])
    with pytest.raises(UserError, match="silent does not say what it was trained on"):
        find_policies(["p=reach,silent"])
    with pytest.raises(UserError, match="nowhere holds no policy"):
        find_policies(["nowhere"])


def test_each_task_gets_its_folder_and_its_number(toy_policies: ModuleType) -> None:
    toy_policies.save(Path("both"), 0.5, "toy/reach", "toy/leave")
    toy_policies.save(Path("other"), 2.0, "toy/crash")
    named = find_policies(["p=both,other"])
    loaded = load_policies(named, ["toy/leave", "toy/crash", "toy/hang-once"])["p"]
    assert [(player.gain, player.task) for player in loaded.values()] == [(0.5, 1), (2.0, 0), (0.5, 0)]


def test_equal_encoders_are_in_memory_once(toy_policies: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    class Looking:
        def __init__(self, eyes: object) -> None:
            self.eyes = eyes

    def load(folder: Path, encoder: object = None, **options: object) -> Looking:
        given.append(encoder)
        return Looking(encoder or torch.nn.Identity())

    monkeypatch.setattr("rsp_robot.experiments.evaluation.policy_folders.load_policy", load)
    for number, fingerprint in enumerate(["aa", "aa", "bb"]):
        config = {"kind": "toy", "tasks": ["toy/reach"], "encoder": {"fingerprint": fingerprint}}
        policies.save_policy_folder(Path(f"p{number}"), config, {"gain": torch.tensor(1.0)})
    moved = []
    monkeypatch.setattr(torch.nn.Identity, "to", lambda self, device: moved.append(device) or self)
    loaded = load_policies(find_policies(["p0", "p1", "p2"]), ["toy/reach"], device="cuda:1")
    assert set(moved) == {"cuda:1"}
    assert [encoder is None for encoder in given] == [True, False, True]
    assert loaded["p0"]["toy/reach"].eyes is loaded["p1"]["toy/reach"].eyes
