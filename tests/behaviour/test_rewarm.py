"""A model whose rate has fallen learns new classes of digits when it is re-warmed, and hardly any when it is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.mix import mixed
from palimpsest.objective import Schedule, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.schedules.infinite import Infinite
from palimpsest.schedules.rewarm import Rewarm
from palimpsest.zoo.digits import digits, of_classes

PEAK, STEPS = 0.01, 100
OLD, NEW = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]


class World:
    """Digits below five first, the others after them."""

    def __init__(self) -> None:
        train, test = digits(seed=0)
        self.rows = {"old": of_classes(train, classes=OLD), "new": of_classes(train, classes=NEW)}
        self.test = {"old": of_classes(test, classes=OLD), "new": of_classes(test, classes=NEW)}
        torch.manual_seed(0)
        self.untrained = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def trained(self, model: nn.Module, rows: list, schedule: Schedule | None, lr: float = PEAK) -> nn.Module:
        found = copy.deepcopy(model)
        roles = Classifier(10).roles(stream=rows)
        fit(found, roles, on("stream", CrossEntropy()), Training(steps=STEPS, batch=16, lr=lr, schedule=schedule))
        return found

    def loss(self, model: nn.Module, part: str) -> float:
        rows = self.test[part]
        with torch.no_grad():
            logits = model(torch.stack([row["inputs"] for row in rows]))
        return float(nn.functional.cross_entropy(logits, torch.tensor([row["label"] for row in rows])))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def fallen(world: World) -> nn.Module:
    return world.trained(world.untrained, world.rows["old"], Rewarm(0.05, 0.1))


def test_re_warming_learns_what_a_small_rate_does_not(world: World, fallen: nn.Module) -> None:
    constant = world.trained(fallen, world.rows["new"], None, 0.1 * PEAK)
    again = world.trained(fallen, world.rows["new"], Rewarm(0.05, 0.1))
    assert world.loss(again, "new") < world.loss(constant, "new") - 0.5


def test_a_higher_peak_learns_and_forgets_more(world: World, fallen: nn.Module) -> None:
    low, high = (world.trained(fallen, world.rows["new"], Rewarm(0.05, 0.1), c * PEAK) for c in (0.5, 2.0))
    assert world.loss(high, "new") < world.loss(low, "new") - 0.1
    assert world.loss(high, "old") > world.loss(low, "old") + 0.3


def test_a_few_percent_of_replay_undo_most_of_the_forgetting(world: World, fallen: nn.Module) -> None:
    total = STEPS * 16
    found = {}
    for share in (0.0, 0.1):
        stream = mixed(world.rows, {"old": share, "new": 1 - share}, rows=total)
        found[share] = world.trained(fallen, stream, Rewarm(0.05, 0.1))
    before = world.loss(fallen, "old")
    forgetting = {share: world.loss(model, "old") - before for share, model in found.items()}
    assert forgetting[0.1] < 0.5 * forgetting[0.0]
    assert world.loss(found[0.1], "new") < world.loss(found[0.0], "new") + 0.1


def test_a_plateau_learns_the_new_without_re_warming(world: World) -> None:
    open_end = world.trained(world.untrained, world.rows["old"], Infinite(0.05, 0.2, 0.0))
    annealed = world.trained(open_end, world.rows["new"], Infinite(0.0, 0.0, 0.4))
    constant = world.trained(open_end, world.rows["new"], None, 0.1 * PEAK)
    assert world.loss(annealed, "new") < world.loss(constant, "new") - 0.5
