"""A model that is watched while it trains ends as one that is not, and its curves survive a kill."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audit import Scores
from palimpsest.audits.accuracy import Accuracy
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Interrupted, Progress, Result, Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.watch import Watch, Watched, undisturbed
from palimpsest.watched_items import kept

STEPS = 12
NAMES = count()


class Killed(Exception):
    """Ends a run without a word, as a kill does: nothing is saved."""


def network() -> nn.Module:
    """Dropout needs the random numbers, batch normalization the modes."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def roles() -> Roles:
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    rows = [{"id": f"p{i}", "inputs": p, "label": int(p.argmax()) % 3} for i, p in enumerate(points)]
    return Roles(Classifier(3), {"task": rows[:40], "held_out": rows[40:]})


def accuracy(roles: Roles) -> Callable[[nn.Module], Mapping[str, float]]:
    def measure(model: nn.Module) -> Mapping[str, float]:
        assert not any(m.training for m in model.modules())
        return {"accuracy": float(Accuracy()(roles.adapter.subject(model), roles.rows, "held_out").items.mean())}

    return measure


def careless(roles: Roles) -> Callable[[nn.Module], Mapping[str, float]]:
    """Leaves everything it can in disorder, short of the weights."""

    def measure(model: nn.Module) -> Mapping[str, float]:
        model.eval()
        assert all(p.grad is None for p in model.parameters())
        loss = model(torch.randn(8, 4)).square().sum()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
        model.train()
        torch.manual_seed(99), np.random.seed(99), random.seed(99)
        drawn = float(torch.rand(()) + np.random.random() + random.random())
        return {"gradient norm": float(norm), "drawn": drawn, **accuracy(roles)(model.eval())}

    return measure


def run(
    roles: Roles,
    watch: Watch | None = None,
    folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    optimizer: str = "adamw",
) -> tuple[Tensor, Result]:
    model = network()
    training = Training(steps=STEPS, batch=8, lr=0.05, optimizer=optimizer, checkpoint_every=4)
    result = fit(model, roles, on("task", CrossEntropy()), training, folder=folder, on_step=on_step, watch=watch)
    return torch.cat([v.flatten().double() for v in model.state_dict().values()]), result


@pytest.fixture(scope="module")
def alone(roles: Roles) -> tuple[Tensor, Result]:
    return run(roles)


def steps_at(every: int) -> list[int]:
    return sorted({*range(0, STEPS + 1, every), STEPS})


def steps_of(watched: Watched | None) -> list[int]:
    assert watched is not None
    (steps,) = {tuple(step for step, _ in points) for points in watched.curves.values()}
    return list(steps)


@pytest.mark.parametrize("measure", [accuracy, careless])
@pytest.mark.parametrize("every", [1, 5, 100])
def test_the_weights_are_the_same_bits(
    roles: Roles, alone: tuple[Tensor, Result], measure: Callable, every: int
) -> None:
    weights, result = run(roles, Watch(every, measure(roles)))
    assert torch.equal(weights, alone[0])
    assert result.curves == alone[1].curves and result.tokens == alone[1].tokens
    assert result.watched is not None and result.watched.every == every and result.watched.seconds > 0
    assert steps_of(result.watched) == steps_at(every)


def test_sgd_too(roles: Roles) -> None:
    assert torch.equal(run(roles, Watch(1, careless(roles)), optimizer="sgd")[0], run(roles, optimizer="sgd")[0])


def test_values_do_not_depend_on_how_often(roles: Roles) -> None:
    every, rare = (run(roles, Watch(n, careless(roles)))[1].watched for n in (1, 4))
    assert every is not None and rare is not None
    for name, points in rare.curves.items():
        assert points == [p for p in every.curves[name] if p[0] in steps_at(4)]
    assert len({v for _, v in every.curves["accuracy"]}) > 2  # something happens


def test_nobody_is_watched(alone: tuple[Tensor, Result]) -> None:
    assert alone[1].watched is None


def control_c(at: int) -> Callable[[Progress], None]:
    return lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == at else None


def kill(at: int) -> Callable[[Progress], None]:
    def end(progress: Progress) -> None:
        if progress.step == at:
            raise Killed

    return end


@pytest.mark.parametrize(("how", "error"), [(kill, Killed), (control_c, Interrupted)])
@pytest.mark.parametrize(("every", "at"), [(1, 2), (5, 9), (7, STEPS)])
def test_curves_survive_a_kill(
    roles: Roles, tmp_path: Path, every: int, how: Callable, error: type[Exception], at: int
) -> None:
    weights, result = run(roles, Watch(every, careless(roles)))
    with pytest.raises(error):
        run(roles, Watch(every, careless(roles)), tmp_path, how(at))
    resumed, again = run(roles, Watch(every, careless(roles)), tmp_path)
    assert torch.equal(resumed, weights)
    assert again.watched is not None and result.watched is not None
    assert again.watched.curves == result.watched.curves and again.watched.every == every


