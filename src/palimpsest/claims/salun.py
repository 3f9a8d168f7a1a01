"""Confines unlearning to the weights with the largest forget-loss gradients and trains just those, with random labels
for what must go and true labels for what stays, in image classifiers and generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from palimpsest.claim import Budget, Claim, Evidence, Figure, Paper

if TYPE_CHECKING:
    import torch
    from torch import nn

    from palimpsest.audit import Row
    from palimpsest.objective import Term, Total

PAPER = Paper(
    "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and "
    "Generation",
    "Fan et al.",
    2023,
    arxiv="2310.12508",
    venue="ICLR 2024",
    tags=("forget", "unlearning", "mask", "loss", "classifier", "diffusion"),
    summary=(
        "Confines unlearning to the weights with the largest forget-loss gradients and trains just those, with random "
        "labels for what must go and true labels for what stays, in image classifiers and generators."
    ),
)
PARTS: tuple[str, ...] = ("masks.salun", "objectives.random_label")

FRACTION = 0.5
RATES = (0.01, 0.03, 0.1)
STEPS = 120
"""Of 64 forget and 64 retain rows, as many as ten rounds through all 1,437."""
SPLITS: Mapping[Budget, int] = {"cpu": 3, "gpu": 10}
"""Splits of the digits a seed, each with a model of its own."""


class NearRetrainingAtRandom(Claim):
    """An MLP on 1,437 digits forgets a random tenth of them; three splits a seed.

    The gap is the mean over forget accuracy, retain accuracy, test accuracy and the AUC of a loss attack of the
    distance to a model retrained without those digits, in points.  SalUn (half of the weights) and random labels
    without a mask each have the learning rate, of three, with the smallest gap on two further splits.  Shown when
    SalUn's gap is below 3 points, smaller than that of doing nothing, and smaller than without the mask; in part when
    all holds but the last.
    """

    says = "Forgetting random items, SalUn stays near retraining, and nearer than random labels without its mask."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Fine-tuning on the retain set and gradient ascent are reported beside them."""
        from palimpsest.claims._evidence import Condition, evidence, over_seeds

        measured = _measure(budget, seeds, "random")
        salun, plain = measured.gaps["SalUn"], measured.gaps["random labels"]
        idle = _minus(salun, measured.gaps["before"])
        conditions = [
            Condition("gap of SalUn to retraining", over_seeds(salun), "below", 3.0, "points"),
            Condition("gap of SalUn minus that of doing nothing", over_seeds(idle), "below", 0.0, "points"),
            Condition("gap with the mask minus without", over_seeds(_minus(salun, plain)), "below", 0.0, "points"),
        ]
        return evidence(conditions, measured.figures(), measured.settings, needed=2)


class ForgetsAClass(Claim):
    """The same MLP forgets all digits of one class; three splits and classes a seed.

    Shown when SalUn's accuracy on the forgotten digits is below 2 %, as a retrained model's, its test accuracy on the
    other classes is less than 3 points below the retrained model's, and its gap to retraining is smaller than that of
    fine-tuning on the rest.
    """

    says = "Forgetting a class, SalUn loses it wholly and keeps the others about as well as retraining does."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """As in the other claim; test accuracy leaves the forgotten class out."""
        from palimpsest.claims._evidence import Condition, evidence, over_seeds

        measured = _measure(budget, seeds, "class")
        forget = [points.forget for points in measured.points["SalUn"]]
        lost = [after.test - gold.test for after, gold in zip(measured.points["SalUn"], measured.points["retrained"])]
        nearer = _minus(measured.gaps["SalUn"], measured.gaps["fine-tuned"])
        conditions = [
            Condition("SalUn's accuracy on the forgotten class", over_seeds(forget), "below", 2.0, "points"),
            Condition("test accuracy on the others minus retraining's", over_seeds(lost), "above", -3.0, "points"),
            Condition("gap of SalUn minus that of fine-tuning", over_seeds(nearer), "below", 0.0, "points"),
        ]
        return evidence(conditions, measured.figures(), measured.settings, needed=2)


class _Points(NamedTuple):
    """Accuracies and the attack's AUC of one model, in percent."""

    forget: float
    retain: float
    test: float
    attack: float


@dataclass(frozen=True)
class _Measured:
    """Every model's points, a split after the other; ``gaps`` to retraining of those that unlearn."""

    points: Mapping[str, Sequence[_Points]]
    gaps: Mapping[str, Sequence[float]]
    settings: Mapping[str, str | int | float | bool]

    def figures(self) -> list[Figure]:
        """Gaps, then accuracies, over splits."""
        from palimpsest.claims._evidence import figure, over_seeds

        found = [figure(f"gap to retraining, {name}", over_seeds(gap), "points") for name, gap in self.gaps.items()]
        for name, points in self.points.items():
            for key, values in zip(_Points._fields, zip(*points)):
                found.append(figure(f"{key}, {name}", over_seeds(values), "points"))
        return found


@dataclass(frozen=True)
class _Split:
    """A trained model, the model retrained without the forget rows, and the rows."""

    model: nn.Module
    retrained: nn.Module
    forget: Sequence[Row]
    retain: Sequence[Row]
    test: Sequence[Row]


