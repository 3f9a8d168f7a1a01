"""Finding plates of the same number: digits side by side, of which the first count and the others are anything.

A plate's class is the number that its first digits spell, so that classes share digits and the plates that are hardest
to tell apart differ in one.  Within a class the handwriting and the digits that do not count differ from row to row.
Models are asked about numbers that they have never seen, in handwriting that they have never seen.

Imported when a claim runs, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audit import Row
from palimpsest.claim import Budget
from palimpsest.claims._facts import device_of
from palimpsest.objective import Objective
from palimpsest.roles import Roles, seeded
from palimpsest.selectors.class_batches import ClassBatches
from palimpsest.views import Batch, LabelView
from palimpsest.zoo.digits import digits, of_classes

__all__ = ["SCALES", "Plates", "Scale", "chosen_rates", "embedder", "recall", "recalls", "trained"]

TASK = "task"
Part = Literal["seen", "validation", "asked"]
"""Numbers to train on, to choose a loss's learning rate by, and to measure."""


@dataclass(frozen=True)
class Scale:
    """``counting`` digits spell a plate's class, ``idle`` ones say nothing.

    ``classes`` is how many numbers each part has, and ``splits`` how many such choices of numbers a seed makes.
    """

    counting: int = 2
    idle: int = 2
    classes: tuple[int, int, int] = (50, 20, 30)
    rows_to_learn: int = 40
    rows_to_find: int = 20
    splits: int = 3
    steps: int = 200
    classes_of_batch: int = 16
    rows_of_each: int = 4
    hidden: int = 128
    features: int = 16
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)

    @property
    def batches(self) -> ClassBatches:
        """What a batch is made of."""
        return ClassBatches(self.classes_of_batch, self.rows_of_each)


SCALES: Mapping[Budget, Scale] = {
    "cpu": Scale(),
    "gpu": Scale(
        counting=3,
        classes=(500, 100, 200),
        steps=1000,
        classes_of_batch=32,
        hidden=1024,
        features=64,
    ),
}


@dataclass(frozen=True, eq=False)
class Plates:
    """One choice of numbers, drawn from ``seed`` and ``split``."""

    scale: Scale
    seed: int
    split: int
    device: torch.device

    @cached_property
    def batches(self) -> list[Batch]:
        """What every loss at every rate learns from, step by step."""
        scale, rows = self.scale, self.rows("seen")
        adapter = Classifier(10**scale.counting)
        roles = Roles(adapter, {TASK: rows}, selections={TASK: scale.batches(rows)})
        order = seeded("plates", self.seed, self.split)
        windows = (roles.window(step, scale.batches.block, seed=order)[0] for step in range(scale.steps))
        return [window.to(self.device)[TASK] for window in windows]

    @cached_property
    def validation(self) -> tuple[Tensor, Tensor]:
        """Plates [N, D] and classes [N] by which a rate is chosen."""
        return self._stacked("validation")

    @cached_property
    def asked(self) -> tuple[Tensor, Tensor]:
        """Plates [N, D] and classes [N] that are measured."""
        return self._stacked("asked")

    def numbers(self, part: Part) -> list[int]:
        """The classes of a part; no two parts share one."""
        scale = self.scale
        generator = torch.Generator().manual_seed(seeded("numbers", self.seed, self.split))
        order = torch.randperm(10**scale.counting, generator=generator)
        seen, validation, asked = scale.classes
        starts = {"seen": (0, seen), "validation": (seen, validation), "asked": (seen + validation, asked)}
        first, size = starts[part]
        return [int(number) for number in order[first : first + size]]

    def rows(self, part: Part) -> list[Row]:
        """The plates of a part; those to be found are written by hands that are not those of training."""
        scale = self.scale
        known, unknown = digits(seed=self.seed % 2**32, test=0.4)
        hands_of = known if part == "seen" else unknown
        hands = [[r["inputs"] for r in of_classes(hands_of, classes=[digit])] for digit in range(10)]
        generator = torch.Generator().manual_seed(seeded("plates", self.seed, self.split, part))

        def draw(end: int) -> int:
            return int(torch.randint(end, (), generator=generator))

        rows: list[Row] = []
        for number in self.numbers(part):
            spelled = [int(d) for d in f"{number:0{scale.counting}d}"]
            for i in range(scale.rows_to_learn if part == "seen" else scale.rows_to_find):
                written = [*spelled, *(draw(10) for _ in range(scale.idle))]
                inputs = torch.cat([hands[d][draw(len(hands[d]))] for d in written])
                rows.append({"id": f"{part}/{number}/{i}", "inputs": inputs, "label": number})
        return rows

    def _stacked(self, part: Part) -> tuple[Tensor, Tensor]:
        rows = self.rows(part)
        inputs, labels = torch.stack([r["inputs"] for r in rows]), torch.tensor([r["label"] for r in rows])
        return inputs.to(self.device), labels.to(self.device)


def embedder(plates: Plates) -> nn.Module:
    """A perceptron with random weights."""
    scale = plates.scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded("embedder", plates.seed, plates.split))
        first = nn.Linear(64 * (scale.counting + scale.idle), scale.hidden)
        model = nn.Sequential(first, nn.ReLU(), nn.Linear(scale.hidden, scale.features))
    return model.to(plates.device)


def trained(objective: Objective, plates: Plates, rate: float) -> nn.Module:
    """The perceptron after Adam on all batches."""
    model = embedder(plates)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for batch in plates.batches:
        features = model(batch["inputs"])
        loss = objective(LabelView(batch, features, features)).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return model


def recall(features: Tensor, labels: Tensor) -> float:
    """How often the nearest other row, by cosine, is of the same class, in percent."""
    unit = nn.functional.normalize(features.detach(), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return 100 * float((labels[nearest] == labels).float().mean())


def chosen_rates(losses: Mapping[str, Objective], worlds: Sequence[Plates], rates: Sequence[float]) -> dict[str, float]:
    """For each loss the rate with the highest mean recall on the validation numbers of ``worlds``."""

    def found(objective: Objective, rate: float) -> float:
        return sum(recall(trained(objective, w, rate)(w.validation[0]), w.validation[1]) for w in worlds)

    return {name: max(rates, key=lambda rate: found(objective, rate)) for name, objective in losses.items()}


def recalls(
    losses: Mapping[str, Objective], budget: Budget, seeds: Sequence[int]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(loss -> recall at 1 of each choice of numbers, loss -> its rate).

    Rates are chosen first, on the first choice of numbers of each seed.  ``inputs`` and ``untrained`` are measured
    beside the losses.
    """
    scale = SCALES[budget]
    worlds = [Plates(scale, seed, split, device_of(budget)) for seed in seeds for split in range(scale.splits)]
    rates = chosen_rates(losses, worlds[:: scale.splits], scale.rates)
    found: dict[str, list[float]] = {"inputs": [], "untrained": [], **{name: [] for name in losses}}
    for world in worlds:
        inputs, labels = world.asked
        embed: dict[str, Callable[[Tensor], Tensor]] = {"inputs": nn.Identity(), "untrained": embedder(world)}
        embed |= {name: trained(objective, world, rates[name]) for name, objective in losses.items()}
        for name, features in embed.items():
            found[name].append(recall(features(inputs), labels))
    return found, rates
