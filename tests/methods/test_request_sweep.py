"""Requests that grow and requests that follow one another: which rows they hold, and which model they start from."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from palimpsest.procedures.request_sweep import (
    check_disjoint,
    check_nested,
    disjoint_folds,
    first_reaching,
    nested_folds,
    scalability,
    sustainability,
)

ROWS = [{"id": f"article-{i}", "text": "…"} for i in range(10)]


def ids(fold):
    return {row["id"] for row in fold}


@given(st.integers(1, 40), st.integers(1, 40))
def test_disjoint_folds_share_nothing_and_lose_nothing(rows, folds):
    data = [{"id": str(i)} for i in range(rows)]
    if folds > rows:
        with pytest.raises(ValueError, match=f"{rows} rows cannot make {folds} requests"):
            disjoint_folds(data, folds)
        return
    found = disjoint_folds(data, folds)
    assert [row for fold in found for row in fold] == data
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_nested_folds_hold_one_another():
    found = nested_folds(ROWS, 4)
    assert [len(fold) for fold in found] == [2, 5, 7, 10]
    for smaller, larger in pairwise(found):
        assert ids(smaller) < ids(larger)


def test_a_row_in_two_requests_is_refused():
    with pytest.raises(ValueError, match="'article-3' stands in request 1 and in request 2"):
        check_disjoint([ROWS[:4], ROWS[3:6]])
    with pytest.raises(ValueError, match="'article-0' stands twice in request 1"):
        check_disjoint([[ROWS[0], ROWS[0]]])


def test_a_request_that_loses_a_row_or_does_not_grow_is_refused():
    with pytest.raises(ValueError, match="Request 2 lacks the row 'article-0'"):
        check_nested([ROWS[:3], ROWS[1:6]])
    with pytest.raises(ValueError, match="Request 2 is no larger"):
        check_nested([ROWS[:3], ROWS[:3]])


def test_rows_without_an_id_are_told_apart_by_their_content():
    with pytest.raises(ValueError, match="in request 1 and in request 2"):
        check_disjoint([[{"text": "same"}], [{"text": "same"}]])
    check_disjoint([[{"text": "one"}], [{"text": "other"}]])


@pytest.mark.parametrize(
    ("curve", "target", "place"),
    [
        ((60, 50, 32, 20), 33, 2),  # the card's curve: the third checkpoint
        ((60, 50, 33, 20), 33, 2),  # at the target counts as reached
        ((60, 50, 40), 33, 2),  # never reached: the last
        ((10, 60, 5), 33, 0),  # the first, not the lowest
    ],
)
def test_the_first_checkpoint_that_reaches_the_target(curve, target, place):
    assert first_reaching(curve, target) == place


def test_no_checkpoint_is_refused():
    with pytest.raises(ValueError, match="no checkpoint"):
        first_reaching((), 33)


class Counter(nn.Module):
    """Its weight is the number of rows unlearned from it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def unlearn(model, rows):
    with torch.no_grad():
        model.weight += len(rows)
    return model


def test_growing_requests_start_from_the_target_and_successive_ones_from_one_another():
    model = Counter()
    folds = disjoint_folds(ROWS, 2)

    def audit(m):
        return m.weight.item()

    assert scalability(model, nested_folds(ROWS, 2), unlearn, audit) == [5.0, 10.0]
    assert sustainability(model, folds, unlearn, audit) == [5.0, 10.0]
    assert sustainability(model, [folds[1], folds[0][:1]], unlearn, audit) == [5.0, 6.0]
    assert scalability(model, [folds[0][:1], folds[0]], unlearn, audit) == [1.0, 5.0]
    assert model.weight.item() == 0.0, "the target model was changed"


def test_folds_are_checked_before_anything_is_trained():
    def never(model, rows):
        raise AssertionError("trained before the folds were checked")

    with pytest.raises(ValueError, match="growing requests are nested"):
        scalability(Counter(), disjoint_folds(ROWS, 2), never, float)
    with pytest.raises(ValueError, match="share no row"):
        sustainability(Counter(), nested_folds(ROWS, 2), never, float)
