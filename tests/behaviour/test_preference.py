"""Preference turns forget prompts from their answer to the refusal, and keeps what is rehearsed beside it."""

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.preference import Preference


def test_refuses_instead_of_answering(facts):
    total = on(("refusal", "forget"), Preference(beta=0.1)) + on("retain", CrossEntropy())
    model, _ = facts.train(total, steps=60, lr=1e-3)
    refusals = facts.refusals(facts.forget)
    before = facts.knows(facts.model, refusals).nll - facts.knows(facts.model, facts.forget).nll
    after = facts.knows(model, refusals).nll - facts.knows(model, facts.forget).nll
    assert before > 10 and after < -10, "the forget answer was far more likely, the refusal now is"
    assert facts.knows(model, facts.forget).recall < 0.1
    assert facts.knows(model, refusals).recall > 0.5
    assert facts.knows(model, facts.retain).recall > 0.95
