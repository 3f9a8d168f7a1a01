"""The inverted hinge forgets as fast as gradient ascent, stays bounded, and takes less of everything else with it."""

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.gradient_ascent import GradientAscent
from palimpsest.objectives.inverted_hinge import InvertedHinge


def test_stable_where_gradient_ascent_runs_away(facts):
    after, curves = {}, {}
    for objective in (InvertedHinge(), GradientAscent()):
        model, result = facts.train(on("forget", objective) + on("retain", CrossEntropy()), steps=60, lr=3e-4)
        after[type(objective)] = facts.knows(model, facts.forget), facts.knows(model, facts.unseen)
        curves[type(objective)] = [value for _, value in next(iter(result.curves.values()))]
    (forgotten, kept), (gone, lost) = after[InvertedHinge], after[GradientAscent]
    assert facts.knows(facts.model, facts.forget).recall > 0.98  # do nothing
    assert forgotten.recall < 0.05 and gone.recall < 0.05
    assert kept.recall > lost.recall + 0.15, (kept, lost)
    assert forgotten.nll < 0.75 * gone.nll, (forgotten, gone)
    hinge, ascent = curves[InvertedHinge], curves[GradientAscent]
    assert hinge[0] > 1.9 and 0 <= min(hinge) <= max(hinge) <= 2 and hinge[-1] < 0.8
    assert ascent[-1] < -8, "nats a token, and still falling"
