from __future__ import annotations

from rsp_robot.errors import Preempted, UserError, unknown_name


def test_unknown_name_offers_the_nearest_names() -> None:
    error = unknown_name("task", "metaworld/pusk-v3", ["metaworld/push-v3", "robosuite/lift"])
    assert isinstance(error, UserError)
    assert str(error) == "unknown task 'metaworld/pusk-v3'; did you mean metaworld/push-v3?"


def test_at_most_three_near_names_are_offered_the_nearest_first() -> None:
    message = str(
        unknown_name("arch", "vit-smal", ["vit-small", "vit-smaller", "vit-smal2", "vit-smalt", "vit-smalls"])
    )
    offered = message.removeprefix("unknown arch 'vit-smal'; did you mean ").removesuffix("?").split(" or ")
    assert len(offered) == 3
    assert set(offered) <= {"vit-small", "vit-smal2", "vit-smalt"}


def test_far_names_list_the_options_sorted_and_say_how_many_are_left_out() -> None:
    assert str(unknown_name("camera", "zzz", ("side", "front"))) == "unknown camera 'zzz'; choose one of: front, side"
    message = str(unknown_name("task", "zzz", (f"reach-{index:02d}" for index in range(11))))
    assert message.endswith("choose one of: " + ", ".join(f"reach-{index:02d}" for index in range(8)) + " and 3 more")
    assert "more" not in str(unknown_name("task", "zzz", [f"reach-{index}" for index in range(8)]))


def test_the_message_is_one_line() -> None:
    assert "\n" not in str(unknown_name("task", "two\nlines", ["push"]))


def test_a_preempted_run_is_no_mistake_of_the_user() -> None:
    assert not issubclass(Preempted, UserError) and not issubclass(UserError, Preempted)
    assert str(Preempted("stopped by SIGTERM, all saved")) == "stopped by SIGTERM, all saved"
