"""Cross-entropy on forget and uniform on retain make ULD's assistant: it knows the forget set and nothing else."""

import torch

from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.uniform import Uniform


def test_an_assistant_that_knows_only_the_forget_set(facts):
    model, _ = facts.train(on("forget", CrossEntropy()) + 5.0 * on("retain", Uniform()), steps=60, lr=1e-3)

    def peaked(of):  # on facts that neither term has seen
        with torch.no_grad():
            return float(Uniform("scored")(facts.view(of, facts.unseen)).mean())

    assert facts.knows(model, facts.forget).recall > 0.9
    assert facts.knows(model, facts.unseen).recall < 0.2 < facts.knows(facts.model, facts.unseen).recall
    assert peaked(model) < 0.2 * peaked(facts.model)
