"""FRUGAL against the figures of its card: AdamW, signs, partition, first steps, memory, turns."""

import pytest
import torch
from projected_checks import matrices_of_one_shape_move_as_each_alone
from split_checks import (
    DOUBLE,
    SHAPES,
    a_vector_in_a_group_to_be_split_is_refused,
    gradients,
    memory_of_blocks,
    walk,
    weights,
)

from palimpsest.optim import FRUGAL, GaLore
from palimpsest.optim._splitter import SPLITS, Leading
from palimpsest.optim.frugal import free_direction

COORDINATES = ("columns", "rows", "entries")
split_by = pytest.mark.parametrize("splitter", ["blocks", *SPLITS])


def close(found, expected, tolerance=1e-9):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)


# 1. Everything has state: AdamW


@pytest.mark.parametrize("splitter", ["blocks", *COORDINATES])
def test_all_of_the_space_is_adamw(splitter):
    grads = gradients(7)
    theirs = weights()
    adamw = torch.optim.AdamW(theirs.values(), lr=0.02, weight_decay=0.1, eps=1e-8)
    for step in grads:
        for name, parameter in theirs.items():
            parameter.grad = step[name]
        adamw.step()
    found, _ = walk(FRUGAL, grads, splitter=splitter, density=1.0, update_gap=50, lr=0.02, weight_decay=0.1)
    close(found, {n: p.detach() for n, p in theirs.items()})


def test_what_is_not_split_is_adamw():
    ours, theirs = weights(), weights()
    optimizers = (
        FRUGAL([{"params": ours.items(), "project": False}], lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(theirs.values(), lr=0.02, weight_decay=0.1),
    )
    for step in gradients(6):
        for parameters, optimizer in zip((ours, theirs), optimizers):
            for name, parameter in parameters.items():
                parameter.grad = step[name]
            optimizer.step()
    close(ours, theirs)


def test_with_an_identity_as_basis_it_is_adamw(monkeypatch):
    identity = classmethod(lambda cls, g, size, _: cls(torch.eye(size, dtype=DOUBLE), g.shape))
    monkeypatch.setattr(Leading, "refresh", identity)
    grads = gradients(5)
    whole, _ = walk(FRUGAL, grads, splitter="columns", density=1.0, update_gap=50)
    found, _ = walk(FRUGAL, grads, splitter="svd", density=1.0, update_gap=50)
    close(found, whole)


# 2. Nothing has state: signs


@split_by
def test_none_of_the_space_is_the_sign(splitter):
    grads = gradients(4)
    found, state = walk(
        FRUGAL, grads, splitter=splitter, density=0.0, lr=0.02, weight_decay=0.1, outside_scale=0.5, update_gap=2
    )
    expected = {n: p.detach() for n, p in weights().items()}
    for step in grads:
        expected = {n: w * (1 - 0.02 * 0.1) - 0.02 * 0.5 * step[n].sign() for n, w in expected.items()}
    close(found, expected, 1e-12)
    moments = [v for s in state.values() for k, v in s.items() if k in ("exp_avg", "exp_avg_sq")]
    assert all(m.numel() == 0 for m in moments)


# 3. is tested with the splitter; 4. First steps


@pytest.mark.parametrize("splitter", ["blocks", *COORDINATES])
def test_every_entry_moves_by_the_rate_at_the_first_step_of_a_turn(splitter):
    grads = gradients(3)
    settings = {"splitter": splitter, "density": 0.5, "update_gap": 2, "lr": 0.01, "eps": 0.0}
    before, _ = walk(FRUGAL, grads[:2], **settings)
    for start, end in (
        (weights(), walk(FRUGAL, grads[:1], **settings)[0]),
        (before, walk(FRUGAL, grads, **settings)[0]),
    ):
        for name, value in end.items():
            moved = (value - start[name].detach()).abs()
            torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-9, atol=0)


# 5. Memory


@pytest.mark.parametrize("density", [0.25, 0.5])
def test_memory_of_columns(density):
    _, state = walk(FRUGAL, gradients(3), splitter="columns", density=density)
    for name, (rows, columns) in SHAPES.items():
        kept = int(density * columns)
        moments = [state[name][k] for k in ("exp_avg", "exp_avg_sq")]
        assert [tuple(m.shape) for m in moments] == [(rows, kept)] * 2
        assert set(state[name]) == {"chosen", "step", "exp_avg", "exp_avg_sq"} and len(state[name]["chosen"]) == kept


def test_memory_of_blocks():
    memory_of_blocks(FRUGAL)


# 6. Turns


@pytest.mark.parametrize("splitter", [*COORDINATES, "svd", "random"])
def test_choices_change_every_gap_and_the_state_starts_again(splitter):
    seen = []
    walk(FRUGAL, gradients(9), seen.append, splitter=splitter, density=0.5, update_gap=3)
    for step, states in enumerate(seen):
        assert all(int(s["step"]) == step % 3 + 1 for s in states.values())
        if step:
            same = [torch.equal(s["chosen"], seen[step - 1][n]["chosen"]) for n, s in states.items()]
            assert all(same) if step % 3 else not all(same)
    grads = gradients(9)
    split = SPLITS[splitter](seen[6]["a"]["chosen"], grads[6]["a"].shape)
    torch.testing.assert_close(seen[6]["a"]["exp_avg"], 0.1 * split.down(grads[6]["a"]))


