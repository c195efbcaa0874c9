from __future__ import annotations

import torch

from rsp_robot.policies.heads import Features


def run(head, vector: torch.Tensor) -> torch.Tensor:
    """Act through one episode ``(T, F)``; return ``(T, A)``."""
    memory, actions = None, []
    for row in vector:
        action, memory = head.act(Features(row[None, None]), memory, torch.Generator())
        actions.append(action)
    return torch.cat(actions)


def cues(rows: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first observation shows a sign, all others are zero; every action is that sign."""
    sign = torch.tensor([-1.0, 1.0]).repeat(rows // 2)
    vector = torch.zeros(rows, steps, 1)
    vector[:, 0, 0] = sign
    return vector, sign[:, None, None].expand(-1, steps, -1).clone()


def test_it_remembers_a_cue_that_the_perceptron_cannot(make_head, fit) -> None:
    vector, actions = cues(32, 6)
    gru = make_head("gru", hidden=16, window=6, horizon=6)
    assert fit(gru, vector, actions)["loss"] < 1e-2
    assert torch.allclose(run(gru, vector[0]), actions[0], atol=0.2)
    assert torch.allclose(run(gru, vector[1]), actions[1], atol=0.2)
    mlp = make_head("mlp", hidden=(16,))
    fit(mlp, vector.reshape(-1, 1, 1), actions.reshape(-1, 1, 1))
    assert run(mlp, vector[1])[1:].abs().max() < 0.3, "it answers with the mean"


def test_acting_step_by_step_equals_the_window_at_once(make_head) -> None:
    head = make_head("gru", 3, 2, hidden=16, layers=2, window=5, horizon=5, last_layer_scale=1.0).eval()
    vector = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    whole, _ = head(vector[None])
    assert torch.allclose(run(head, vector), whole[0], atol=1e-6)
    assert whole.std() > 0.01


def test_the_state_starts_anew_after_the_horizon(make_head) -> None:
    settings = {"hidden": 16, "window": 5, "last_layer_scale": 1.0}
    vector = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    head = make_head("gru", 3, 2, horizon=5, **settings)
    actions = run(head, vector)
    assert torch.allclose(actions[5:], head(vector[None, 5:])[0][0], atol=1e-6)
    endless = run(make_head("gru", 3, 2, horizon=0, **settings), vector)
    assert torch.equal(endless[:5], actions[:5]) and not torch.allclose(endless[5:], actions[5:], atol=1e-4)


def test_a_training_sample_is_a_window(make_head) -> None:
    head = make_head("gru", window=7)
    assert head.observation_steps == head.action_steps == 7
