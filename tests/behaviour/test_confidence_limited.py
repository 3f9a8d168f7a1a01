"""Uncertain answers learned by heart: cross-entropy forgets the second best, limited confidence keeps it."""

import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.audits.pass_at_n import PassAtN
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.confidence_limited import DirectCoverageOptimization
from palimpsest.objectives.cross_entropy import CrossEntropy

CLASSES = 20


def rows(count, seed):
    """Ten numbers that say something of the answer, which is drawn from what they make likely."""
    generator = torch.Generator().manual_seed(seed)
    effect = 1.2 * torch.randn(10, CLASSES, generator=torch.Generator().manual_seed(99))
    inputs = torch.randn(count, 10, generator=generator)
    labels = torch.multinomial((inputs @ effect).softmax(1), 1, generator=generator)[:, 0]
    return [{"inputs": x, "label": int(y)} for x, y in zip(inputs, labels)]


def covered(objective, seed):
    """n -> the exact pass@n on new rows, after many rounds through 100."""
    torch.manual_seed(seed)
    model, adapter = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, CLASSES)), Classifier(CLASSES)
    fit(model, adapter.roles(task=rows(100, seed)), on("task", objective), Training(steps=200, batch=50, lr=1e-2))
    new = {"new": rows(300, seed + 1000)}
    return {n: float(PassAtN(n=n, how="exact")(adapter.subject(model), new, "new").items.mean()) for n in (1, 16)}


def test_many_tries_against_one():
    limited, plain = covered(DirectCoverageOptimization(16), 0), covered(CrossEntropy(), 0)
    assert limited[16] > plain[16] + 0.1, (limited, plain)
    assert plain[1] > limited[1] + 0.05, (limited, plain)
