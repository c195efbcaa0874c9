from __future__ import annotations

import pytest

from rsp_robot.errors import UserError
from rsp_robot.experiments.evaluation.roles import Pictures, cast_roles, choose_tasks, known_tasks
from rsp_robot.experiments.evaluation.simulation_worker import Scene

ASKED = Pictures()


class Learned:
    """A policy that says what it was trained on."""

    def __init__(self, *tasks: str, task: int | None = None, cameras: tuple[str, ...] = ()) -> None:
        self.tasks, self.cameras = tasks, cameras
        if task is not None:
            self.task = task


def test_what_policies_say_they_know():
    assert known_tasks(object()) == ()
    assert known_tasks(Learned("a", "b")) == ("a", "b")
    assert known_tasks(Learned("a", "b", task=1)) == ("b",)
    assert known_tasks(Learned("", task=0)) == ()
    assert known_tasks({"a": object(), "b": object()}) == ("a", "b")


def test_tasks_are_those_asked_for_or_those_that_all_know():
    known = {"p": ("a", "b"), "q": ("b", "a"), "silent": ()}
    assert choose_tasks(known, ()) == ("a", "b")
    assert choose_tasks(known, ("b",)) == ("b",)
    with pytest.raises(UserError, match="'p' was trained on a, b, 'r' on b; name the tasks to play with --task"):
        choose_tasks(known | {"r": ("b",)}, ())
    with pytest.raises(UserError, match="no policy says"):
        choose_tasks({"silent": ()}, ())


def test_a_policy_plays_what_it_knows_only(toy_suite):
    reach, leave = "toy/reach", "toy/leave"
    for policy, task in [
        (Learned(reach, task=0), leave),
        (Learned(leave, reach, task=1), leave),
        ({reach: object()}, leave),
        ({leave: Learned(reach, task=0)}, leave),
    ]:
        if isinstance(policy, dict) and reach in policy:
            policy[reach] = Learned(cameras=())
        with pytest.raises(UserError, match="policy 'p' was trained on toy/reach, not on toy/leave; name tasks that"):
            cast_roles({"p": policy}, [task], ASKED)
        with pytest.warns(UserWarning, match="not on toy/leave"):
            roles = cast_roles({"p": policy}, [task], ASKED, allow_mismatch=True)
        assert roles["p", task].scene == Scene(leave)


def test_tasks_that_policies_know_need_not_be_named(toy_suite):
    roles = cast_roles({"p": Learned("toy/leave", "toy/reach"), "q": Learned()}, (), ASKED)
    assert list(roles) == [("p", "toy/leave"), ("p", "toy/reach"), ("q", "toy/leave"), ("q", "toy/reach")]


def test_films_of_a_blind_policy_look_like_those_of_the_others(toy_suite):
    seeing = Learned("toy/reach", cameras=("side",))
    seeing.image_size, seeing.quality = 96, "full"
    roles = cast_roles({"blind": Learned(), "see": seeing}, (), ASKED)
    assert roles["see", "toy/reach"].scene == Scene("toy/reach", ("side",), 96, "full")
    assert roles["blind", "toy/reach"].scene == Scene("toy/reach", (), 96, "full")
    assert roles["blind", "toy/reach"].record["quality"] is None
