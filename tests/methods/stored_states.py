"""What the methods on stored states of general texts are tested with: GeRe's margin in both forms, and distances."""

import copy

import pytest
import torch

from palimpsest.objective import evaluate, on

DOUBLE = torch.float64
TEXTS = [{"text": "the sea is " + "very " * n + "wide"} for n in (0, 3, 1, 5)]
TASK = [{"prompt": f"what {n}", "completion": f" is {n * 7}"} for n in range(4)]


def moved(model, size=0.03, seed=0):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return other


def values(*numbers):
    return torch.tensor(numbers, dtype=DOUBLE)


def loss_of(objective, model, roles, states, size=4):
    role = ("replay", "task") if objective.arity == 2 else "replay"
    term = on(role, objective)
    (batch,) = roles.window(0, size, seed=0)
    return evaluate(term, model, batch, states={term.name: states}).total


def by_hand(model, roles, state, deviations=1.0):
    """(sum, number) of each text's violations, row by row without padding."""
    low = state.mean.float() - deviations * state.deviation.float()
    high = state.mean.float() + deviations * state.deviation.float()
    (batch,) = roles.window(0, 4, seed=0)
    found = []
    for index in batch["replay"]["index"].tolist():
        ids = roles["replay"][index]["input_ids"]
        hidden = model.model(ids[None]).last_hidden_state[0].detach()
        base = state.states[state.starts[index] : state.starts[index + 1]]
        total, number = 0.0, 0
        for h, b, lo, hi in zip(hidden.flatten(), base.flatten(), low.repeat(len(ids)), high.repeat(len(ids))):
            if b <= lo:
                v = max(float(h - lo), 0)
            elif b >= hi:
                v = max(float(hi - h), 0)
            else:
                v = max(float(h - hi), 0) + max(float(lo - h), 0)
            total, number = total + v, number + (v > 0)
        found.append((total, number))
    return found


def nothing_for_the_base_and_something_for_another(objective, model, roles):
    """The states that are held are those of the base, so that it has no loss."""
    states = objective.prepare(model, roles, "replay")
    # Rows stand in other batches when they are stored: to rounding.
    assert float(loss_of(objective, model, roles, states).detach()) < (0.01 if objective.arity == 2 else 1e-5)
    assert float(loss_of(objective, moved(model), roles, states).detach()) > 0.01


def negative_deviations_are_refused(objective):
    with pytest.raises(ValueError, match="deviations must be at least 0"):
        objective(deviations=-1.0)
