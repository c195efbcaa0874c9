"""What holds for every head."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from rsp_robot.errors import UserError
from rsp_robot.policies.heads import HEADS, Features, Head, HeadEntry, HeadShape, MLPConfig, MLPHead, find_head
from rsp_robot.policies.heads.layers import drawn_from, masked_mean

SMALL = {
    "gmm": {"hidden": (16,)},
    "gru": {"hidden": 16, "window": 4},
    "chunking": {"width": 16, "chunk": 4},
    "flow": {"width": 16, "chunk": 4, "execute": 2},
}
TOKENS = (5, 6)


def make(name: str, seed: int = 0, tokens: bool = False, **settings) -> Head:
    entry = HEADS[name]
    config = entry.preset or entry.config(**SMALL.get(name, {}))
    config = dataclasses.replace(config, **settings)
    shape = HeadShape(3, 2, TOKENS if tokens else None)
    return entry.head(config, shape, generator=torch.Generator().manual_seed(seed))


def draw(head: Head, rows: int = 6) -> tuple[Features, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    T, H = head.observation_steps, head.action_steps
    tokens = torch.randn(rows, T, *head.shape.tokens, generator=generator) if head.shape.tokens else None
    features = Features(torch.randn(rows, T, head.shape.vector, generator=generator), tokens)
    mask = torch.ones(rows, H, dtype=torch.bool)
    mask[0, 1:] = False
    return features, torch.randn(rows, H, head.shape.actions, generator=generator), mask


def run_episode(head: Head, seed: int, steps: int = 7) -> torch.Tensor:
    generator, memory, actions = torch.Generator().manual_seed(seed), None, []
    observed = torch.randn(steps, 1, 1, head.shape.vector, generator=torch.Generator().manual_seed(3))
    tokens = torch.ones(1, 1, *head.shape.tokens) if head.shape.tokens else None
    for vector in observed:
        action, memory = head.act(Features(vector, tokens), memory, generator)
        assert action.shape == (1, head.shape.actions) and action.dtype == torch.float32
        assert not action.requires_grad
        actions.append(action)
    return torch.cat(actions)


BOTH = [
    (name, tokens)
    for name, entry in HEADS.items()
    for tokens in ([False, True] if entry.head.reads_tokens else [False])
]


@pytest.mark.parametrize(("name", "tokens"), BOTH)
def test_the_generator_alone_decides_the_weights(name: str, tokens: bool) -> None:
    torch.manual_seed(1)
    first = make(name, tokens=tokens).state_dict()
    before = torch.get_rng_state()
    second = make(name, tokens=tokens).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = make(name, seed=1, tokens=tokens).state_dict()
    # Norms start at one and zero, attention biases at zero, whatever the seed.
    drawn = [key for key in first if first[key].unique().numel() > 1]
    assert drawn and all(not torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize(("name", "tokens"), BOTH)
def test_the_same_seed_gives_the_same_bits(name: str, tokens: bool) -> None:
    head = make(name, tokens=tokens, last_layer_scale=1.0)
    features, actions, mask = draw(head)
    before = torch.get_rng_state()
    first, second = (head.loss(features, actions, mask, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["loss"].requires_grad and first["loss"].ndim == 0
    assert not any(value.requires_grad for key, value in first.items() if key != "loss"), "metrics hold no graph"
    head.eval()
    assert torch.equal(run_episode(head, 1), run_episode(head, 1))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"


@pytest.mark.parametrize(("name", "tokens"), BOTH)
def test_validation_sees_the_loss_of_training(name: str, tokens: bool) -> None:
    head = make(name, tokens=tokens, last_layer_scale=1.0)
    features, actions, mask = draw(head)
    training = head.train().loss(features, actions, mask, torch.Generator().manual_seed(5))
    with torch.no_grad():
        validation = head.eval().loss(features, actions, mask, torch.Generator().manual_seed(5))
    assert training.keys() == validation.keys()
    assert all(torch.allclose(training[key], validation[key], atol=1e-5) for key in training)


@pytest.mark.parametrize("name", HEADS)
def test_actions_after_the_end_do_not_count(name: str) -> None:
    head = make(name, last_layer_scale=0.0 if name == "flow" else 1.0)  # a flow sees them as context
    features, actions, mask = draw(head)
    if head.action_steps == 1:
        mask[0] = False
    loss = head.loss(features, actions, mask, torch.Generator().manual_seed(5))["loss"]
    changed = torch.where(mask[..., None], actions, torch.tensor(9.0))
    assert torch.equal(head.loss(features, changed, mask, torch.Generator().manual_seed(5))["loss"], loss)
    valid = torch.where(mask[..., None], torch.tensor(9.0), actions)
    assert head.loss(features, valid, mask, torch.Generator().manual_seed(5))["loss"] > loss


@pytest.mark.parametrize("name", [name for name in HEADS if name != "gmm"])
def test_training_starts_near_the_zero_action(name: str) -> None:
    head = make(name)
    linear = [module for module in head.modules() if isinstance(module, torch.nn.Linear)]
    last = min(linear, key=lambda layer: layer.weight.abs().max())
    assert last.out_features == 2 and last.weight.abs().max() <= 0.01 / last.in_features**0.5


@pytest.mark.parametrize("name", ["mlp", "gmm", "gru"])
def test_heads_of_a_vector_refuse_patch_tokens(name: str) -> None:
    with pytest.raises(UserError, match="reads a vector, not 5 patch tokens; choose pooling attentive, or a head"):
        make(name, tokens=True)


def test_a_head_needs_something_to_look_at() -> None:
    with pytest.raises(UserError, match="nothing to look at"):
        MLPHead(MLPConfig(), HeadShape(0, 2), generator=torch.Generator())


@pytest.mark.parametrize("name", ["chunking", "flow"])
def test_patch_tokens_alone_are_enough(name: str) -> None:
    entry = HEADS[name]
    head = entry.head(entry.config(**SMALL[name]), HeadShape(0, 2, TOKENS), generator=torch.Generator())
    features, actions, mask = draw(head)
    assert head.loss(features, actions, mask, torch.Generator())["loss"].isfinite()
    assert run_episode(head.eval(), 0).shape == (7, 2)


def test_heads_are_found_by_name() -> None:
    assert find_head("mlp") == HeadEntry(MLPConfig, MLPHead)
    assert find_head("mlp-cortexbench").preset == MLPConfig((256, 256, 256), "relu")
    assert find_head("mlp-r3m").preset == MLPConfig((256, 256), "tanh")
    with pytest.raises(UserError, match="unknown head 'gru2'; did you mean gru"):
        find_head("gru2")


def test_other_packages_add_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "necks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: necks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rsp_robot.heads]\nneck = necks_of_test:NECK\nmlp = necks_of_test:NECK\n")
    monkeypatch.syspath_prepend(info.parent)
    module = type(sys)("necks_of_test")
    module.NECK = HeadEntry(MLPConfig, MLPHead, preset=MLPConfig(hidden=()))
    monkeypatch.setitem(sys.modules, "necks_of_test", module)
    assert find_head("neck") is module.NECK
    assert find_head("mlp") is HEADS["mlp"], "they do not replace ours"
    with pytest.raises(UserError, match="unknown head 'nek'; did you mean neck"):
        find_head("nek")


@pytest.mark.parametrize("name", HEADS)
def test_every_setting_has_a_default_and_a_docstring(name: str) -> None:
    config = HEADS[name].config
    config()
    source = Path(sys.modules[config.__module__].__file__).read_text().splitlines()
    for field in dataclasses.fields(config):
        line = next(i for i, text in enumerate(source) if text.startswith(f"    {field.name}: "))
        assert source[line + 1].lstrip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {"hidden": (8, 0)}, "hidden width must be at least 1, not 0"),
        ("mlp", {"activation": "rel"}, "unknown activation 'rel'; did you mean relu"),
        ("gmm", {"modes": 0}, "modes must be at least 1"),
        ("gmm", {"min_std": 0.0}, "min_std positive"),
        ("gru", {"window": 0}, "must be at least 1"),
        ("chunking", {"width": 130}, "width 130 must be even and divisible by the 4 attention heads"),
        ("chunking", {"execute": 11}, "execute is 11, but a chunk has 10 actions"),
        ("chunking", {"kl_weight": -1.0}, "not negative"),
        ("flow", {"execute": 0}, "execute from 1 to chunk"),
        ("flow", {"integration_steps": 0}, "integration_steps must be at least 1, not 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HEADS[name].config(**settings)
    assert "\n" not in str(error.value)


def test_masked_mean_counts_valid_steps_only() -> None:
    values = torch.tensor([[[1.0, 3.0], [50.0, 50.0]], [[4.0, 4.0], [0.0, 0.0]]])
    assert masked_mean(values, torch.tensor([[True, False], [True, True]])).item() == 2.0  # of 2, 4 and 0
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0


def test_weights_go_on_from_where_the_generator_stands() -> None:
    generator = torch.Generator().manual_seed(0)
    with drawn_from(generator):
        first = torch.rand(3)
    second = torch.rand(3, generator=generator)
    together = torch.rand(6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([first, second]), together)
