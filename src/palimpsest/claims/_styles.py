"""A tiny decoder that answers in three styles, and tasks that are each taught in one of them.

A row shows four random words and asks for the first, second, third or fourth; the answer is that word, a sentence
with it, or a longer one, as the request that ends the prompt says.  Test rows are never trained on.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row, Scores, row_ids
from palimpsest.claim import Budget, Figure
from palimpsest.claims._evidence import figure
from palimpsest.claims._facts import decoder, recall, word_tokenizer
from palimpsest.claims._tasks import adapted
from palimpsest.loop import Training, fit
from palimpsest.objective import Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.reg_lora import RegLoRA
from palimpsest.procedures.answer_styles import REQUESTS, diversified
from palimpsest.schedules.ramp import Ramp
from palimpsest.statistics import bootstrap_over_seeds
from palimpsest.step import States

__all__ = ["SIZES", "Picks", "figures_of", "measured"]

STYLES = ("short", "brief", "detailed")
TOKENS = 10
"""As long as the longest answer."""


@dataclass(frozen=True)
class Picks:
    """How many words there are, how large the decoder is, how long it learns, and how long a task lasts."""

    values: int = 20
    layers: int = 2
    width: int = 64
    rows: int = 200
    steps: int = 500
    batch: int = 32
    task_rows: int = 300
    task_steps: int = 40
    task_lr: float = 1e-2
    tests: int = 40

    def asked(self, pick: int, count: int, kind: str) -> list[Row]:
        """Rows without a style."""
        generator, found = random.Random(f"{kind}/{pick}"), list[Row]()
        for number in range(count):
            shown = [f"v{generator.randrange(self.values)}" for _ in range(4)]
            said = f"the r{pick} is {shown[pick]}"
            row = {"id": f"{kind}/{pick}/{number}", "prompt": f"{' '.join(shown)} r{pick}", "answer": shown[pick]}
            found.append({**row, "completion": said, "detailed": f"well everybody knows that {said}"})
        return found

    @property
    def words(self) -> list[str]:
        """The vocabulary."""
        said = " ".join(["well everybody knows that the is", *(REQUESTS[style] for style in STYLES)]).split()
        return [*dict.fromkeys(said), *(f"r{i}" for i in range(4)), *(f"v{i}" for i in range(self.values))]


SIZES: Mapping[Budget, Picks] = {
    "cpu": Picks(),
    "gpu": Picks(values=100, layers=4, width=128, rows=2000, steps=3000, batch=128, tests=200),
}


def measured(
    picks: Picks, arms: Mapping[str, tuple[float, float]], fraction: float, seed: int, device: torch.device
) -> dict[str, dict[str, Scores]]:
    """Arm (share of rows in other styles, weight of RegLoRA) -> ``exact`` and ``content`` scores of the earlier tasks.

    Raises ``ValueError`` where the decoder does not answer nine of ten tests in all styles before the first task.
    """
    adapter = CausalLM(word_tokenizer(picks.words))
    base = decoder(len(picks.words), picks.layers, picks.width, seed).to(device)
    rows = [r for s in STYLES for pick in range(4) for r in diversified(picks.asked(pick, picks.rows, s), s, (), 0.0)]
    training = Training(steps=picks.steps, batch=picks.batch, lr=3e-3, warmup=0.05, schedule=Ramp(1.0, 0.0))
    fit(base, adapter.roles(task=rows), on("task", CrossEntropy()), training, seed=seed)
    tests = [diversified(picks.asked(k, picks.tests, "test"), style, (), 0.0) for k, style in enumerate(STYLES)]
    known = float(recall(adapter, base, [row for own in tests for row in own]).items.mean())
    if known < 0.9:
        raise ValueError(f"The decoder answers only {known:.0%} of the tests with seed {seed}; train it longer.")
    earlier = [row for own in tests[:-1] for row in own]
    found = {}
    for arm, (share, weight) in arms.items():
        model = _tuned(picks, adapter, base, share, weight, fraction, seed)
        newest = recall(adapter, model, tests[-1])
        found[arm] = {
            "exact": recall(adapter, model, earlier),
            "content": _content(adapter, model, earlier),
            "newest": newest,
        }
    return found


def _tuned(
    picks: Picks, adapter: CausalLM, base: nn.Module, share: float, weight: float, fraction: float, seed: int
) -> nn.Module:
    """The decoder after one task a style, each with a fresh adapter that is then merged."""
    model = copy.deepcopy(base)
    states: States = {}
    objective = Total((on("task", CrossEntropy()),))
    if weight:
        objective = objective + weight * on("weights", RegLoRA(fraction))
    for pick, style in enumerate(STYLES):
        others = [other for other in STYLES if other != style]
        rows = diversified(picks.asked(pick, picks.task_rows, "train"), style, others, share, seed=seed)
        working = adapted(model, seed + pick)
        training = Training(steps=picks.task_steps, batch=30, lr=picks.task_lr)
        states = fit(working, adapter.roles(task=rows), objective, training, seed=seed, previous=states).states
        model = working.merge_and_unload()  # type: ignore[operator]
    return model


def _content(adapter: CausalLM, model: nn.Module, rows: Sequence[Row]) -> Scores:
    """1 for each row whose answer's first shown word is the right one, whatever stands around it, else 0."""
    answers = adapter.subject(model).generate(rows, TOKENS)
    named = [next((w for w in text.split() if w.startswith("v")), "") for text in answers]
    right = [float(name == row["answer"]) for name, row in zip(named, rows, strict=True)]
    return Scores("content", torch.tensor(right, dtype=torch.float64), row_ids(rows, "test"))


def figures_of(found: Mapping[str, Sequence[Mapping[str, Scores]]]) -> list[Figure]:
    """What every arm measured: of the earlier tasks, and of the newest."""
    names = {"exact": "exact answers", "content": "right content", "newest": "exact answers to the newest task"}
    return [
        figure(f"{name}, {arm}", bootstrap_over_seeds([scores[key] for scores in runs]))
        for arm, runs in found.items()
        for key, name in names.items()
    ]
