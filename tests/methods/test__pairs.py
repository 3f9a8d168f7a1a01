"""Pairs of a batch's rows by hand: which there are, what mining keeps, and the sums over them."""

from __future__ import annotations

import math

import pytest
import torch

from palimpsest.objectives._pairs import Pairs, log_one_plus_sum, log_sum, mined, pairs_of, weighted

LABELS = torch.tensor([0, 0, 1, 1])


def made() -> Pairs:
    """Cosines 0.8 and 0.6 within the classes; the rows 1 and 2 are the nearest of two classes, at 0.7."""
    similarity = torch.tensor([[1, 0.8, 0.1, 0.2], [0.8, 1, 0.7, 0.3], [0.1, 0.7, 1, 0.6], [0.2, 0.3, 0.6, 1]])
    return Pairs(
        similarity.double(), *(pairs_of(torch.eye(4), LABELS).positive, pairs_of(torch.eye(4), LABELS).negative)
    )


def test_no_row_is_paired_with_itself_and_every_other_pair_is_of_one_kind() -> None:
    found = pairs_of(torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-5.0, 0.0]]), LABELS)
    assert not found.positive.diagonal().any() and not found.negative.diagonal().any()
    assert torch.equal(found.positive ^ found.negative, ~torch.eye(4, dtype=torch.bool))
    assert found.positive.nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    half = math.sqrt(0.5)
    expected = torch.tensor([[1, 0, half, -1], [0, 1, half, 0], [half, half, 1, -half], [-1, 0, -half, 1]])
    torch.testing.assert_close(found.similarity, expected)  # lengths do not count


def test_rows_without_a_label_are_refused() -> None:
    with pytest.raises(ValueError, match="4 rows of features for 3 labels; give one label a row"):
        pairs_of(torch.eye(4), LABELS[:3])


def test_mining_keeps_what_is_hard_beside_the_other_kind() -> None:
    kept = mined(made(), 0.05)
    assert kept.positive.nonzero().tolist() == [[2, 3]]  # 0.6 < 0.7 + 0.05; 0.8 is easy, and for row 3, 0.6 > 0.35
    assert kept.negative.nonzero().tolist() == [[2, 1]]  # 0.7 > 0.6 - 0.05; for row 1, 0.7 < 0.8 - 0.05
    alone = mined(Pairs(torch.eye(2), torch.zeros(2, 2) > 0, torch.eye(2) < 1), 0.1)
    assert not alone.negative.any() and not alone.positive.any()  # no positive to compare with


def test_sums_over_the_kept_columns() -> None:
    exponent = torch.tensor([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0], [500.0, 1.0, 1.0]], dtype=torch.float64)
    kept = torch.tensor([[True, False, True], [False, False, False], [True, False, False]])
    one = log_one_plus_sum(exponent, kept)
    assert one.tolist() == pytest.approx([math.log(2 + math.e**2), 0.0, 500.0])
    assert log_sum(exponent, kept).tolist() == pytest.approx([math.log(1 + math.e**2), -math.inf, 500.0])


def test_weights_are_the_derivatives_and_get_none_themselves() -> None:
    pairs = made()
    similarity = pairs.similarity.clone().requires_grad_()
    weights = torch.rand(4, 4, dtype=torch.float64, requires_grad=True)
    weighted(Pairs(similarity, pairs.positive, pairs.negative), weights).sum().backward()
    sign = pairs.negative.double() - pairs.positive.double()
    torch.testing.assert_close(similarity.grad, sign * weights.detach())
    assert weights.grad is None
