"""FLAT moves forget prompts from their answer towards the template, with forget data alone and a bounded loss.

On a decoder this small every method without retain data loses the retain set as well, and a first token of the template
that starts out impossible may stay so (the slope of P fades with it, and P then ends at 2/3); the test therefore claims
the mechanics, not the paper's utility.
"""

import pytest
import torch

from palimpsest.objective import on
from palimpsest.objectives.flat import FLAT, flat


@pytest.mark.parametrize("divergence", ["total_variation", "kl", "jensen_shannon", "pearson", "reverse_kl", "neyman"])
def test_from_the_answer_to_the_template(facts, divergence):
    before = [facts.knows(facts.model, rows) for rows in (facts.forget, facts.refusals(facts.forget))]
    assert before[0].recall == 1 and before[0].probability > 0.95 and before[1].probability < 0.5  # do nothing
    model, result = facts.train(on(("forget", "refusal"), FLAT(divergence)), steps=30, lr=1e-3)
    forget, template = (facts.knows(model, rows) for rows in (facts.forget, facts.refusals(facts.forget)))
    assert forget.probability < 0.4 and forget.recall == 0
    assert template.probability > max(0.6, before[1].probability + 0.2)
    curve = [value for _, value in result.curves["forget+refusal/flat"]]
    low, high = (flat(torch.tensor(f), torch.tensor(e), divergence).item() for f, e in ((0.0, 1.0), (1.0, 0.0)))
    assert low <= min(curve) and max(curve) <= high
    assert curve[-1] < curve[0] - 0.3 * (high - low)
