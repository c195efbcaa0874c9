from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.policies import policy as module
from rsp_robot.policies.policy import (
    check_simulators,
    load_policy,
    policy_fingerprint,
    read_policy_folder,
    save_policy_folder,
)  # fmt: skip

ENCODER = {"fingerprint": "e1", "source": "x"}
CONFIG = {"kind": "echo", "cameras": ["front"], "image_size": 64, "encoder": ENCODER, "head": {}}


def save(folder, **changes):
    return save_policy_folder(folder, CONFIG | changes, {"a": torch.arange(3.0), "b": torch.ones(2, 2)})


def test_written_and_read_back(tmp_path):
    save(tmp_path / "run" / "policy")
    for folder in (tmp_path / "run", tmp_path / "run" / "policy"):
        path, config, tensors = read_policy_folder(folder)
        assert path == tmp_path / "run" / "policy"
        assert config["kind"] == "echo" and config["cameras"] == ["front"]
        assert torch.equal(tensors["a"], torch.arange(3.0)) and set(tensors) == {"a", "b"}
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["policy"]


def test_fingerprint_is_of_what_acts(tmp_path):
    tensors = {"a": torch.ones(2)}
    base = policy_fingerprint(CONFIG, tensors)
    assert base == policy_fingerprint({**CONFIG, "training": 1, "encoder": ENCODER | {"source": "y"}}, tensors)
    assert base != policy_fingerprint(CONFIG, {"a": torch.tensor([1.0, 1.0000001])})
    assert base != policy_fingerprint(CONFIG, {"b": torch.ones(2)})
    assert base != policy_fingerprint({**CONFIG, "encoder": {"fingerprint": "e2"}}, tensors)
    assert base != policy_fingerprint({**CONFIG, "image_size": 32}, tensors)
    assert base != policy_fingerprint({**CONFIG, "network": {"history": 2}}, tensors)
    assert base != policy_fingerprint({**CONFIG, "eyes": {"kind": "frozen", "pooling": "mean"}}, tensors)
    assert policy_fingerprint({**CONFIG, "encoder": None}, tensors)


def test_a_failing_write_leaves_the_old_policy(tmp_path):
    save(tmp_path / "policy")
    with pytest.raises(TypeError):
        save(tmp_path / "policy", head=object())
    assert read_policy_folder(tmp_path / "policy")[1]["head"] == {}
    assert [file.name for file in tmp_path.iterdir()] == ["policy"]


def test_the_loader_of_the_kind_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "echo", lambda *parts, **named: (*parts, named), raising=False)
    monkeypatch.setitem(module.KINDS, "echo", "rsp_robot.policies.policy:echo")
    folder = save(tmp_path / "policy")
    path, config, tensors, encoder, named = load_policy(folder, "an encoder", task="toy/reach", allow_mismatch=True)
    assert (path, config["kind"], sorted(tensors), encoder) == (folder, "echo", ["a", "b"], "an encoder")
    assert named == {"task": "toy/reach", "allow_mismatch": True}


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no policy"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").write_text('{"arch": "vit"}'), "does not describe a policy"),
        (
            lambda f: edit(f, lambda config: config.update(format=9)),
            "policy format 9, this version reads 2; train",
        ),
        (lambda f: edit(f, lambda config: config.update(format=1)), "policy format 1, this version reads 2"),
        (lambda f: edit(f, lambda config: config.update(cameras=["side"])), "do not belong together"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"123"), "cannot be read"),
    ],
)
def test_damaged_folders_give_one_line(tmp_path, damage, message):
    folder = save(tmp_path / "policy")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


def test_unknown_kind(tmp_path):
    with pytest.raises(UserError, match="unknown kind of policy 'behavior_cloning'; did you mean behaviour_cloning"):
        load_policy(save(tmp_path / "policy", kind="behavior_cloning"))


def test_other_simulator_versions_are_refused(tmp_path):
    check_simulators(tmp_path, {"mujoco": "3.3.0"}, {"mujoco": "3.3.0", "robosuite": "1.5.2"})
    with pytest.raises(UserError, match=r"from mujoco 3\.3\.0, but 3\.3\.7 is installed; install mujoco==3\.3\.0"):
        check_simulators(tmp_path, {"mujoco": "3.3.0"}, {"mujoco": "3.3.7"})
    with pytest.warns(UserWarning, match=r"from mujoco 3\.3\.0, but 3\.3\.7 is installed$"):
        check_simulators(tmp_path, {"mujoco": "3.3.0"}, {"mujoco": "3.3.7"}, allow_mismatch=True)
    with pytest.raises(UserError, match="but none is installed"):
        check_simulators(tmp_path, {"metaworld": "3.1.1"}, {})


def test_package_names_without_importing_torch():
    code = (
        "import sys, rsp_robot.policies, rsp_robot.policies.policy; assert 'torch' not in sys.modules; "
        "assert rsp_robot.policies.BCConfig().seed == 0 and callable(rsp_robot.policies.load_policy)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
