"""Finds that few layers, chiefly normalization and the classifier, drift sharply between tasks, and fine-tunes only
those on a small buffer, once or a few times, to win back most of the lost accuracy cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palimpsest.claim import Budget, Claim, Evidence, Paper

if TYPE_CHECKING:
    from torch import nn

    from palimpsest.claims._split_digits import Learned, Stream
    from palimpsest.loop import Training
    from palimpsest.mask import Mask

PAPER = Paper(
    "Does Continual Learning Equally Forget All Parameters?",
    "Haiyan Zhao et al.",
    2023,
    arxiv="2304.04158",
    venue="ICML 2023",
    tags=("retain", "continual-learning", "mask", "replay", "classifier"),
    summary=(
        "Finds that few layers, chiefly normalization and the classifier, drift sharply between tasks, and fine-tunes "
        "only those on a small buffer, once or a few times, to win back most of the lost accuracy cheaply."
    ),
)
PARTS: tuple[str, ...] = ("masks.forgetting_prioritized", "procedures.k_fpf", "selectors.reservoir")

STEPS, ROWS, RATE, BUFFER = 60, 32, 0.05, 200
"""Steps a task, rows a step, learning rate of plain SGD, rows in the buffer."""


class FewLayersDrift(Claim):
    """A small CNN with batch normalization learns digits in five tasks of two classes, by plain SGD without replay.

    The sensitivity of a layer is the mean absolute change of its entries over the first epoch of a new task, averaged
    over the four changes of task; its calm is the same over one more epoch of the old task.  Shown when, over seeds,
    the mean sensitivity of classifier and normalization (affine weights and statistics) is more than 2 times that of
    the convolutions and the hidden layer, and more than 2 times their own calm; in part when only the first holds.
    """

    says = "When the task changes, the classifier and normalization drift far more than the other layers."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Small enough for a processor in either budget."""
        from statistics import fmean

        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._split_digits import learn, split_digits
        from palimpsest.masks.forgetting_prioritized import named_groups
        from palimpsest.objective import on
        from palimpsest.objectives.cross_entropy import CrossEntropy

        drift: dict[str, list[float]] = {}
        apart, peak = [], []
        for seed in seeds:
            stream = split_digits(seed)
            found: list[tuple[dict[str, float], dict[str, float]]] = []

            def look(t: int, model: nn.Module, stream: Stream = stream, found: list = found) -> None:  # type: ignore[type-arg]
                if t + 1 < len(stream.train):
                    found.append((_an_epoch_on(model, stream, t + 1), _an_epoch_on(model, stream, t)))

            model = learn(stream, lambda t, old: on("task", CrossEntropy()), _training(), after_task=look).model
            new, same = ({g: fmean(f[i][g] for f in found) for g in found[0][i]} for i in (0, 1))
            chosen = named_groups(model, ("normalization", "last"))
            rest = [g for g in new if g not in chosen]
            apart.append(fmean(new[g] for g in chosen) / fmean(new[g] for g in rest))
            peak.append(fmean(new[g] for g in chosen) / fmean(same[g] for g in chosen))
            for group, value in new.items():
                drift.setdefault(group, []).append(value)
        conditions = [
            Condition("drift of classifier and normalization over that of the rest", over_seeds(apart), "above", 2.0),
            Condition("their drift over that of one more epoch of the old task", over_seeds(peak), "above", 2.0),
        ]
        figures = [figure(f"drift of {group}", over_seeds(values)) for group, values in drift.items()]
        return evidence(conditions, figures, {"steps a task": STEPS, "learning rate": RATE})


class RoundsReplaceReplay(Claim):
    """The same stream; experience replay (a batch of the buffer beside every batch) against plain SGD with rounds.

    Both have a buffer of 200 rows.  k-FPF has five rounds of 20 steps; twenty rounds of 10 are reported beside it.
    Test accuracy is the mean over tasks with all ten classes competing; cost is rows through forward and backward.
    Shown when, over seeds, five rounds are more than 20 points above plain SGD, less than 10 points below replay, and
    cost less than three quarters of replay; in part when the first alone holds.
    """

    says = "A few short rounds on a buffer win back most of what replay at every step keeps, at a lower cost."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Small enough for a processor in either budget."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._split_digits import learn, score, split_digits
        from palimpsest.objective import on
        from palimpsest.objectives.cross_entropy import CrossEntropy
        from palimpsest.procedures.k_fpf import KFPF

        accuracy: dict[str, list[float]] = {}
        cost: dict[str, list[float]] = {}
        both = on("task", CrossEntropy()) + on("replay", CrossEntropy())
        few, many = KFPF(rounds=1, steps=20, size=BUFFER), KFPF(rounds=4, steps=10, size=BUFFER)  # a task of five
        for seed in seeds:
            stream = split_digits(seed)
            runs = {
                "plain SGD": learn(stream, lambda t, old: on("task", CrossEntropy()), _training()),
                "replay": _replayed(stream),
                "k-FPF, 5 rounds": learn(stream, lambda t, old: both, _training(), buffer=BUFFER, procedure=few),
                "k-FPF, 20 rounds": learn(stream, lambda t, old: both, _training(), buffer=BUFFER, procedure=many),
            }
            for name, learned in runs.items():
                accuracy.setdefault(name, []).append(score(learned.model, stream))
                cost.setdefault(name, []).append(learned.rows)
        rounds, plain, replay = (accuracy[name] for name in ("k-FPF, 5 rounds", "plain SGD", "replay"))
        ratio = [a / b for a, b in zip(cost["k-FPF, 5 rounds"], cost["replay"], strict=True)]
        conditions = [
            Condition("accuracy of k-FPF minus plain SGD", over_seeds(_minus(rounds, plain)), "above", 20.0, "points"),
            Condition("accuracy of k-FPF minus replay", over_seeds(_minus(rounds, replay)), "above", -10.0, "points"),
            Condition("cost of k-FPF over that of replay", over_seeds(ratio), "below", 0.75),
        ]
        figures = [figure(f"accuracy, {name}", over_seeds(values), "points") for name, values in accuracy.items()]
        figures += [figure(f"cost, {name}", over_seeds(values), "rows") for name, values in cost.items()]
        return evidence(conditions, figures, {"buffer": BUFFER, "steps a task": STEPS, "learning rate": RATE})


