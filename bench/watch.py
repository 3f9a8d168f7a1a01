"""What watching every step costs: at most 1.2 times what the audits alone cost.

    python bench/watch.py [--steps 60] [--rounds 5] [--json FILE]

Three runs take turns: training alone, training watched after every step, and the same audits as often on the
trained model with nothing around them.  The figure is (watched - alone) / audits, each the fewest seconds of all
rounds; what is above 1 is the keeping and putting back of modes, gradients and random generators, and the writing of
every item to the disk, as in a recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.audit import Scores
from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.probability import Probability
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.watch import Watch
from palimpsest.zoo.authors import authors
from palimpsest.zoo.classifiers import digits_mlp
from palimpsest.zoo.digits import digits
from palimpsest.zoo.models import tiny_llama

LIMIT = 1.2
Measure = Callable[[nn.Module], Mapping[str, Scores]]


def classifier(rows: int) -> tuple[nn.Module, Roles, Measure]:
    """The digits' perceptron, and its accuracy on so many rows."""
    train, test = digits()
    roles = Roles(Classifier(10), {"task": train, "test": test[:rows]})

    def measure(model: nn.Module) -> Mapping[str, Scores]:
        return {"accuracy": Accuracy()(roles.adapter.subject(model), roles.rows, "test")}

    return digits_mlp(), roles, measure


def language_model(rows: int) -> tuple[nn.Module, Roles, Measure]:
    """A tiny decoder, and the probability of the answers of so many rows."""
    model, tokenizer = tiny_llama(width=64)
    roles = CausalLM(tokenizer).roles(task=authors(12, 4), test=authors(24, 4)[48 : 48 + rows])

    def measure(model: nn.Module) -> Mapping[str, Scores]:
        return {"probability": Probability()(roles.adapter.subject(model), roles.rows, "test")}

    return model, roles, measure


def measured(made: tuple[nn.Module, Roles, Measure], steps: int, rounds: int) -> dict[str, float]:
    """Seconds of the three runs and the figure."""
    model, roles, measure = made
    start = {name: value.clone() for name, value in model.state_dict().items()}
    training = Training(steps=steps, batch=16, lr=1e-3)

    def train(watch: Watch | None) -> None:
        model.load_state_dict(start)
        fit(model, roles, on("task", CrossEntropy()), training, watch=watch)

    def audits() -> None:
        for _ in range(steps + 1):
            measure(model)

    def watched() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(Watch(1, measure, Path(folder)))

    sides: dict[str, Callable[[], None]] = {"alone": lambda: train(None), "watched": watched, "audits": audits}
    seconds = dict.fromkeys(sides, math.inf)
    for _ in range(rounds + 1):  # the first warms up
        for name, side in sides.items():
            begin = time.perf_counter()
            side()
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return {**seconds, "ratio": (seconds["watched"] - seconds["alone"]) / seconds["audits"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes ``--json``; ends with 1 above the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    found = {
        "classifier, 200 rows": measured(classifier(200), given.steps, given.rounds),
        "language model, 32 rows": measured(language_model(32), given.steps, given.rounds),
    }
    for name, part in found.items():
        took = "  ".join(f"{side} {part[side]:6.3f} s" for side in ("alone", "watched", "audits"))
        print(f"{name:24} {took}  {part['ratio']:.3f} times the audits (limit {LIMIT})")
    if given.json:
        settings = {"steps": given.steps, "threads": torch.get_num_threads(), "machine": platform.machine()}
        given.json.write_text(json.dumps({**found, "settings": settings}, indent=1) + "\n")
    return 0 if all(part["ratio"] <= LIMIT for part in found.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
