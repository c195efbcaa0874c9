"""Variance and covariance terms, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from rsp_robot.pretrain.vicreg import EPS, covariance_term, covariance_within, variance_term


def test_covariance_of_three_samples_by_hand() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]])  # means 3 and 4
    expected = torch.tensor([[4.0, 6.0], [6.0, 12.0]])  # (4 + 0 + 4) / 2, (4 + 0 + 8) / 2, (4 + 4 + 16) / 2
    torch.testing.assert_close(covariance_within(features[:, None]), expected)


def test_it_is_numpys_where_there_is_one_place() -> None:
    features = torch.randn(9, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(covariance_within(features), features[:, 0].T.cov())


def test_places_are_centred_apart_and_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 2, 3, 4, dtype=torch.float64, generator=generator)
    by_place = [features[:, t, n].T.cov() for t in range(2) for n in range(3)]
    torch.testing.assert_close(covariance_within(features), torch.stack(by_place).mean(dim=0))
    shifted = features + torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(covariance_within(shifted), covariance_within(features))


def test_features_that_tell_only_their_place_have_no_variance() -> None:
    positions = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0)).expand(5, -1, -1)
    covariance = covariance_within(positions)
    assert covariance.abs().max() < 1e-10
    assert variance_term(covariance).item() == pytest.approx(1 - EPS**0.5, abs=1e-4)


def test_variance_by_hand() -> None:
    covariance = torch.diag(torch.tensor([0.25, 4.0, 0.0], dtype=torch.float64))
    by_hand = ((1 - (0.25 + 1e-4) ** 0.5) + 0 + (1 - 0.01)) / 3
    assert variance_term(covariance).item() == pytest.approx(by_hand, rel=1e-9)
    assert variance_term(covariance, target=0.5).item() == pytest.approx((0 + 0 + 0.49) / 3, abs=1e-4)


def test_covariance_term_by_hand() -> None:
    covariance = torch.tensor([[9.0, 2.0, 0.0], [2.0, 1.0, -1.0], [0.0, -1.0, 5.0]])
    assert covariance_term(covariance).item() == pytest.approx((4 + 4 + 1 + 1) / 3)
    assert covariance_term(torch.diag(torch.tensor([3.0, 7.0]))).item() == 0


def test_constant_features_get_a_finite_gradient_and_alike_ones_a_push_apart() -> None:
    constant = torch.ones(4, 1, 2, requires_grad=True)
    variance_term(covariance_within(constant)).backward()
    assert constant.grad is not None and constant.grad.isfinite().all()
    alike = torch.tensor([[0.1, 0.0], [-0.1, 0.0]])[:, None].requires_grad_()
    variance_term(covariance_within(alike)).backward()
    assert alike.grad is not None and alike.grad[0, 0, 0] < 0 < alike.grad[1, 0, 0], "descent increases the spread"