class LiftsReplay(Claim):
    """A model that has gone through the stream with replay is tuned for 60 steps on its buffer of 200 rows.

    Tuned are the classifier and normalization; as many single weights of the other layers, drawn at random, with all
    statistics held still; or everything.  Shown when, over seeds, the first is more than 1 point above the model before
    and above the random weights; in part when only the former holds.  Tuning everything is reported.
    """

    says = "Tuning only the sensitive layers on the buffer afterwards lifts a model trained with replay."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """Small enough for a processor in either budget."""
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._split_digits import score, split_digits, tuned_on_buffer
        from palimpsest.masks.forgetting_prioritized import mask_of, named_groups

        accuracy: dict[str, list[float]] = {}
        for seed in seeds:
            stream = split_digits(seed)
            learned = _replayed(stream)
            chosen = mask_of(learned.model, named_groups(learned.model, ("normalization", "last")))
            masks = {"sensitive layers": chosen, "random weights": _random(chosen, learned.model, seed), "all": None}
            accuracy.setdefault("replay", []).append(score(learned.model, stream))
            for name, mask in masks.items():
                tuned = tuned_on_buffer(learned, stream, mask, _training(), BUFFER)
                accuracy.setdefault(f"then {name}", []).append(score(tuned, stream))
        lift = _minus(accuracy["then sensitive layers"], accuracy["replay"])
        ahead = _minus(accuracy["then sensitive layers"], accuracy["then random weights"])
        conditions = [
            Condition(
                "accuracy after tuning the sensitive layers minus before", over_seeds(lift), "above", 1.0, "points"
            ),
            Condition("the same minus tuning as many random weights", over_seeds(ahead), "above", 0.0, "points"),
        ]
        figures = [figure(f"accuracy, {name}", over_seeds(values), "points") for name, values in accuracy.items()]
        return evidence(conditions, figures, {"buffer": BUFFER, "steps": STEPS, "learning rate": RATE})


def _training() -> Training:
    from palimpsest.claims._split_digits import plain_sgd
    from palimpsest.loop import Training

    return Training(steps=STEPS, batch=ROWS, lr=RATE, optimizer=plain_sgd, clip=None)


def _replayed(stream: Stream) -> Learned:
    """Experience replay: from the second task on, a batch of the buffer beside every batch."""
    from palimpsest.claims._split_digits import learn
    from palimpsest.objective import Term, Total, on
    from palimpsest.objectives.cross_entropy import CrossEntropy

    def objective(t: int, old: Sequence[int]) -> Term | Total:
        own = on("task", CrossEntropy())
        return own + on("replay", CrossEntropy()) if t else own

    return learn(stream, objective, _training(), buffer=BUFFER)


def _an_epoch_on(model: nn.Module, stream: Stream, task: int) -> dict[str, float]:
    """The mean absolute change of every layer's entries over an epoch on a task; the model is left alone."""
    import copy
    from dataclasses import replace

    from palimpsest.claims._split_digits import ADAPTER
    from palimpsest.loop import fit
    from palimpsest.masks.forgetting_prioritized import sensitivity
    from palimpsest.objective import on
    from palimpsest.objectives.cross_entropy import CrossEntropy

    moved = copy.deepcopy(model)
    roles = ADAPTER.roles(task=stream.train[task])
    fit(moved, roles, on("task", CrossEntropy()), replace(_training(), steps=None, epochs=1), seed=stream.seed)
    return sensitivity(model, model.state_dict(), moved.state_dict())


def _random(chosen: Mask, model: nn.Module, seed: int) -> Mask:
    """As many entries as ``chosen`` lets move, drawn from those that it freezes; all statistics are held still."""
    import torch

    from palimpsest.mask import Mask

    count = sum(int(m.sum()) for m in chosen.moves.values())
    frozen = torch.cat([(~m).flatten() for m in chosen.moves.values()]).nonzero().flatten()
    order = torch.randperm(len(frozen), generator=torch.Generator().manual_seed(seed % 2**63))
    flat = torch.zeros(sum(m.numel() for m in chosen.moves.values()), dtype=torch.bool)
    flat[frozen[order[:count]]] = True
    parts = torch.split(flat, [m.numel() for m in chosen.moves.values()])
    moves = {n: part.view(m.shape) for (n, m), part in zip(chosen.moves.items(), parts, strict=True)}
    still = frozenset(name for name, module in model.named_modules() if list(module.buffers(recurse=False)))
    return Mask(moves, "as many at random", still)


def _minus(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]
