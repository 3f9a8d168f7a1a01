"""k-FPF: when its rounds come, what they see and move, and that it goes on to the same weights."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Interrupted, Training, fit
from palimpsest.masks.forgetting_prioritized import ForgettingPrioritized
from palimpsest.names import build, dump
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.k_fpf import KFPF, buffer_of, round_seed, round_steps
from palimpsest.roles import Roles
from palimpsest.selectors.reservoir import Reservoir
from palimpsest.zoo.classifiers import digits_cnn
from palimpsest.zoo.digits import digits, of_classes

OBJECTIVE = on("task", CrossEntropy()) + on("replay", CrossEntropy())
TRAINING = Training(steps=10, batch=8, lr=0.02, optimizer="sgd", weight_decay=1e-3, checkpoint_every=2)


@pytest.fixture(scope="module")
def parts():
    train = digits()[0]
    return of_classes(train, classes=[0, 1])[:60], of_classes(train, classes=[2, 3])[:60]


@pytest.fixture
def roles(parts):
    old, new = parts
    return Roles(Classifier(10), {"task": new, "replay": old + new})


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


# Oracle 4


def test_when_the_rounds_come():
    assert round_steps(100, 7) == [15, 29, 43, 58, 72, 86, 100]
    assert round_steps(10, 1) == [10] and round_steps(3, 3) == [1, 2, 3]
    with pytest.raises(ValueError, match="4 rounds do not fit between 3 steps"):
        round_steps(3, 4)


def test_one_round_is_plain_training_and_then_fpf(roles):
    """Exactly: the same buffer, the same order, an optimizer of its own."""
    whole, model = digits_cnn(), digits_cnn()
    method = KFPF(rounds=1, steps=4, size=20, learning_rate=0.05)
    result = method(whole, roles, OBJECTIVE, TRAINING, seed=3)
    fit(model, roles, on("task", CrossEntropy()), TRAINING, seed=3)
    plain = copy.deepcopy(model)
    roles.selections["replay"] = buffer_of(roles, "replay", ["task"], 80, Reservoir(20), 3)
    fit(
        model,
        roles,
        on("replay", CrossEntropy()),
        Training(steps=4, batch=8, lr=0.05, optimizer="sgd", weight_decay=1e-3),
        seed=round_seed(3, 0),
        mask=ForgettingPrioritized()(model, roles),
    )
    assert same(whole, model) and not same(whole, plain)
    assert result.steps == 14 and result.tokens == 14 * 8
    assert list(result.curves) == ["task/cross_entropy"] and len(result.curves["task/cross_entropy"]) == 10


def test_without_steps_a_round_is_nothing(roles):
    """Oracle 3: S_ft = 0 is plain training."""
    plain, model = digits_cnn(), digits_cnn()
    fit(plain, roles, on("task", CrossEntropy()), TRAINING)
    KFPF(rounds=3, steps=0)(model, roles, OBJECTIVE, TRAINING)
    assert same(plain, model)


def test_training_between_the_rounds_moves_everything_and_a_round_only_its_layers(roles):
    model, moved = digits_cnn(), []
    before = copy.deepcopy(model.state_dict())

    def look(progress):
        now = model.state_dict()
        moved.append({n for n in now if not torch.equal(now[n], before[n])})
        before.update(copy.deepcopy(now))

    KFPF(rounds=2, steps=3, size=20)(model, roles, OBJECTIVE, TRAINING, on_step=look)
    assert all(names >= {"conv1.weight", "head.weight", "norm1.running_mean"} for names in moved) and len(moved) == 10
    assert not roles.selections


# The buffer


def test_the_buffer_never_holds_the_future(roles, parts):
    old, new = parts
    for seen in (0, 8, 40, 60, 200):
        buffer = buffer_of(roles, "replay", ["task"], seen, Reservoir(30), seed=5)
        rows = [roles.rows["replay"][i]["id"] for i in buffer.index.tolist()]
        shown = {new[roles.position("task", p, 5)[0]]["id"] for p in range(min(seen, 60))}
        assert len(rows) == 30 and set(rows) <= {r["id"] for r in old} | shown
    assert {r["id"] for r in old} & set(rows) and shown & set(rows)


def test_the_buffer_is_that_of_one_reservoir_over_the_stream(roles):
    all_seen = buffer_of(roles, "replay", ["task"], 60, Reservoir(30), seed=5)
    assert torch.equal(all_seen.index, Reservoir(30)(roles.rows["replay"]).index)


def test_an_empty_buffer_is_refused(parts):
    roles = Roles(Classifier(10), {"task": parts[1], "replay": parts[1]})
    with pytest.raises(ValueError, match=r"The buffer is empty: no row of 'replay' has been seen"):
        buffer_of(roles, "replay", ["task"], 0, Reservoir(5), seed=0)


# Resuming


@pytest.mark.parametrize("at", [1, 4, 5, 7, 10])
def test_an_interrupted_run_ends_with_the_same_bits(roles, tmp_path, at):
    """Before a round, at the step of one (4, 7, 10) and between."""
    whole, model = digits_cnn(), digits_cnn()
    method = KFPF(rounds=3, steps=4, size=20)
    expected = method(whole, roles, OBJECTIVE, TRAINING, folder=tmp_path / "whole")

    def press(progress):
        if progress.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=f"after step {at} of 10"):
        method(model, roles, OBJECTIVE, TRAINING, folder=tmp_path / "run", on_step=press)
    again = digits_cnn()
    result = method(again, roles, OBJECTIVE, TRAINING, folder=tmp_path / "run")
    assert same(whole, again)
    assert (result.steps, result.tokens, result.curves) == (expected.steps, expected.tokens, expected.curves)


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_run_killed_within_a_round_ends_with_the_same_bits(roles, tmp_path, killed_at, monkeypatch):
    """The second of three rounds dies at one of its steps: the weights of half a round are on no disk."""
    from palimpsest.procedures import k_fpf

    class Killed(BaseException):
        pass

    whole = digits_cnn()
    method = KFPF(rounds=3, steps=4, size=20)
    method(whole, roles, OBJECTIVE, TRAINING)

    def dying(model, roles, objective, training, **options):
        def die(progress):
            if progress.step == killed_at and options["seed"] == round_seed(0, 1):
                raise Killed

        if options["seed"] != 0:
            options["on_step"] = die
        return fit(model, roles, objective, training, **options)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(k_fpf, "fit", dying)
        method(digits_cnn(), roles, OBJECTIVE, TRAINING, folder=tmp_path)
    again = digits_cnn()
    method(again, roles, OBJECTIVE, TRAINING, folder=tmp_path)
    assert same(whole, again)
    assert not list(tmp_path.glob("round-*/")) or not [p for p in tmp_path.glob("round-*") if p.is_dir()]


# What is refused


def test_refusals(roles):
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        KFPF(rounds=0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        KFPF(size=0)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        KFPF(learning_rate=0.0)
    with pytest.raises(ValueError, match="needs a term on 'replay'"):
        KFPF()(digits_cnn(), roles, on("task", CrossEntropy()) + on("task", CrossEntropy()), TRAINING)
    with pytest.raises(ValueError, match="needs two rows at a time"):
        KFPF()(digits_cnn(), roles, OBJECTIVE, Training(steps=5, batch=1))
    with pytest.raises(ValueError, match="no layer 'norm9'"):
        KFPF(moves=ForgettingPrioritized(("norm9",)))(digits_cnn(), roles, OBJECTIVE, TRAINING)


def test_built_from_a_recipe_and_its_own_dump():
    method = build({"k_fpf": {"rounds": 3, "moves": {"modules": ["last"]}}}, "procedures")
    assert method == KFPF(rounds=3, moves=ForgettingPrioritized(("last",)))
    assert build(dump(method), "procedures") == method
