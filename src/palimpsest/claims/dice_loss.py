"""Trains taggers, span finders and pair classifiers on a soft F1 score that plays down easy examples, for text tasks
where negative examples far outnumber positive ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import Tensor, nn

    from palimpsest.objective import Objective

PAPER = Paper(
    "Dice Loss for Data-imbalanced NLP Tasks",
    "Li et al.",
    2019,
    arxiv="1911.02855",
    venue="ACL 2020",
    tags=("learn", "loss", "imbalance", "language-model"),
    summary=(
        "Trains taggers, span finders and pair classifiers on a soft F1 score that plays down easy examples, for text "
        "tasks where negative examples far outnumber positive ones."
    ),
)
PARTS: tuple[str, ...] = ("objectives.dice", "objectives.tversky")

SPLITS: Mapping[Budget, int] = {"cpu": 3, "gpu": 10}
"""Data sets a seed."""
ROWS, STEPS, BATCH, RATE = 20_000, 500, 512, 0.1
SHARE, APART = 0.02, 2.25
"""Share of the rare class, and the distance of the two means in standard deviations."""


class BetterF1(Claim):
    """Two overlapping Gaussians in 20 dimensions, one of them 2 % of 20,000 rows, told apart by a linear model.

    The F1 score of the rare class on 20,000 further rows at threshold one half, three data sets a seed.  Shown when the
    Dice loss and the self-adjusting one (alpha 0.01), both over batches of 512, are each more than 3 points above
    cross-entropy, and the self-adjusting one is above cross-entropy also when the thresholds of both are tuned on
    5,000 rows; in part when all but the last holds.
    """

    says = "Where one class is rare, training on the Dice loss gives a higher F1 score than cross-entropy does."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The Dice loss of single items is reported beside them."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds

        at_half, tuned = _measured(budget, seeds)
        plain = at_half["cross-entropy"]
        conditions = [
            Condition(
                f"F1 of {name} minus cross-entropy's", over_seeds(_minus(at_half[name], plain)), "above", 3.0, "points"
            )
            for name in ("Dice", "self-adjusting Dice")
        ]
        gain = _minus(tuned["self-adjusting Dice"], tuned["cross-entropy"])
        what = "the same of self-adjusting Dice with tuned thresholds"
        conditions.append(Condition(what, over_seeds(gain), "above", 0.0, "points"))
        figures = [figure(f"F1 of {name}", over_seeds(values), "points") for name, values in at_half.items()]
        figures += [figure(f"F1 of {name}, tuned threshold", over_seeds(v), "points") for name, v in tuned.items()]
        return evidence(conditions, figures, _SETTINGS, needed=2)


class SelfAdjustingIsBetter(Claim):
    """The same models.

    Shown when the F1 score with alpha 0.01 is above that of the Dice loss with alpha 0, both over batches and at
    threshold one half.
    """

    says = "Playing down easy examples raises the F1 score above that of the plain Dice loss."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Paired by data set."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds

        at_half, _ = _measured(budget, seeds)
        gain = over_seeds(_minus(at_half["self-adjusting Dice"], at_half["Dice"]))
        figures = [figure(f"F1 of {name}", over_seeds(values), "points") for name, values in at_half.items()]
        return evidence(
            [Condition("F1 of self-adjusting Dice minus plain Dice's", gain, "above", 0.0, "points")],
            figures,
            _SETTINGS,
        )


_SETTINGS: dict[str, str | int | float | bool] = {
    "rows": ROWS,
    "steps": STEPS,
    "batch": BATCH,
    "learning rate": RATE,
    "share of the rare class": SHARE,
    "distance of the means": APART,
}
Scores = dict[str, list[float]]
"""Loss -> F1 score in percent, a data set after the other."""


def _minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]


@cache
def _measured_once(splits: int, seeds: tuple[int, ...]) -> tuple[Scores, Scores]:
    """F1 at threshold one half, and at the threshold that is best on rows apart."""
    at_half: Scores = {}
    tuned: Scores = {}
    for seed in seeds:
        for split in range(splits):
            train, validation, test = (_gaussians(n, f"{seed}/{split}/{n}") for n in (ROWS, 5_000, ROWS + 1))
            for name, objective in _objectives().items():
                model = _trained(objective, *train, seed)
                margins = [_margin(model, x) for x, _ in (validation, test)]
                at_half.setdefault(name, []).append(_f1(margins[1], test[1], 0.0))
                best = _best_threshold(margins[0], validation[1])
                tuned.setdefault(name, []).append(_f1(margins[1], test[1], best))
    return at_half, tuned


def _measured(budget: Budget, seeds: Sequence[int]) -> tuple[Scores, Scores]:
    """Both claims look at the same models."""
    return _measured_once(SPLITS[budget], tuple(seeds))


def _objectives() -> dict[str, Objective]:
    from palimpsest.objectives.cross_entropy import CrossEntropy
    from palimpsest.objectives.dice import Dice

    return {
        "cross-entropy": CrossEntropy(),
        "Dice": Dice("batch", alpha=0.0, positive=1),
        "self-adjusting Dice": Dice("batch", alpha=0.01, positive=1),
        "self-adjusting Dice of items": Dice("example", alpha=0.01, positive=1),
    }


def _gaussians(rows: int, name: str) -> tuple[Tensor, Tensor]:
    """Points [rows, 20] and labels [rows], of which the share ``SHARE`` is 1; the direction is the same for all."""
    import torch

    from palimpsest.roles import seeded

    generator = torch.Generator().manual_seed(seeded("dice", name))
    labels = (torch.rand(rows, generator=generator) < SHARE).long()
    points = torch.randn(rows, 20, generator=generator)
    direction = torch.ones(20) / 20**0.5
    return points + APART * labels[:, None] * direction, labels


def _trained(objective: Objective, points: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A logistic regression after ``STEPS`` steps; all losses start from the same weights and see the same batches."""
    import torch
    from torch import nn

    from palimpsest.views import LabelView

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Linear(20, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(0, len(points), (BATCH,), generator=generator)
        loss = objective(LabelView({"labels": labels[rows]}, model(points[rows]))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()
    return model


def _margin(model: nn.Module, points: Tensor) -> Tensor:
    """The logit of the rare class [rows]; 0 is probability one half."""
    import torch

    with torch.no_grad():
        logits = model(points)
    difference: Tensor = logits[:, 1] - logits[:, 0]
    return difference


def _f1(margin: Tensor, labels: Tensor, threshold: float) -> float:
    """In percent."""
    said = margin > threshold
    both = float((said & (labels == 1)).sum())
    return 200 * both / max(1.0, float(said.sum() + labels.sum()))


def _best_threshold(margin: Tensor, labels: Tensor) -> float:
    """The one, of 200, with the highest F1."""
    import torch

    candidates: list[float] = torch.quantile(margin, torch.linspace(0.8, 0.999, 200)).tolist()
    return max(candidates, key=lambda t: _f1(margin, labels, t))
