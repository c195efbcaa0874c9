from __future__ import annotations

import math

import pytest
import torch

from rsp_robot.pretrain.monitors import correlation, feature_health, health, rank_me


def cross(*radii: float) -> torch.Tensor:
    """Points at ± each radius on an axis of its own: zero mean, singular values √2 · radius."""
    axes = torch.diag(torch.tensor(radii))
    return torch.cat([axes, -axes])


@pytest.mark.parametrize("dimensions", [1, 2, 7])
def test_equal_spread_along_n_axes_has_rank_n(dimensions: int) -> None:
    assert rank_me(cross(*[2.5] * dimensions)) == pytest.approx(dimensions, rel=1e-4)


def test_unequal_spread_counts_by_entropy() -> None:
    # Shares 3/4 and 1/4 of the singular values: exp(0.5623) = 1.755.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rank_me(cross(3.0, 1.0)) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_rank_knows_no_scale_rotation_or_offset() -> None:
    features = cross(3.0, 1.0, 2.0)
    rank = rank_me(features)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    assert rank_me(100 * features) == pytest.approx(rank, rel=1e-4)
    assert rank_me(features @ rotation) == pytest.approx(rank, rel=1e-4)
    assert rank_me(features + torch.tensor([50.0, -20.0, 5.0])) == pytest.approx(rank, rel=1e-3)