def _minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _measure(budget: Budget, seeds: Sequence[int], kind: Literal["random", "class"]) -> _Measured:
    """All methods on all splits, each at the learning rate that is best on two further splits."""
    from palimpsest.claims._facts import device_of

    device, each = device_of(budget), SPLITS[budget]
    tuning = [_split(-1 - i, kind, device) for i in range(2)]
    rates = {}
    for name in ("SalUn", "random labels", "fine-tuned", "gradient ascent"):
        gaps = {rate: [_gap(_points(_unlearn(s, name, rate, i), s), s) for i, s in enumerate(tuning)] for rate in RATES}
        rates[name] = min(gaps, key=dict(zip(gaps, map(sum, gaps.values()))).__getitem__)
    points: dict[str, list[_Points]] = {name: [] for name in ("before", "retrained", *rates)}
    gaps_of: dict[str, list[float]] = {name: [] for name in ("before", *rates)}
    for number in (seed * each + i for seed in seeds for i in range(each)):
        split = _split(number, kind, device)
        points["before"].append(_points(split.model, split))
        gaps_of["before"].append(_gap(points["before"][-1], split))
        points["retrained"].append(_points(split.retrained, split))
        for name, rate in rates.items():
            points[name].append(_points(_unlearn(split, name, rate, number), split))
            gaps_of[name].append(_gap(points[name][-1], split))
    settings = {"fraction": FRACTION, "splits": len(seeds) * each, **{f"rate of {n}": r for n, r in rates.items()}}
    return _Measured(points, gaps_of, settings)


def _split(number: int, kind: Literal["random", "class"], device: torch.device) -> _Split:
    """Digits cut by ``number``, a model trained on all of the training part.

    Beside it stands one that is retrained without the forget rows.
    """
    import random

    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.zoo.classifiers import digits_mlp
    from palimpsest.zoo.digits import digits

    train, test = digits(seed=number % 2**32)
    if kind == "class":
        forget = [row for row in train if row["label"] == number % 10]
        test = [row for row in test if row["label"] != number % 10]
    else:
        forget = random.Random(f"salun/{number}").sample(train, len(train) // 10)
    gone = {row["id"] for row in forget}
    retain = [row for row in train if row["id"] not in gone]
    models = []
    for rows in (train, retain):
        model = digits_mlp(seed=number % 2**32).to(device)
        _train(model, {"task": rows}, on("task", CrossEntropy()), 450, 0.1, number)
        models.append(model)
    return _Split(models[0], models[1], forget, retain, test)


def _train(
    model: nn.Module, rows: Mapping[str, Sequence[Row]], objective: Total | Term, steps: int, lr: float, seed: int,
    fraction: float | None = None,
) -> None:  # fmt: skip
    from palimpsest.adapters.classifier import Classifier
    from palimpsest.loop import Training, fit
    from palimpsest.masks.salun import SalUn
    from palimpsest.roles import Roles

    roles = Roles(Classifier(10), rows)
    mask = None if fraction is None else SalUn(fraction)(model, roles)
    training = Training(steps=steps, batch=64, lr=lr, optimizer="sgd", weight_decay=5e-4)
    fit(model, roles, objective, training, seed=seed, mask=mask)


def _unlearn(split: _Split, method: str, lr: float, seed: int) -> nn.Module:
    """A copy of the trained model after a method; terms weigh as their rows would in one shuffled union."""
    import copy

    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.gradient_ascent import GradientAscent
    from palimpsest.objectives.random_label import RandomLabel

    share = len(split.forget) / (len(split.forget) + len(split.retain))
    retain = on("retain", CrossEntropy())
    labels = on("forget", RandomLabel()) * share + retain * (1 - share)
    choices: dict[str, Total | Term] = {
        "SalUn": labels,
        "random labels": labels,
        "fine-tuned": retain,
        "gradient ascent": on("forget", GradientAscent()) * share + retain * (1 - share),
    }
    objective = choices[method]
    model = copy.deepcopy(split.model)
    rows = {"forget": split.forget, "retain": split.retain}
    _train(model, rows, objective, STEPS, lr, seed, FRACTION if method == "SalUn" else None)
    return model


def _points(model: nn.Module, split: _Split) -> _Points:
    from palimpsest.adapters.classifier import Classifier
    from palimpsest.audits.accuracy import Accuracy
    from palimpsest.audits.loss_attack import LossAttack
    from palimpsest.statistics import aggregate

    subject = Classifier(10).subject(model)
    data = {"forget": split.forget, "retain": split.retain, "holdout": split.test}
    forget, retain, test = (100 * float(Accuracy()(subject, data, role).items.mean()) for role in data)
    attack = LossAttack()(subject, data, "forget")
    return _Points(forget, retain, test, 100 * aggregate(attack.items, attack.statistic, attack.groups))


def _gap(points: _Points, split: _Split) -> float:
    """Mean distance to the retrained model's points."""
    gold = _points(split.retrained, split)
    return sum(abs(own - other) for own, other in zip(points, gold)) / len(gold)
