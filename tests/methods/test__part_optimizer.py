"""Matrices of one kind are stepped together, to what each alone would have become, and in parts that fit a cache."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from palimpsest.optim import GaLore
from palimpsest.optim import _part_optimizer as parts
from palimpsest.optim._split_optimizer import Member


def member(place: int, shape: tuple[int, int], steps: int | None = None, chosen: int | None = None) -> Member:
    state = {} if steps is None else {"step": torch.tensor(float(steps))}
    if chosen is not None:
        state["chosen"] = torch.zeros(chosen, shape[1])
    return Member(place, torch.zeros(shape), torch.zeros(shape), state)


def places(members: list[Member]) -> list[list[int]]:
    return [[own.place for own in batch] for batch in parts.batches(members)]


def test_together_are_those_of_one_shape_one_split_and_one_age() -> None:
    alike = [member(0, (4, 3), 2, 1), member(1, (3, 4), 2, 1), member(2, (4, 3), 2, 1)]
    others = [member(3, (4, 3), 3, 1), member(4, (4, 3), 2, 2), member(5, (4, 3))]
    assert places([*alike, *others]) == [[0, 2], [1], [3], [4], [5]]


def test_as_many_at_once_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [member(place, (4, 3)) for place in range(5)]
    monkeypatch.setitem(parts.AT_ONCE, "cpu", 24)
    assert places(members) == [[0, 1], [2, 3], [4]]
    monkeypatch.setitem(parts.AT_ONCE, "cpu", 1)  # a larger matrix goes alone
    assert places(members) == [[0], [1], [2], [3], [4]]


def trained(at_once: int, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Five matrices of two shapes after five steps, over a new choice of subspaces."""
    monkeypatch.setitem(parts.AT_ONCE, "cpu", at_once)
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4), (6, 4), (4, 6)]
    weights = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]
    optimizer = GaLore([{"params": weights, "project": True}], lr=0.01, rank=2, update_gap=3)
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_a_step_together_is_the_step_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.testing.assert_close(trained(2**20, monkeypatch), trained(1, monkeypatch), rtol=1e-10, atol=1e-12)


def test_matrices_too_small_for_the_rank_are_told_of_or_refused() -> None:
    large, small = (
        ("0.attn.weight", nn.Parameter(torch.randn(6, 5))),
        ("1.attn.weight", nn.Parameter(torch.randn(6, 2))),
    )
    with pytest.warns(
        UserWarning, match=r"GaLore takes full steps, with full state, for matrices such as 1\.attn\.weight"
    ):
        groups = GaLore([large, small], lr=0.01, rank=2).param_groups
    assert {group["project"]: group["param_names"] for group in groups} == {
        True: ["0.attn.weight"],
        False: ["1.attn.weight"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaLore([large], lr=0.01, rank=2)
    with pytest.raises(ValueError, match=r"GaLore finds no matrix to split: .* and sides above the rank 2"):
        GaLore([small], lr=0.01, rank=2)
    with pytest.raises(ValueError, match=r"too small for the rank 3; lower the rank, or move it to a group with"):
        GaLore([{"params": [small[1]], "project": True}], lr=0.01, rank=3)


def test_the_warning_names_the_line_that_made_the_optimizer() -> None:
    """However many constructors lie between, and for a group that is added later."""

    class Own(GaLore):
        def __init__(self, params: object, rank: int) -> None:
            super().__init__(params, rank=rank)  # type: ignore[arg-type]  # the line that calls into Palimpsest

    named = [("0.attn.weight", nn.Parameter(torch.randn(6, 5))), ("1.attn.weight", nn.Parameter(torch.randn(6, 2)))]
    more = [("2.attn.weight", nn.Parameter(torch.randn(6, 5))), ("3.attn.weight", nn.Parameter(torch.randn(6, 2)))]
    with pytest.warns(UserWarning, match="takes full steps") as told:
        optimizer = GaLore(named, rank=2)
        optimizer.add_param_group({"params": more})
        Own(named, 2)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert [warning.filename for warning in told] == [__file__] * 3
    assert [lines[warning.lineno - 1].strip().partition("#")[0].strip() for warning in told] == [
        "optimizer = GaLore(named, rank=2)",
        'optimizer.add_param_group({"params": more})',
        "super().__init__(params, rank=rank)",
    ]
