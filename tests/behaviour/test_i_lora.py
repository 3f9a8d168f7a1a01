"""With the slow adapter, more is known of an earlier task than by the adapter of plain replay; and the line between."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.embedding_consistency import EmbeddingConsistency
from palimpsest.procedures.linear_path import linear_path, trained_weights
from palimpsest.reference import SlowAverage

TASKS = [
    [{"prompt": f"{letter}{digit}", "completion": a[i % 3] + b[i % 7] + c[i % 5]} for i, letter in enumerate(LETTERS)]
    for LETTERS, digit, (a, b, c) in (
        ("abcdefghijklmnopqrst", 5, ("xyz", "abcdefg", "klmno")),
        ("abcdefghijklmnopqrst", 6, ("pqr", "hijklmn", "uvwxy")),
    )
]
REPLAY = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
TRAINING = Training(steps=60, batch=20, lr=5e-3)


def runs(facts, later, decay=0.96):
    """(fast model, slow model, adapter after each task) of a run whose second task replays a quarter of the first."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(facts.model), config)
    slow, ends = SlowAverage(model, decay, warm=True), []
    for objective, rows in ((on("task", CrossEntropy()), {}), (later, {"replay": TASKS[0][:5]})):
        task = TASKS[len(ends)]
        fit(model, facts.adapter.roles(task=task, **rows), objective, TRAINING, reference=slow)
        ends.append(trained_weights(model))
    return model, slow.module, ends


@pytest.fixture(scope="module")
def after(facts):
    return {
        "replay": runs(facts, REPLAY),
        "i-lora": runs(facts, REPLAY + on("replay", EmbeddingConsistency())),
    }


def test_the_slow_adapter_knows_more_of_the_earlier_task(facts, after):
    earlier = TASKS[0][5:]
    fast, _, _ = after["replay"]
    _, slow, _ = after["i-lora"]
    assert facts.knows(fast, TASKS[1]).recall > 0.95 and facts.knows(slow, TASKS[1]).recall > 0.8
    assert facts.knows(slow, earlier).nll < facts.knows(fast, earlier).nll - 0.5


def test_consistency_keeps_more_than_the_slow_average_alone(facts, after):
    """Of the adapter that is trained, and of the slow one, which without the term is only an average of it."""
    earlier = TASKS[0][5:]
    for of in range(2):
        plain, kept = (facts.knows(after[name][of], earlier).nll for name in ("replay", "i-lora"))
        assert kept < plain - 1, (of, plain, kept)


def test_an_inner_point_of_the_line_is_better_than_both_ends(facts, after):
    model, _, (first, second) = after["replay"]
    path = linear_path(model, first, second, lambda m: facts.knows(m, [*TASKS[0][5:], *TASKS[1]]).nll)
    assert min(path.losses) < min(path.losses[0], path.losses[-1]) - 0.3, path
    assert path.barrier < 0.2
