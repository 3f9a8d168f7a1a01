"""Exact shares of several pools: counts, order, repetition, batches, tokens."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.mix import mixed, whole_shares
from palimpsest.roles import Roles

OLD = [{"id": f"old{i}", "inputs": [float(i)], "label": 0} for i in range(300)]
NEW = [{"id": f"new{i}", "inputs": [float(i)], "label": 1} for i in range(500)]
POOLS = {"old": OLD, "new": NEW}


def stream(x: float, rows: int = 500, **options: int) -> list[dict]:
    return mixed(POOLS, {"old": x, "new": 1 - x}, rows=rows, **options)


def of(rows: list[dict], role: str) -> list[str]:
    return [row["id"] for row in rows if row["id"].startswith(role)]


@pytest.mark.parametrize("x", [0.0, 0.003, 0.01, 0.05, 0.25, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("rows", [1, 7, 100, 499])
def test_the_share_is_exact_to_within_a_row_and_the_total_does_not_depend_on_it(x: float, rows: int) -> None:
    found = stream(x, rows)
    assert len(found) == rows and abs(len(of(found, "old")) - x * rows) < 1


def test_three_shares_by_hand() -> None:
    assert whole_shares(10, {"a": 0.25, "b": 0.25, "c": 0.5}) == {"a": 3, "b": 2, "c": 5}
    assert whole_shares(1000, {"a": 0.1, "b": 0.7, "c": 0.2}) == {"a": 100, "b": 700, "c": 200}


def test_a_share_of_nothing_leaves_the_other_role_as_it_was() -> None:
    """The same rows in the same order, and so the same batches of the same role with the same seed."""
    assert stream(0.0) == NEW
    adapter = Classifier(2)
    plain, mix = Roles(adapter, {"stream": NEW}), Roles(adapter, {"stream": stream(0.0)})
    for step in range(70):
        (one,), (other,) = (roles.window(step, 8, seed=4) for roles in (plain, mix))
        assert all(torch.equal(one["stream"][k], other["stream"][k]) for k in one["stream"])


def test_nothing_repeats_before_its_pool_is_used_up() -> None:
    assert len(set(of(stream(0.5), "old"))) == 250
    found = of(stream(0.5, 1500), "old")  # 750 of 300 rows
    taken = Counter(row_id.partition("#")[0] for row_id in found)
    assert len(found) == len(set(found)) == 750 and set(taken.values()) == {2, 3} and len(taken) == 300
    assert {row_id.partition("#")[2] for row_id in found} == {"", "2", "3"}


def test_the_seed_says_which_rows_and_a_larger_share_holds_those_of_a_smaller_one() -> None:
    assert stream(0.1, seed=1) == stream(0.1, seed=1) != stream(0.1, seed=2)
    assert set(of(stream(0.01), "old")) < set(of(stream(0.05), "old")) < set(of(stream(0.25), "old"))


def test_batches_are_hypergeometric_and_a_round_is_exact() -> None:
    """Draws without replacement vary less than independent ones: by (n - B) / (n - 1)."""
    rows, size, x = 40, 20, 0.25
    roles = Roles(Classifier(2), {"stream": stream(x, rows)})
    old = torch.tensor([row["label"] == 0 for row in roles.rows["stream"]])
    order = torch.tensor([[roles.position("stream", p, seed)[0] for p in range(rows)] for seed in range(1500)])
    counts = old[order].view(-1, 2, size).sum(2).double()  # [seeds, batches of a round]
    assert bool((counts.sum(1) == x * rows).all())
    assert float(counts[:, 0].mean()) == pytest.approx(size * x, abs=0.15)
    binomial = size * x * (1 - x)
    assert float(counts[:, 0].var()) == pytest.approx(binomial * (rows - size) / (rows - 1), rel=0.15)
    assert float(counts[:, 0].var()) < 0.65 * binomial


def test_shares_in_tokens_where_rows_differ_in_length() -> None:
    old = [{"id": f"old{i}", "n": 50 + i % 7} for i in range(300)]
    new = [{"id": f"new{i}", "n": 5 + i % 3} for i in range(5000)]
    found = mixed({"old": old, "new": new}, {"old": 0.2, "new": 0.8}, tokens=20_000, count=lambda row: row["n"])
    spent = Counter()
    for row in found:
        spent[row["id"][:3]] += row["n"]
    assert abs(spent["old"] - 4000) <= 28 and abs(spent["new"] - 16_000) <= 4
    assert len(of(found, "old")) / len(found) < 0.04  # in rows it is another share altogether


def test_the_total_of_tokens_does_not_depend_on_the_shares() -> None:
    """Replay that costs nothing extra: what the old role gets, the new one gives."""
    old = [{"id": f"old{i}", "n": 50 + i % 7} for i in range(400)]
    new = [{"id": f"new{i}", "n": 5 + i % 3} for i in range(5000)]
    for x in (0.0, 0.01, 0.05, 0.25, 0.5):
        found = mixed({"old": old, "new": new}, {"old": x, "new": 1 - x}, tokens=20_000, count=lambda row: row["n"])
        assert abs(sum(row["n"] for row in found) - 20_000) <= (56 + 7) / 2


def test_a_share_drawn_once_or_afresh_for_every_epoch() -> None:
    """Oracles 3 and 4 of the stability gap: one seed is one draw, and a seed an epoch is a draw of its own."""

    def domain(epoch: int) -> list[str]:
        return of(stream(0.18, 200, seed=epoch), "new")

    draws = [domain(epoch) for epoch in range(4)]
    assert draws == [domain(epoch) for epoch in range(4)] and domain(0) == draws[0]
    assert all(len(set(own)) == 164 and set(own) <= {row["id"] for row in NEW} for own in draws)
    assert all(len(set(one) & set(other)) < 80 for one, other in itertools.pairwise(draws)), "54 of 164 in common"
    fixed, epochs = stream(0.18, 200, seed=0), 3
    roles = Roles(Classifier(2), {"stream": fixed})
    handed = Counter(roles.position("stream", place, seed=7)[0] for place in range(epochs * len(fixed)))
    assert set(handed.values()) == {epochs} and len(handed) == 200


@pytest.mark.parametrize(
    ("shares", "options", "message"),
    [
        ({"old": 1.0}, {"rows": 5}, r"at least two roles"),
        ({"old": 0.5, "new": 0.6}, {"rows": 5}, r"sum to 1\.1; let them sum to 1"),
        ({"old": -0.5, "new": 1.5}, {"rows": 5}, r"share of 'old' lies in \[0, 1\]"),
        ({"old": True, "new": 0.0}, {"rows": 5}, r"share of 'old' .* not True"),
        ({"old": 0.5, "new": 0.5}, {}, r"rows or of tokens"),
        ({"old": 0.5, "new": 0.5}, {"rows": 5, "tokens": 5}, r"one of the two"),
        ({"old": 0.5, "new": 0.5}, {"tokens": 5}, r"needs count"),
        ({"old": 0.5, "new": 0.5}, {"tokens": 5, "count": lambda row: 0}, r"without tokens"),
    ],
)
def test_bad_mixes_are_refused(shares: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(POOLS, shares, **options)


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'old' has no rows"):
        mixed({"old": [], "new": NEW}, {"old": 0.5, "new": 0.5}, rows=4)
