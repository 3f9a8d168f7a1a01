"""State for a quarter of the columns and signs for the rest reach a full-rank target; without the rest they do not."""

import pytest
import torch

from palimpsest.optim import FRUGAL

RATES, STEPS = (0.03, 0.1), 160


def ends(seed, **settings):
    """The lowest excess loss over the rates: a linear map of 24 x 20 fitted to noise, from 0.4."""
    found = []
    for rate in RATES:
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = torch.randn(64, 24, generator=generator), torch.randn(64, 20, generator=generator)
        weight = torch.nn.Parameter(torch.zeros(24, 20))
        optimizer = FRUGAL([{"params": [weight], "project": True}], rate, update_gap=20, **settings)
        for step in range(STEPS):
            loss = (inputs @ weight - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / STEPS)
            optimizer.step()
        solved = inputs @ torch.linalg.lstsq(inputs, targets).solution
        found.append(float(loss.detach() - (solved - targets).square().mean()))
    return min(found)


@pytest.mark.parametrize("splitter", ["columns", "rows"])
def test_the_rest_of_the_gradient_counts(splitter):
    with_signs, alone, signs_only = (
        ends(0, splitter=splitter, density=density, outside=outside)
        for density, outside in ((0.25, "sign"), (0.25, "nothing"), (0.0, "sign"))
    )
    assert with_signs < 3e-4 and signs_only < 3e-4, (with_signs, signs_only)
    assert alone > 5e-3, alone
