"""Lowers the likelihood of forget-set answers relative to the starting model by a loss that flattens out as they fade,
so that a language model can be made to forget without the collapse that gradient ascent brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import Tensor

PAPER = Paper(
    "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning",
    "Zhang et al.",
    2024,
    arxiv="2404.05868",
    tags=("forget", "unlearning", "loss", "language-model"),
    summary=(
        "Lowers the likelihood of forget-set answers relative to the starting model by a loss that flattens out as "
        "they fade, so that a language model can be made to forget without the collapse that gradient ascent brings."
    ),
)
PARTS: tuple[str, ...] = ("objectives.npo",)


class SlowerDivergence(Claim):
    """A logistic model on 60 random features in float64, unlearning 40 of 120 points by full-batch gradient descent.

    The distance from the start, over steps 500 to the last, is regressed on t and on log t.  Shown when, over seeds,
    R^2 of the form that the paper predicts (t for gradient ascent, log t for NPO with beta 1 and 0.1) exceeds the
    other's by more than 0.05, and gradient ascent ends more than 5 times as far away as NPO.
    """

    says = "Left to run, NPO moves away from the starting model like log t, where gradient ascent moves like t."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """20,000 steps a run."""
        import torch

        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.objectives.gradient_ascent import gradient_ascent
        from palimpsest.objectives.npo import npo

        steps, first, rate = 20_000, 500, 0.05
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "gradient ascent": lambda logp, ref: gradient_ascent(logp),
            "NPO beta 1": lambda logp, ref: npo(logp, ref, 1.0),
            "NPO beta 0.1": lambda logp, ref: npo(logp, ref, 0.1),
        }
        fits: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
        ends: dict[str, list[float]] = {name: [] for name in losses}
        time = torch.arange(1, steps + 1, dtype=torch.float64)
        for seed in seeds:
            signed, start = _logistic(seed)
            for name, loss in losses.items():
                distance = _travel(signed, start, loss, steps, rate)
                fits[name].append((_r2(distance[first:], time[first:]), _r2(distance[first:], time[first:].log())))
                ends[name].append(float(distance[-1]))
        conditions = [
            Condition(
                f"R² of {name} against {'t' if by_t else 'log t'}, minus that against {'log t' if by_t else 't'}",
                over_seeds([t - log if by_t else log - t for t, log in fits[name]]),
                "above",
                0.05,
            )
            for name, by_t in (("NPO beta 1", False), ("NPO beta 0.1", False), ("gradient ascent", True))
        ]
        for name in ("NPO beta 1", "NPO beta 0.1"):
            ratios = [far / near for far, near in zip(ends["gradient ascent"], ends[name])]
            what = f"final distance of gradient ascent over that of {name}"
            conditions.append(Condition(what, over_seeds(ratios), "above", 5.0))
        figures = []
        for name in losses:
            for form, values in zip(("t", "log t"), zip(*fits[name])):
                figures.append(figure(f"R² of {name} against {form}", over_seeds(values)))
            figures.append(figure(f"final distance of {name}", over_seeds(ends[name])))
        settings = {"steps": steps, "fitted from step": first, "learning rate": rate}
        return evidence(conditions, figures, settings, needed=3)


def _logistic(seed: int) -> tuple[Tensor, Tensor]:
    """Features of 40 forget points times their class, [40, 60], and the weights [60] of a model that knows all 120."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def points(count: int, center: float) -> Tensor:
        return torch.randn(count, 8, generator=generator, dtype=torch.float64) + center

    x = torch.cat([points(40, 1.0), points(80, -1.0)])
    y = (torch.randint(0, 2, (120,), generator=generator) * 2 - 1).double()
    y[40:] = torch.sign(x[40:, 0] + 1)  # what is kept can be learned, what is forgotten must be memorized
    features = torch.relu(x @ torch.randn(8, 60, generator=generator, dtype=torch.float64)) / 60**0.5
    signed = features * y[:, None]
    weights = torch.zeros(60, dtype=torch.float64)
    for _ in range(2000):
        weights += 0.5 * (torch.sigmoid(-(signed @ weights))[:, None] * signed).mean(0)
    return signed[:40], weights


def _travel(signed: Tensor, start: Tensor, loss: Callable[[Tensor, Tensor], Tensor], steps: int, rate: float) -> Tensor:
    """Distance from ``start`` after every step of gradient descent on the forget loss alone, [steps]."""
    import torch
    import torch.nn.functional as F

    ref = F.logsigmoid(signed @ start)
    weights, distance = start.clone().requires_grad_(), []
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(F.logsigmoid(signed @ weights), ref).mean(), weights)
        with torch.no_grad():
            weights -= rate * gradient
            distance.append((weights - start).norm())
    return torch.stack(distance)


def _r2(distance: Tensor, by: Tensor) -> float:
    """R squared of a straight line."""
    import torch

    return float(torch.corrcoef(torch.stack([distance, by]))[0, 1] ** 2)


class KeepsMoreAtEqualForgetting(Claim):
    """A tiny decoder that knows random facts forgets a tenth of the subjects, half of the other facts being replayed.

    Both methods stop at the first step with a forget recall of at most 0.05, and each is given the learning rate at
    which it keeps most.  Shown when the recall of all facts to be kept is then higher by more than 0.05 with NPO, and
    higher at every single learning rate.  NPO is divided by the three tokens of an answer, so that both losses have
    the same gradient at the start.
    """

    says = "At equal forgetting, NPO with a retain term keeps more of the rest than gradient ascent with one."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Three learning rates a method and seed."""
        from palimpsest.claims._evidence import Condition, evidence, exact
        from palimpsest.claims._facts import SIZES, device_of, kept_when_forgotten, learned
        from palimpsest.objective import on
        from palimpsest.objectives.cross_entropy import CrossEntropy
        from palimpsest.objectives.gradient_ascent import GradientAscent
        from palimpsest.objectives.npo import NPO
        from palimpsest.statistics import paired_bootstrap_over_seeds

        rates, steps, beta = (1e-4, 3e-4, 1e-3), 200, 0.5
        retain = on("retain", CrossEntropy())
        objectives = {
            "gradient ascent": on("forget", GradientAscent()) + retain,
            "NPO": on("forget", NPO(beta)) * (1 / 3) + retain,
        }
        known = [learned(SIZES[budget], seed, device_of(budget)) for seed in seeds]
        kept = {
            (name, rate): kept_when_forgotten(known, seeds, objective, rate, steps)
            for name, objective in objectives.items()
            for rate in rates
        }
        best = {
            name: max((-kept[name, rate].missed, kept[name, rate].mean, rate) for rate in rates)[2]
            for name in objectives
        }
        ascent, npo = (kept[name, best[name]] for name in objectives)
        gain = paired_bootstrap_over_seeds(ascent.scores, npo.scores)
        conditions = [
            Condition("runs that never forgot", exact(ascent.missed + npo.missed), "below", 1),
            Condition("retain recall with NPO minus gradient ascent, each at its best", gain, "above", 0.05),
        ]
        for rate in rates:
            change = paired_bootstrap_over_seeds(kept["gradient ascent", rate].scores, kept["NPO", rate].scores)
            conditions.append(Condition(f"the same at learning rate {rate:g}", change, "above", 0.0))
        figures = [f for (name, rate), found in kept.items() for f in found.figures(f"{name}, {rate:g}")]
        settings = {f"best rate of {name}": rate for name, rate in best.items()}
        return evidence(conditions, figures, {"beta": beta, "most steps": steps, **settings}, needed=2)