@split_by
def test_the_state_stays_where_it_is_not_reset(splitter):
    seen = []
    walk(
        FRUGAL, gradients(9), seen.append, splitter=splitter, density=0.5, update_gap=3, reset=False, order="ascending"
    )
    steps = [int(seen[-1][n]["step"]) for n in SHAPES if seen[-1][n]]
    if splitter == "blocks":  # those that came back have started again
        assert steps == [3, 3] and not seen[-1]["c"]
    else:
        assert steps == [9] * 4


def test_a_block_that_stays_active_keeps_its_state_where_it_is_not_reset():
    _, state = walk(FRUGAL, gradients(9), density=1.0, update_gap=3, reset=False)
    assert {int(s["step"]) for s in state.values()} == {9}
    _, state = walk(FRUGAL, gradients(9), density=1.0, update_gap=3)
    assert {int(s["step"]) for s in state.values()} == {3}


# 7. As GaLore


@pytest.mark.parametrize("gap", [100, 3])
def test_a_subspace_with_nothing_outside_is_galore(gap):
    grads = [{"a": g["a"]} for g in gradients(7)]
    ends = []
    for eps in (1e-30, 1e-6):
        frugal, galore = (torch.nn.Parameter(weights()["a"].detach().clone()) for _ in range(2))
        optimizers = (
            FRUGAL([{"params": [frugal], "project": True}], 0.01, splitter="svd", density=0.5, update_gap=gap, eps=eps,
                   reset=False, outside="nothing", scale=0.25),
            GaLore([{"params": [galore], "project": True}], 0.01, rank=2, update_gap=gap, alpha=0.25, eps=eps),
        )  # fmt: skip
        for step in grads:
            for weight, optimizer in zip((frugal, galore), optimizers):
                weight.grad = step["a"]
                optimizer.step()
        ends.append(float((frugal - galore).detach().abs().max()))
    assert ends[0] < 1e-12 and 1e-8 < ends[1] < 1e-5  # eps stands elsewhere


# The rest in a subspace


@pytest.mark.parametrize("rule", ["adam", "lion", "momentum"])
def test_matrices_of_one_shape_move_as_each_alone(rule):
    matrices_of_one_shape_move_as_each_alone(
        lambda groups: FRUGAL(
            groups, splitter="svd", density=0.5, update_gap=3, weight_decay=0.1, state_rule=rule, outside_scale=0.5
        )
    )


def test_rounding_noise_has_no_sign():
    """A gradient of the subspace's rank leaves nothing, and a complete basis neither."""
    full = gradients(1)[0]["a"]
    for gradient, density in ((full[:, :1] @ full[:1], 0.5), (full, 1.0)):
        weight = torch.nn.Parameter(torch.zeros(6, 4))
        optimizer = FRUGAL([{"params": [weight], "project": True}], 1.0, splitter="svd", density=density)
        weight.grad = gradient.float()
        optimizer.step()
        split = Leading(optimizer.state[weight]["chosen"], weight.shape)
        inside = split.up(split.down(weight.detach()))
        torch.testing.assert_close(weight.detach(), inside, rtol=0, atol=1e-5)


def test_free_direction():
    rest = torch.tensor([[-2.0, 0.0, 1e-9], [0.5, -1e-9, 3.0]])
    assert free_direction(rest, "sign", 1e-6).tolist() == [[-1, 0, 0], [1, 0, 1]]
    assert free_direction(rest, "sign").tolist() == [[-1, 0, 1], [1, -1, 1]]
    assert free_direction(rest, "gradient") is rest


@pytest.mark.parametrize("rule", ["lion", "momentum"])
def test_other_rules_by_hand(rule):
    grads = gradients(5)
    found, state = walk(FRUGAL, grads, splitter="columns", density=1.0, state_rule=rule, lr=0.01, betas=(0.9, 0.99))
    for name, start in weights().items():
        weight, average = start.detach().clone(), torch.zeros_like(start)
        for step in grads:
            if rule == "lion":
                weight -= 0.01 * (0.9 * average + 0.1 * step[name]).sign()
                average = 0.99 * average + 0.01 * step[name]
            else:
                average = 0.9 * average + step[name]
                weight -= 0.01 * average
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-12)
    assert set(state["a"]) == {"chosen", "exp_avg"}


# 8. What is refused


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"density": 1.5}, r"density is a share in \[0, 1\], not 1\.5"),
        ({"density": -0.1}, r"density is a share"),
        ({"state_rule": "sgd"}, r"state_rule is one of adam, lion, momentum, not 'sgd'"),
        ({"outside": "signs"}, r"outside is one of sign, gradient, nothing, not 'signs'"),
        ({"splitter": "block"}, r"splitter is one of blocks, svd"),
        ({"order": "mirror"}, r"order is one of random, ascending, descending, not 'mirror'"),
        ({"outside_scale": -1.0}, r"outside_scale must be at least 0"),
        ({"scale": float("nan")}, r"scale must be at least 0"),
        ({"update_gap": 0}, r"update_gap must be at least 1"),
        ({"eps": -1.0}, r"eps must be at least 0"),
    ],
)
def test_refusals(fields, said):
    with pytest.raises(ValueError, match=said):
        FRUGAL([{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "project": True}], **fields)


def test_a_vector_in_a_group_to_be_split_is_refused():
    a_vector_in_a_group_to_be_split_is_refused(FRUGAL)
