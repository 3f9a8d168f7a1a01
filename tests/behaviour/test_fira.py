"""A full-rank target learned with moments of rank 2: Fira gets there as AdamW does, GaLore not in that time."""

import pytest
import torch

from palimpsest.optim import Fira, GaLore

RATES, STEPS = (0.03, 0.1), 160


def ends(make, seed):
    """The lowest excess loss over the rates: two linear maps fitted to noise, one tall and one wide, from 0.7."""
    found = []
    for rate in RATES:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(64, 24, generator=generator)
        targets = [torch.randn(64, n, generator=generator) for n in (20, 30)]
        weights = [torch.nn.Parameter(torch.zeros(24, t.shape[1])) for t in targets]
        optimizer = make(weights, rate)
        for step in range(STEPS):
            loss = torch.stack([(inputs @ w - t).square().mean() for w, t in zip(weights, targets)]).sum()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / STEPS)
            optimizer.step()
        solved = [inputs @ torch.linalg.lstsq(inputs, t).solution for t in targets]
        found.append(float(loss.detach()) - sum(float((s - t).square().mean()) for s, t in zip(solved, targets)))
    return min(found)


def split(weights):
    return [{"params": weights, "project": True}]


@pytest.mark.parametrize("seed", [0])
def test_the_rest_of_the_gradient_counts(seed):
    settings = {"rank": 2, "update_gap": 60, "alpha": 0.25}
    adamw = ends(lambda weights, rate: torch.optim.AdamW(weights, rate, weight_decay=0.0), seed)
    galore = ends(lambda weights, rate: GaLore(split(weights), rate, **settings), seed)
    fira = ends(lambda weights, rate: Fira(split(weights), rate, **settings), seed)
    assert adamw < 0.005 and fira < 0.005 and galore > 0.1, (adamw, galore, fira)
