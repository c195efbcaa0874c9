from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from rsp_robot.envs import describe
from rsp_robot.envs.registry import check_cameras
from rsp_robot.errors import UserError
from rsp_robot.experiments import protocols
from rsp_robot.experiments.cli import read_options
from rsp_robot.experiments.protocols import PROTOCOLS, Protocol, ProtocolTask, find_protocol, from_plain, read_header
from rsp_robot.experiments.suite.run import choose_protocol
from rsp_robot.experiments.suite.work import cameras_of, cloning_of

FILES = {path.stem.replace("_", "-") for path in Path(protocols.__file__).parent.glob("[a-z]*.py")}


def row(task: str = "adroit/pen", **changes: object) -> dict[str, object]:
    plain = {
        "task": task,
        "success_once": True,
        "success_at_end": False,
        "success_steps": 21,
        "return": 250.0,
        "error": None,
    }
    return plain | changes


def test_every_file_is_a_protocol() -> None:
    assert FILES - {"protocol"} == set(PROTOCOLS)


OURS = ("honest", "objectives", "tabletop")
"""Protocols that are nobody else's: there is no original to differ from."""


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_can_be_run(name: str, quick: bool) -> None:
    protocol = find_protocol(name, quick)
    assert (protocol.name, protocol.quick) == (name, quick)
    assert protocol.label == (f"{name} (quick)" if quick else name)
    for task in protocol.tasks:
        assert cameras_of(protocol, task.task) == check_cameras(describe(task.task), cameras_of(protocol, task.task))
        config = cloning_of(protocol, "random:vit-nano", task.task, 5000, 3, "cpu")
        assert config.steps % (config.checkpoint_every or 1) == 0
        assert (config.steps // config.checkpoint_every if config.checkpoint_every else 1) == protocol.evaluations
        assert config.proprio is (name != "cortexbench-dmc")
        assert protocol.score != "lasting" or task.lasting == {"adroit/pen": 20, "adroit/relocate": 25}[task.task]
    assert from_plain(protocol.plain()) == protocol


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_header_says_where_it_is_from_and_what_cannot_be_had(name: str) -> None:
    header = read_header(name)
    for heading in ("Source:", "Command:", "Hardware:", "Hours:", "Expected:"):
        assert re.search(rf"^{heading} +\S", header, re.MULTILINE), heading
    whole = find_protocol(name)
    assert bool(whole.differences) == ("Cannot be had" in header) == (name not in OURS)
    command = re.search(r"^Command: +(.+?)^(?:\w|\s+and once)", header, re.MULTILINE | re.DOTALL)
    assert command is not None
    words = shlex.split(command[1])
    assert words[:3] == ["rsp-robot", "suite", "run"]
    assert choose_protocol(read_options("suite", words[2:]).suite) == whole


def test_a_task_may_have_cameras_of_its_own_and_a_command_may_choose_others() -> None:
    protocol = find_protocol("tabletop")
    assert cameras_of(protocol, "metaworld/push-v3") == ("closer",)
    assert cameras_of(protocol, "metaworld/hammer-v3") == ("close",)
    assert cameras_of(protocol, "robosuite/Stack") == ("agentview",)
    assert cameras_of(find_protocol("cortexbench-dmc"), "dmc/walker-walk") == (
        describe("dmc/walker-walk").default_camera,
    )
    words = ["run", "tabletop", "--tasks", "metaworld/push-v3", "metaworld/hammer-v3", "--cameras", "corner2"]
    other = choose_protocol(read_options("suite", words).suite)
    assert {cameras_of(other, task.task) for task in other.tasks} == {("corner2",)}
    with pytest.raises(UserError, match="unknown camera of robosuite/Lift 'corner2'"):
        choose_protocol(read_options("suite", ["run", "tabletop", "--cameras", "corner2"]).suite)


def test_a_command_may_choose_pooling_history_and_how_many_demonstrations() -> None:
    words = ["run", "tabletop", "--pooling", "mean", "--history", "3", "--demonstrations", "10"]
    other = choose_protocol(read_options("suite", words).suite)
    assert other == replace(find_protocol("tabletop"), pooling="mean", history=3, demonstrations=10)
    with pytest.raises(UserError, match="leave one of them out"):
        choose_protocol(read_options("suite", [*words, "--data", "data"]).suite)
    with pytest.raises(UserError, match="lacks tasks, seeds, demonstrations or episodes"):
        choose_protocol(read_options("suite", [*words[:-1], "0"]).suite)


def test_the_published_numbers_of_cortexbench() -> None:
    """What its configuration files say, and RSP's seeds."""
    for name, demonstrations, episodes in (
        ("cortexbench-metaworld", 25, 25),
        ("cortexbench-dmc", 100, 10),
        ("cortexbench-adroit", 100, 25),
    ):
        protocol = find_protocol(name)
        assert (protocol.demonstrations, protocol.episodes) == (demonstrations, episodes)
        assert (protocol.history, protocol.fusion, protocol.head) == (3, "difference", "mlp-cortexbench")
        assert (protocol.lr, protocol.weight_decay, protocol.schedule) == (1e-3, 0.0, "constant")
        assert (protocol.batch_size, protocol.epochs, protocol.evaluate_every) == (256, 100, 5)
        assert (protocol.evaluations, protocol.headline, len(protocol.seeds)) == (20, "maximum", 5)
        assert protocol.normalise_actions == "none" and protocol.action_noise == 0
    assert find_protocol("cortexbench-dmc").seeds == (12345, 23451, 34512, 45123, 51234)
    assert find_protocol("cortexbench-adroit").seeds == (1, 2, 3, 4, 5)
    assert {task.horizon for task in find_protocol("cortexbench-metaworld").tasks} == {500}


def test_the_published_numbers_of_the_kitchen() -> None:
    kitchen = find_protocol("franka-kitchen")
    assert (kitchen.demonstrations, kitchen.episodes, len(kitchen.seeds), kitchen.evaluations) == (25, 50, 4, 20)
    assert (kitchen.steps, kitchen.batch_size, kitchen.head, kitchen.history) == (20_000, 32, "mlp-r3m", 1)


def test_honest_declares_its_checkpoint() -> None:
    honest = find_protocol("honest")
    assert (honest.headline, honest.evaluate_every, honest.evaluations) == ("last", 0, 1)


@pytest.mark.parametrize(
    ("score", "changes", "expected"),
    [
        ("once", {}, 1.0),
        ("once", {"success_once": False}, 0.0),
        ("end", {}, 0.0),
        ("end", {"success_at_end": True}, 1.0),
        ("lasting", {}, 1.0),
        ("lasting", {"success_steps": 20}, 0.0),
        ("lasting", {"task": "adroit/relocate"}, 0.0),
        ("return", {}, 0.25),
        ("return", {"return": 1001.0}, 1.0),
        ("return", {"return": -3.0}, 0.0),
        ("end", {"error": "the scene fell over"}, None),
    ],
)
def test_an_episode_is_scored_by_the_protocols_own_definition(
    score: str, changes: dict[str, object], expected: float | None
) -> None:
    protocol = replace(find_protocol("cortexbench-adroit"), score=score)
    assert protocol.score_of(row(**changes)) == expected
    assert protocol.stop_on_success == (score == "once")


def test_a_pass_over_the_demonstrations_counts_its_last_batch() -> None:
    protocol = find_protocol("cortexbench-metaworld")
    assert (protocol.epoch(256), protocol.epoch(257)) == (1, 2)
    assert (protocol.optimiser_steps(12_500), protocol.checkpoint_every(12_500)) == (4900, 245)


def test_some_tasks_and_seeds_of_a_protocol() -> None:
    whole = find_protocol("cortexbench-metaworld")
    some = whole.narrowed(("metaworld/hammer-v3",), 2)
    assert ([task.task for task in some.tasks], some.seeds) == (["metaworld/hammer-v3"], whole.seeds[:2])
    assert whole.narrowed(seeds=7).seeds == (*whole.seeds, 51235, 51236)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tasks": ("metaworld/hamer-v3",)},
            "unknown task of cortexbench-metaworld .*did you mean metaworld/hammer-v3",
        ),
        ({"tasks": ("metaworld/hammer-v3",) * 2}, "named twice"),
        ({"seeds": 0}, "--seeds 0 trains nothing"),
    ],
)
def test_what_a_protocol_does_not_have_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_protocol("cortexbench-metaworld").narrowed(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 10}, "either epochs or steps"),
        ({"evaluate_every": 30}, "does not end with the last checkpoint"),
        ({"evaluate_every": 0}, "no schedule to take a maximum over"),
        ({"tasks": ()}, "lacks tasks"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(find_protocol("cortexbench-metaworld"), **change)


def test_a_protocol_of_ones_own_is_a_dataclass() -> None:
    protocol = Protocol("mine", (ProtocolTask("toy/reach"),), (), 64, 10, 5, (0,), "once", "last", steps=10)
    assert protocol.evaluations == 1


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown protocol 'franka-kitchn'; did you mean franka-kitchen"):
        find_protocol("franka-kitchn")
