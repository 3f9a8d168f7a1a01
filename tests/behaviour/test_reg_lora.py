"""The penalty keeps an earlier task that plain sequential adapters lose."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.reg_lora import RegLoRA

LETTERS = "abcdefghijklmnopqrst"
TASKS = [
    [{"prompt": f"{letter}{digit}", "completion": a[i % 3] + b[i % 7]} for i, letter in enumerate(LETTERS)]
    for digit, (a, b) in ((5, ("xyz", "abcdefg")), (6, ("pqr", "hijklmn")))
]


def weights_of(model):
    """The matrices of the decoder's linear layers."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("proj.weight")}


def in_turn(facts, weight, fraction=0.1):
    """The decoder after both tasks, and its matrices before them and after each."""
    base, states = copy.deepcopy(facts.model), {}
    seen = [weights_of(base)]
    for seed, rows in enumerate(TASKS):
        torch.manual_seed(seed)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        objective = on("task", CrossEntropy()) + weight * on("weights", RegLoRA(fraction))
        training = Training(steps=60, batch=20, lr=5e-3)
        result = fit(model, facts.adapter.roles(task=rows), objective, training, previous=states)
        states, base = result.states, model.merge_and_unload().requires_grad_(True)
        assert facts.knows(base, rows).recall > 0.9
        seen.append(weights_of(base))
    return base, seen


@pytest.fixture(scope="module")
def both(facts):
    return {weight: in_turn(facts, weight) for weight in (0.0, 100.0)}


def test_keeps_more_of_the_earlier_task(facts, both):
    plain, kept = (facts.knows(model, TASKS[0]) for model, _ in both.values())
    assert kept.nll < plain.nll - 1.5, (kept, plain)


def second_where_the_first_was_large(seen, fraction=0.1):
    """Mean |second update| at the ``fraction`` of entries where the first was largest, over that at all others."""
    inside, outside = [], []
    for name, start in seen[0].items():
        first, second = (seen[1][name] - start).abs().flatten(), (seen[2][name] - seen[1][name]).abs().flatten()
        largest = first >= first.topk(int(fraction * len(first))).values[-1]
        inside.append(second[largest]), outside.append(second[~largest])
    return float(torch.cat(inside).mean() / torch.cat(outside).mean())


def test_the_second_update_is_small_where_the_first_was_large(both):
    """On merged weights; a penalty on as many other entries leaves it as large there as elsewhere."""
    plain, kept = (second_where_the_first_was_large(seen) for _, seen in both.values())
    assert plain > 0.8 and kept < 0.2, (plain, kept)