def test_collapsed_features_have_rank_one_and_no_nan() -> None:
    line = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert rank_me(line) == pytest.approx(1.0, abs=1e-3)
    assert rank_me(torch.ones(10, 4)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_have_no_rank(bad: float) -> None:
    features = cross(1.0, 1.0)
    features[1, 0] = bad
    assert math.isnan(rank_me(features))


def test_half_precision_is_measured_in_single() -> None:
    assert rank_me(cross(1.0, 1.0, 1.0).bfloat16()) == pytest.approx(3.0, rel=1e-4)


def test_embeddings_and_patches_are_measured_apart() -> None:
    """Embeddings on a line; patches along two axes, of which a half is the same for the whole batch."""
    embedded, patches = torch.zeros(4, 5), torch.zeros(4, 2, 5)
    embedded[:, 0] = torch.tensor([1.0, -1.0, 2.0, -2.0])
    patches[:, 0, 1] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    patches[:, 1, 2] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    found = feature_health(embedded, patches)
    assert set(found) == {"rank", "rank_patches", "feature_std", "feature_covariance"}
    assert found["rank"] == pytest.approx(1.0, abs=1e-3)
    assert found["rank_patches"] == pytest.approx(2.0, rel=1e-3)
    assert found["feature_std"] == pytest.approx(math.sqrt(10 / 3) / 5), "unbiased, mean over five numbers"
    assert found["feature_covariance"] == 0.0


def test_numbers_that_say_the_same_are_correlated_at_any_scale() -> None:
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    others = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert correlation(torch.stack([signs, -100 * signs + 7], dim=1)) == pytest.approx(1.0, abs=1e-4)
    assert correlation(torch.stack([signs, others], dim=1)) == pytest.approx(0.0, abs=1e-6)
    # Of six ordered pairs of different numbers two say the same.
    assert correlation(torch.stack([signs, signs, others], dim=1)) == pytest.approx(1 / 3, abs=1e-4)
    assert correlation(torch.stack([signs, torch.ones(4)], dim=1)) == 0.0


def test_many_patches_are_sampled_from_every_place_and_alike_at_every_call() -> None:
    """16384 patches on a 32 x 32 raster: even columns vary along one axis, odd ones along another."""
    patches = torch.zeros(16, 1024, 2)
    signs = torch.tensor([1.0, -1.0]).repeat(8)[:, None]
    patches[:, 0::2, 0], patches[:, 1::2, 1] = signs, signs
    found = feature_health(torch.rand(16, 2), patches)["rank_patches"]
    assert found == pytest.approx(2.0, rel=1e-2)  # a regular stride would see one kind of column only
    assert feature_health(torch.rand(16, 2), patches)["rank_patches"] == found


def test_embeddings_that_have_shrunk_to_dust_are_said_whatever_their_rank() -> None:
    rows = healthy_rows(24)
    for number, row in enumerate(rows):
        row["feature_std"] = 0.9 if number < 11 else 0.004
    (said,) = health(rows)
    assert said.startswith("standard deviation of the embeddings below 2% of its first value since step 600: ")
    rows[-1]["feature_std"] = 0.1
    assert health(rows) == []


def healthy_rows(count: int = 24, **changes: float) -> list[dict[str, float]]:
    """A run that goes well, a row every 50 steps."""
    well = {"rank": 30.0, "codes_used": 8.0, "kl": 2.0, "loss_future": 0.5, "prior_gap": 0.05, "skipped_steps": 0}
    return [{"step": 50 * (i + 1), **well, **changes} for i in range(count)]


def test_a_run_that_goes_well_is_told_nothing() -> None:
    assert health(healthy_rows()) == []
    assert health([]) == []
    assert health([{"step": 0, "probe_proprio": 0.4}]) == []


def test_collapsed_embeddings_are_said_since_when() -> None:
    rows = healthy_rows()
    for row in rows[-3:]:
        row["rank"] = 1.4
    (said,) = health(rows)
    assert said.startswith("RankMe of the embeddings below 2 since step 1100: ")
    assert "lower the learning rate" in said
    rows[-1]["rank"] = 1.9
    assert health(rows) == [said]  # said once, a caller finds the same line again
    rows[-1]["rank"] = 2.1
    assert health(rows) == []


def test_a_latent_of_one_code_is_said() -> None:
    rows = healthy_rows()
    rows[-1]["codes_used"] = 1.0
    (said,) = health(rows)
    assert said.startswith("one code of the latent used since step 1200: ")
    rows[-1]["codes_used"] = 1.1
    assert health(rows) == []


def test_a_kl_at_its_floor_for_a_quarter_of_the_rows_is_said() -> None:
    rows = healthy_rows(24)
    for row in rows[-6:]:
        row["kl"] = 0.1
    (said,) = health(rows, free_bits=0.1)
    assert said.startswith("KL at its floor of 0.1 nats since step 950: the latent is unused; ")
    assert "widen the gap range" in said
    assert health(rows, free_bits=0.05) == []
    rows[-6]["kl"] = 0.3
    assert health(rows, free_bits=0.1) == []


def test_a_kl_that_hovers_at_its_floor_counts() -> None:
    """What a small run that never used its latent logged: on both sides of the floor of 0.1."""
    rows = healthy_rows(24)
    for row, kl in zip(rows[-8:], [0.097, 0.102, 0.099, 0.083, 0.119, 0.09, 0.11, 0.1], strict=True):
        row["kl"] = kl
    assert "since step 850" in health(rows, 0.1)[0]


def test_a_prior_as_good_as_the_posterior_is_said_with_the_floor_only() -> None:
    (said,) = health(healthy_rows(kl=0.05, prior_gap=0.0004), 0.1)
    assert "since step 50, and the prior predicts as well as the posterior: " in said
    assert "prior" not in health(healthy_rows(kl=0.05, prior_gap=0.02), 0.1)[0]
    assert health(healthy_rows(kl=2.0, prior_gap=0.0), 0.1) == []
    without = healthy_rows(kl=0.05)
    for row in without:
        del row["prior_gap"]
    assert "prior" not in health(without, 0.1)[0]


def test_a_short_run_is_not_judged_by_its_kl() -> None:
    assert health(healthy_rows(19, kl=0.05), 0.1) == []
    assert len(health(healthy_rows(20, kl=0.05), 0.1)) == 1


def test_the_warm_up_is_not_judged() -> None:
    rows = healthy_rows(24, kl=0.05, rank=1.0, codes_used=1.0)
    for i, row in enumerate(rows):
        row["lr"] = i / 24
    assert health(rows, 0.1) == []  # the rate still rises
    for i, row in enumerate(rows[4:]):
        row["lr"] = 0.1 - i / 1000
    rank, codes, kl = health([{"step": 0, "probe_proprio": 0.1}, *rows], 0.1)
    assert "since step 250: " in rank  # the rate was largest at step 200
    assert "since step 250: " in codes
    assert len(health(rows[:12], 0.1)) == 2  # eight rows after the warm-up
    assert kl == health(rows, 0.1)[2]


def test_no_free_bits_leave_a_kl_of_nothing() -> None:
    assert "floor of 0 nats" in health(healthy_rows(kl=1e-4), free_bits=0.0)[0]
    assert health(healthy_rows(kl=1e-4)) == health(healthy_rows(kl=1e-4), free_bits=0.0)
    assert health(healthy_rows(kl=0.05), free_bits=0.0) == []


def test_many_skipped_steps_are_said() -> None:
    rows = healthy_rows()  # steps 50 to 1200
    for row in rows[12:]:
        row["skipped_steps"] = 11
    assert health(rows) == []  # 11 of 1150 are less than one in a hundred
    rows[-1]["skipped_steps"] = 12
    (said,) = health(rows)
    assert said.startswith("more than 1% of the steps since step 50 skipped without a finite loss: ")


@pytest.mark.parametrize("key", ["rank", "codes_used", "kl"])
def test_numbers_that_are_none_are_no_collapse(key: str) -> None:
    assert health(healthy_rows(**{key: math.nan})) == []