def by_item(roles: Roles, folder: Path, every: int = 2) -> Watch:
    def measure(model: nn.Module) -> Mapping[str, float | Scores]:
        return {"held out/accuracy": Accuracy()(roles.adapter.subject(model), roles.rows, "held_out"), "always": 1.0}

    return Watch(every, measure, folder)


@pytest.mark.parametrize(("how", "error"), [(kill, Killed), (control_c, Interrupted)])
@pytest.mark.parametrize("at", [2, 9, STEPS])
def test_single_items_survive_a_kill(
    roles: Roles, tmp_path: Path, how: Callable, error: type[Exception], at: int
) -> None:
    """Their mean is the curve, and going on leaves the same file as never having been stopped."""
    watched = run(roles, by_item(roles, tmp_path / "whole"))[1].watched
    assert watched is not None and watched.items == tmp_path / "whole"
    with pytest.raises(error):
        run(roles, by_item(roles, tmp_path / "items"), tmp_path / "run", how(at))
    again = run(roles, by_item(roles, tmp_path / "items"), tmp_path / "run")[1].watched
    assert again is not None and again.curves == watched.curves
    (one,), (other,) = ((*(tmp_path / name).iterdir(),) for name in ("whole", "items"))
    assert one.read_bytes() == other.read_bytes()
    items = kept(tmp_path / "items", "held out/accuracy", again.curves["held out/accuracy"])
    assert items is not None and items.measurements == len(steps_at(2)) and len(items.ids) == 20


@pytest.mark.parametrize("at", [0, 4, 7, STEPS])
@pytest.mark.parametrize("how", ["kill", "control c"])
def test_ended_in_the_middle_of_a_measurement(roles: Roles, tmp_path: Path, at: int, how: str) -> None:
    weights, result = run(roles, Watch(1, accuracy(roles)))
    seen: list[int] = []

    def measure(model: nn.Module) -> Mapping[str, float]:
        seen.append(1)
        if len(seen) == at + 1 and how == "kill":
            raise Killed
        if len(seen) == at + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return accuracy(roles)(model)

    with pytest.raises(Killed if how == "kill" else Interrupted):
        run(roles, Watch(1, measure), tmp_path)
    resumed, again = run(roles, Watch(1, accuracy(roles)), tmp_path)
    assert torch.equal(resumed, weights)
    assert again.watched is not None and result.watched is not None and again.watched.curves == result.watched.curves


def test_another_watch_does_not_go_on_from_a_folder(roles: Roles, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(roles, Watch(2, accuracy(roles)), tmp_path / "watched", kill(6))
    with pytest.raises(ValueError, match="watched every 2 steps before it stopped, and now every 3"):
        run(roles, Watch(3, accuracy(roles)), tmp_path / "watched")
    with pytest.raises(Killed):
        run(roles, None, tmp_path / "alone", kill(6))
    with pytest.raises(ValueError, match="not watched from its start"):
        run(roles, Watch(3, accuracy(roles)), tmp_path / "alone")


def test_the_trainer_refuses(roles: Roles) -> None:
    training = Training(steps=2, batch=4, lr=0.1)
    with pytest.raises(ValueError, match=r"watch with train\.loop: plain\.$"):
        fit_with_trainer(network(), roles, on("task", CrossEntropy()), training, watch=Watch(1, accuracy(roles)))


def test_time_spent_on_watching_is_counted_apart(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only moves when somebody works: two seconds a measurement, one a step."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow(model: nn.Module) -> Mapping[str, float]:
        now[0] += 2
        return {"accuracy": 0.0}

    def step(progress: Progress) -> None:
        now[0] += 1

    result = run(roles, Watch(1, slow), on_step=step)[1]
    assert result.watched is not None
    assert (result.seconds, result.watched.seconds) == (STEPS, 2 * (STEPS + 1))


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        (lambda model: {}, "give the same names, at least one"),
        (lambda model: {f"a{next(NAMES)}": 0.0}, "give the same names"),
        (lambda model: {"a": float("nan")}, r"a became nan at step 0 .* lower train\.lr"),
    ],
)
def test_figures_that_are_none(roles: Roles, measure: Callable, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run(roles, Watch(1, measure))


def test_a_measurement_that_changes_the_model_is_refused(roles: Roles) -> None:
    def heavy_hand(model: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            model[0].weight.mul_(0.5)
        return {"a": 0.0}

    with pytest.raises(ValueError, match=r"wrote to 0\.weight; measure a copy"):
        run(roles, Watch(1, heavy_hand))

    def in_training_mode(model: nn.Module) -> Mapping[str, float]:
        model.train()(torch.zeros(4, 4))
        return {"a": 0.0}

    with pytest.raises(ValueError, match=r"wrote to 1\."):
        run(roles, Watch(1, in_training_mode))


def test_modes_are_put_back_one_by_one() -> None:
    model = network().train()
    model[1].eval()  # a frozen normalization
    with undisturbed(model):
        assert not any(m.training for m in model.modules())
    assert model[0].training and not model[1].training
    with pytest.raises(Killed), undisturbed(model):
        raise Killed
    assert model[3].training


def test_every_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Watch(0, lambda model: {})
