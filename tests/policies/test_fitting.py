from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.policies.bc_config import BCConfig
from rsp_robot.policies.bc_data import BCData
from rsp_robot.policies.fitting import VALID_ROWS, fit, learning_rate, make_optimiser, validation_loss
from rsp_robot.policies.heads import HEADS, ChunkingConfig, FlowConfig, GRUConfig, MLPConfig
from rsp_robot.policies.network import NetworkShape, PolicyNetwork
from rsp_robot.run_folder import RunFolder

LINEAR = MLPConfig(hidden=())
SMALL = {
    "chunking": ChunkingConfig(width=16, heads=2),
    "flow": FlowConfig(width=16, heads=2),
    "gru": GRUConfig(hidden=32),
}


def toy_data(rows: int = 40, valid: int = 40) -> BCData:
    """One long episode for training and one for validation; the action is the first two features."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(rows + valid, 3, generator=generator)
    number = torch.arange(rows + valid)
    inside = number < rows
    return BCData(
        vectors=vectors,
        actions=vectors[:, :2].clamp(-1, 1),
        first=torch.where(inside, 0, rows),
        last=torch.where(inside, rows - 1, rows + valid - 1),
        task=torch.zeros_like(number),
        train=number[inside],
        valid=number[~inside],
    )


def make(config: BCConfig) -> PolicyNetwork:
    entry, settings = config.head_settings()
    generator = torch.Generator().manual_seed(config.seed)
    return PolicyNetwork(NetworkShape(actions=2, proprio=3), entry, settings, generator=generator)


def train(config: BCConfig, data: BCData | None = None, **options):
    network = make(config)
    kept = fit(network, data or toy_data(), config, torch.Generator().manual_seed(config.seed + 100), **options)
    return network, kept


def test_cosine_schedule_by_hand():
    config = BCConfig(steps=4, lr=0.8)
    assert [learning_rate(config, step) for step in (0, 2)] == pytest.approx([0.8, 0.4])
    assert learning_rate(config, 4) == pytest.approx(0)
    assert learning_rate(replace(config, schedule="constant"), 3) == 0.8


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_in_this_loop(head, tmp_path):
    run = RunFolder.open(tmp_path, {})
    network, kept = train(BCConfig(head=head, steps=60, batch_size=32, log_every=20, lr=3e-3, **SMALL), run=run)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [20, 40, 60] and kept == "last of 60 steps"
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert not network.training


@pytest.mark.parametrize("head", ["mlp", "gmm", "gru", "chunking", "flow"])
def test_the_same_seed_gives_the_same_bits(head):
    config = BCConfig(head=head, steps=5, batch_size=8, log_every=2, **SMALL)
    states = []
    for noise, threads in ((0, 1), (99, 2)):
        torch.manual_seed(noise)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        states.append(train(config)[0].state_dict())
        torch.set_num_threads(before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = train(replace(config, seed=1))[0].state_dict()
    assert not all(torch.equal(states[0][name], other[name]) for name in other)


def test_moving_average_follows_by_hand():
    config = BCConfig(steps=3, batch_size=8, mlp=LINEAR, lr=0.1, schedule="constant", ema=0.5, seed=4)
    plain = replace(config, ema=0.0)
    states = [train(replace(plain, steps=steps))[0].head.layers[0].weight.detach() for steps in (1, 2, 3)]
    average = make(config).head.layers[0].weight.detach().clone()
    for step, state in enumerate(states):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state
    network, _ = train(config)
    assert torch.allclose(network.head.layers[0].weight, average, atol=1e-6)
    assert torch.equal(network.norm.running_mean, train(plain)[0].norm.running_mean)


def test_looking_at_validation_and_checkpoints_does_not_change_the_course():
    config = BCConfig(steps=12, batch_size=8, log_every=12, ema=0.9, head="flow")
    seen = []
    quiet, _ = train(config)
    watched, _ = train(replace(config, log_every=1, checkpoint_every=5), checkpoint=seen.append)
    assert seen == [5, 10]
    assert all(torch.equal(value, watched.state_dict()[name]) for name, value in quiet.state_dict().items())


def test_a_checkpoint_has_the_weights_that_would_be_kept():
    config = BCConfig(steps=10, batch_size=8, ema=0.8, schedule="constant", checkpoint_every=6)
    seen = []
    network = make(config)
    generator = torch.Generator().manual_seed(config.seed + 100)
    fit(
        network,
        toy_data(),
        config,
        generator,
        checkpoint=lambda step: seen.append(network.head.layers[0].weight.clone()),
    )
    stopped, _ = train(replace(config, steps=6))
    assert torch.equal(seen[0], stopped.head.layers[0].weight)


def test_the_lowest_validation_loss_is_kept_and_says_so(tmp_path):
    data = toy_data(rows=12)
    wrong = data.actions.clone()
    wrong[data.train] = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))  # only noise to learn
    data = replace(data, actions=wrong)
    config = BCConfig(steps=60, batch_size=8, lr=1e-2, schedule="constant", log_every=5, keep="valid")
    run = RunFolder.open(tmp_path, {})
    network, kept = train(config, data, run=run)
    best = min(run.metrics(), key=lambda row: row["valid_loss"])
    assert best["step"] < 60 and kept == f"lowest validation loss, at step {best['step']} of 60"
    assert validation_loss(network.train(), data, config.seed) == pytest.approx(best["valid_loss"])
    last, kept = train(replace(config, keep="last"), data)
    assert kept == "last of 60 steps"
    assert validation_loss(last, data, config.seed) > best["valid_loss"]


def test_validation_is_of_evenly_spread_rows():
    data = toy_data(valid=2 * VALID_ROWS)
    network = make(BCConfig())
    odd = data.vectors.clone()
    odd[data.valid[1::2]] = 1e6
    assert validation_loss(network, replace(data, vectors=odd), 0) == validation_loss(network, data, 0)
    assert network.training


def test_what_the_head_draws_in_validation_is_the_same_every_time():
    config = BCConfig(head="flow", **SMALL)
    network, data = make(config), toy_data()
    before = torch.get_rng_state()
    assert validation_loss(network, data, 3) == validation_loss(network, data, 3) != validation_loss(network, data, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_matrices_decay_and_a_fine_tuned_encoder_learns_slowly(encoder):
    encoder.weight.requires_grad_(True)
    config = BCConfig(finetune=True, finetune_factor=0.1, weight_decay=0.5)
    entry, settings = config.head_settings()
    shape = NetworkShape(actions=2, proprio=1, cameras=1, embedding=(6,))
    network = PolicyNetwork(shape, entry, settings, encoder, generator=torch.Generator())
    groups = make_optimiser(network, config).param_groups
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] == 0.5) for parameter in group["params"])
    factors = {id(parameter): group["factor"] for group in groups for parameter in group["params"]}
    assert factors.pop(id(encoder.weight)) == 0.1 and set(factors.values()) == {1.0}
    assert len(factors) == len(list(network.parameters())) - 1
    encoder.weight.requires_grad_(False)
    assert sum(len(group["params"]) for group in make_optimiser(network, config).param_groups) == len(factors)


def test_divergence_is_named():
    data = replace(toy_data(), actions=torch.full((80, 2), float("nan")))
    with pytest.raises(UserError, match=r"diverged at step 5; lower lr \(now 0\.001\)"):
        train(BCConfig(steps=5, log_every=5), data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch_size": 1}, {"ema": 1.0}, {"lr": 0.0}, {"history": 0}, {"checkpoint_every": -1},
        {"finetune_factor": 0.0},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="correct the settings"):
        BCConfig(**wrong)


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown head 'gnm'; did you mean gmm"):
        BCConfig(head="gnm")


def test_of_the_groups_only_those_that_are_used_are_recorded():
    settings = BCConfig(head="gmm").relevant(scratch=False)
    assert settings["head_settings"]["modes"] == 5
    assert not {"mlp", "gmm", "flow", "scratch"} & set(settings)
    assert BCConfig(head="mlp-r3m").relevant(scratch=True)["head_settings"]["activation"] == "tanh"
    assert BCConfig().relevant(scratch=True)["scratch"]["dim"] == 128
