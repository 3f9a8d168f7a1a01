"""The penalty keeps an earlier task that plain sequential adapters lose."""

import copy

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


def earlier_task(facts, weight):
    """Nats and recall of the first task after the second."""
    base, states = copy.deepcopy(facts.model), {}
    for seed, rows in enumerate(TASKS):
        torch.manual_seed(seed)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        objective = on("task", CrossEntropy()) + weight * on("weights", RegLoRA(0.1))
        training = Training(steps=60, batch=20, lr=5e-3)
        result = fit(model, facts.adapter.roles(task=rows), objective, training, previous=states)
        states, base = result.states, model.merge_and_unload().requires_grad_(True)
        assert facts.knows(base, rows).recall > 0.9
    return facts.knows(base, TASKS[0])


def test_keeps_more_of_the_earlier_task(facts):
    plain, kept = earlier_task(facts, 0.0), earlier_task(facts, 100.0)
    assert kept.nll < plain.nll - 1.5, (kept, plain)
