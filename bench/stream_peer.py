"""Split digits learned by naive training, replay and LwF, in Avalanche and in Palimpsest, side by side.

    python bench/stream_peer.py [--seeds 5] [--json FILE]

Both sides have the same rows in the same five tasks of two classes, the same network from the same weights, seven
epochs of batches of 32, SGD with momentum afresh for each task, a reservoir of 200 rows (32 of them beside each batch,
in one mean), and the same distillation on the old classes (weight 1, temperature 2).  What they do not share is the
order in which rows are drawn.  Accuracies are measured alike for both, on the test rows after each task: over all ten
classes, and where the task is known.  Seconds are of the processor, in training, since other programs may be at work.
Differences are paired by seed, with 95 % Student intervals.  A method passes if its final accuracies, of both kinds,
lie within 5 points of each other or the interval of their difference holds 0.

Avalanche's old model for LwF stays in train mode, so that its batch normalization follows the new rows; here it is in
eval mode, as it was when it had learned.  The method passes or not with Avalanche's put into eval mode; as it is
released it is measured too.

Avalanche (avalanche-lib 0.6.0) is no dependency: where it cannot be imported a sentence says so and nothing is run.
EWC is left out, since Avalanche squares gradients of batch means, which is another quantity than the Fisher.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audit import Row
from palimpsest.audits.accuracy import Accuracy
from palimpsest.audits.task_accuracy import TaskAccuracy
from palimpsest.claims._evidence import over_seeds
from palimpsest.continual import StageMatrix, forgetting_initial, overall_performance
from palimpsest.loop import Training, fit
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.learning_without_forgetting import LearningWithoutForgetting
from palimpsest.reference import Copy
from palimpsest.roles import Roles
from palimpsest.selectors.reservoir import Reservoir
from palimpsest.zoo.classifiers import digits_cnn
from palimpsest.zoo.digits import digits, of_classes

RELEASED = "LwF, its old model in train mode in Avalanche"
METHODS = ("naive", "replay", "LwF", RELEASED)
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
EPOCHS, BATCH, RATE, BUFFER = 7, 32, 0.02, 200
ADAPTER = Classifier(10)
WITHIN = 0.05

Tasks = list[list[Row]]
AfterTask = Callable[[nn.Module], None]


@dataclass
class Learned:
    """Processor seconds of training, and for each kind of accuracy one row a task learned, one column a task."""

    seconds: float = 0.0
    rows: dict[str, list[list[float]]] = field(default_factory=dict)

    def measure(self, model: nn.Module, tests: Tasks) -> None:
        """Adds a row to both matrices."""
        subject, training = ADAPTER.subject(model), model.training
        for name, audit in (("all classes", Accuracy()), ("task known", TaskAccuracy())):
            row = [float(audit(subject, {"test": rows}, "test").items.mean()) for rows in tests]
            self.rows.setdefault(name, []).append(row)
        model.train(training)

    def figures(self) -> dict[str, float]:
        """Final accuracy and forgetting of both kinds."""
        found = {}
        for name, rows in self.rows.items():
            matrix = StageMatrix.of([[None] * len(PAIRS), *rows], range(1, len(PAIRS) + 1), better="higher")
            final, lost = overall_performance(matrix), forgetting_initial(matrix)
            assert final is not None and lost is not None
            found |= {f"accuracy, {name}": float(final), f"forgetting, {name}": float(lost)}
        return {**found, "seconds": self.seconds}


def in_palimpsest(method: str, train: Tasks, tests: Tasks, seed: int) -> Learned:
    """A stage a task."""

    def objective(t: int) -> Total | Term:
        own = on("task", CrossEntropy())
        if t and method == "replay":
            return 0.5 * own + 0.5 * on("seen", CrossEntropy())
        if t and method in ("LwF", RELEASED):
            return own + on("task", LearningWithoutForgetting(tuple(c for pair in PAIRS[:t] for c in pair)))
        return own

    model, learned = digits_cnn(seed=seed), Learned()
    training = Training(epochs=EPOCHS, batch=BATCH, lr=RATE, optimizer="sgd", clip=None)
    for t, own in enumerate(train):
        start = time.process_time()
        rows = {"task": own}
        if t and method == "replay":
            rows["seen"] = [row for task in train[:t] for row in task]
        chosen = {"seen": Reservoir(BUFFER, seed)(rows["seen"])} if "seen" in rows else {}
        roles = Roles(ADAPTER, rows, selections=chosen)
        fit(model, roles, objective(t), training, seed=seed, reference=Copy(model) if "LwF" in method else None)
        learned.seconds += time.process_time() - start
        learned.measure(model, tests)
    return learned


def in_avalanche(method: str, train: Tasks, tests: Tasks, seed: int) -> Learned:
    """An experience a task."""
    from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
    from avalanche.benchmarks.scenarios.supervised import with_classes_timeline
    from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as dataset
    from avalanche.training.plugins import LwFPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from avalanche.training.templates import SupervisedTemplate

    class Evaluating(LwFPlugin):
        """Its old model in eval mode."""

        def after_training_exp(self, strategy: Any, **more: Any) -> None:
            super().after_training_exp(strategy, **more)
            self.lwf.prev_model.eval()

    torch.manual_seed(seed)
    model, learned = digits_cnn(seed=seed), Learned()
    kept = ReservoirSamplingBuffer(BUFFER)
    plugins = {
        "naive": [],
        "replay": [ReplayPlugin(BUFFER, batch_size=BATCH, batch_size_mem=BATCH, storage_policy=kept)],
        "LwF": [Evaluating(alpha=1, temperature=2)],
        RELEASED: [LwFPlugin(alpha=1, temperature=2)],
    }[method]
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        plugins=plugins,
        evaluator=None,
    )
    tensors = [(torch.stack([r["inputs"] for r in own]), torch.tensor([r["label"] for r in own])) for own in train]
    benchmark = benchmark_from_datasets(train=[dataset(*own, task_labels=0) for own in tensors])
    for experience in with_classes_timeline(benchmark).train_stream:
        start = time.process_time()
        strategy.train(experience, reset_optimizer_state=True)
        learned.seconds += time.process_time() - start
        learned.measure(model, tests)
    return learned


SIDES: Mapping[str, Callable[[str, Tasks, Tasks, int], Learned]] = {
    "palimpsest": in_palimpsest,
    "avalanche": in_avalanche,
}


def compared(seeds: int) -> dict[str, Any]:
    """Method -> each side's figures and the paired differences; the sides take turns."""
    found: dict[str, Any] = {}
    for learn in SIDES.values():  # what is imported at first use is no part of the time
        train, tests = ([of_classes(part, classes=pair) for pair in PAIRS[:1]] for part in digits())
        learn("naive", train, tests, 0)
    for method in METHODS:
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for seed in range(seeds):
            train, tests = ([of_classes(part, classes=pair) for pair in PAIRS] for part in digits(seed=seed))
            for side, learn in SIDES.items():
                runs[side].append(learn(method, train, tests, seed).figures())
        names = list(runs["palimpsest"][0])
        values = {side: {n: over_seeds([run[n] for run in own]) for n in names} for side, own in runs.items()}
        pairs = list(zip(runs["palimpsest"], runs["avalanche"], strict=True))
        values["difference"] = {n: over_seeds([ours[n] - theirs[n] for ours, theirs in pairs]) for n in names}
        found[method] = {
            kind: {n: [i.value, i.low, i.high] for n, i in figures.items()} for kind, figures in values.items()
        }
        found[method]["times as fast"] = fmean(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    return found


def agrees(method: Mapping[str, Any]) -> bool:
    """Whether the final accuracies lie within 5 points, or their difference may be 0."""
    differences = [v for n, v in method["difference"].items() if n.startswith("accuracy")]
    return all(abs(value) < WITHIN or low <= 0 <= high for value, low, high in differences)


def show(found: Mapping[str, Any]) -> None:
    for method, sides in found.items():
        print(f"{method}: Palimpsest is {sides['times as fast']:.2f} times as fast")
        for name in sides["difference"]:
            shown = [f"{kind} {v[name][0]:7.3f} [{v[name][1]:6.3f}, {v[name][2]:6.3f}]" for kind, v in _kinds(sides)]
            print(f"  {name:24} {'  '.join(shown)}")


def _kinds(sides: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(kind, sides[kind]) for kind in (*SIDES, "difference")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes ``--json``; ends with 1 where the two sides are not the same method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("avalanche") is None:
        print(
            "Avalanche cannot be imported, so nothing was compared; pip install avalanche-lib==0.6.0 in a venv apart."
        )
        return 0
    found = compared(given.seeds)
    show(found)
    if given.json:
        versions = {name: importlib.metadata.version(name) for name in ("avalanche-lib", "torch")}
        about = {"seeds": given.seeds, "threads": torch.get_num_threads(), "machine": platform.machine(), **versions}
        given.json.write_text(json.dumps({"study": "split-digits", "methods": found, "about": about}, indent=1) + "\n")
    return 0 if all(agrees(own) for method, own in found.items() if method != RELEASED) else 1


if __name__ == "__main__":
    raise SystemExit(main())
