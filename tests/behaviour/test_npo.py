"""The paper's logistic model with random features: gradient ascent runs away linearly in time, NPO logarithmically."""

import pytest
import torch
import torch.nn.functional as F

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.gradient_ascent import GradientAscent, gradient_ascent
from palimpsest.objectives.npo import NPO, npo

STEPS, FIRST, RATE = 4000, 200, 0.05


def toy(seed):
    """Features [N, 60] times the sign of the class of 40 forget and 80 retain points, and a model that knows both."""
    generator = torch.Generator().manual_seed(seed)

    def points(n, center):
        return torch.randn(n, 8, generator=generator, dtype=torch.float64) + center

    x = torch.cat([points(40, 1.0), points(80, -1.0)])
    y = (torch.randint(0, 2, (120,), generator=generator) * 2 - 1).double()
    y[40:] = torch.sign(x[40:, 0] + 1)  # what is kept can be learned, what is forgotten must be memorized
    features = torch.relu(x @ torch.randn(8, 60, generator=generator, dtype=torch.float64)) / 60**0.5
    signed = features * y[:, None]
    weights = torch.zeros(60, dtype=torch.float64)
    for _ in range(2000):
        weights += 0.5 * (torch.sigmoid(-(signed @ weights))[:, None] * signed).mean(0)
    return signed[:40], weights


def travel(signed, start, loss_of):
    """Distance from ``start`` after every step of gradient descent on the forget loss alone."""
    ref = F.logsigmoid(signed @ start)
    weights, distance = start.clone().requires_grad_(), []
    for _ in range(STEPS):
        (gradient,) = torch.autograd.grad(loss_of(F.logsigmoid(signed @ weights), ref).mean(), weights)
        with torch.no_grad():
            weights -= RATE * gradient
        distance.append(float((weights - start).norm().detach()))
    return torch.tensor(distance, dtype=torch.float64)


def explained(distance, by):
    """R squared of a straight line in ``by``."""
    return float(torch.corrcoef(torch.stack([distance[FIRST:], by[FIRST:]]))[0, 1] ** 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_log_t_against_t(seed):
    signed, start = toy(seed)
    time = torch.arange(1, STEPS + 1, dtype=torch.float64)
    ascent = travel(signed, start, lambda logp, ref: gradient_ascent(logp))
    bounded = travel(signed, start, lambda logp, ref: npo(logp, ref, 1.0))
    straight = {"ascent": explained(ascent, time), "npo": explained(bounded, time)}
    logarithmic = {"ascent": explained(ascent, time.log()), "npo": explained(bounded, time.log())}
    assert straight["ascent"] > 0.99 and straight["ascent"] - logarithmic["ascent"] > 0.08, (straight, logarithmic)
    assert logarithmic["npo"] > 0.9 and logarithmic["npo"] - straight["npo"] > 0.1, (straight, logarithmic)
    assert float(ascent[-1]) > 20 * float(bounded[-1]) > 20


def test_forgets_without_taking_what_it_never_saw(facts):
    """With the retain term: as much forgotten as by gradient ascent, and more kept of what neither term touches."""
    after = {}
    for objective in (NPO(beta=0.5), GradientAscent()):
        model, _ = facts.train(on("forget", objective) + on("retain", CrossEntropy()), steps=60, lr=3e-4)
        after[type(objective)] = facts.knows(model, facts.forget), facts.knows(model, facts.unseen)
    (forgotten, kept), (gone, lost) = after[NPO], after[GradientAscent]
    assert facts.knows(facts.model, facts.forget).recall > 0.98  # do nothing
    assert forgotten.recall < 0.05 and gone.recall < 0.05
    assert kept.recall > lost.recall + 0.15, (kept, lost)
    assert forgotten.nll < 0.6 * gone.nll, (forgotten, gone)
