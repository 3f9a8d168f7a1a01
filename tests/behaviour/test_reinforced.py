"""A twin trained further on the forget set shows what to take away: from the weights (task vector), from the answers
(Who's Harry Potter). What the twin was not trained on stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import nn

from palimpsest.edits.task_vector import TaskVector
from palimpsest.interventions.whos_harry_potter import WhosHarryPotter
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.full_copy import FullCopy

HARRY, VECTOR = "Who's Harry Potter", "task vector"


def reinforced(facts, rows) -> nn.Module:
    """A twin of the decoder after 40 steps on ``rows``."""
    twin = FullCopy()(facts.model)
    fit(twin, facts.adapter.roles(forget=rows), on("forget", CrossEntropy()), Training(steps=40, batch=12, lr=1e-4))
    return twin


@contextmanager
def without(facts, method: str, twin: nn.Module) -> Iterator[nn.Module]:
    """The decoder under one of the two methods."""
    companions = {"reinforced": twin}
    if method == HARRY:
        with WhosHarryPotter(12.0).attach(facts.model, companions) as model:
            yield model
    else:
        patch = TaskVector(2.5)(facts.model, facts.adapter.roles(forget=facts.forget), companions)
        with patch.applied(facts.model) as model:
            yield model


@pytest.mark.parametrize(("method", "kept"), [(HARRY, 0.9), (VECTOR, 0.75)])
def test_the_forget_set_goes_and_the_rest_stays(facts, method, kept):
    """Doing nothing leaves all recalls at 1; adding in place of taking away raises the forget set."""
    twin = reinforced(facts, facts.forget)
    with without(facts, method, twin) as model:
        forget, retain, unseen = (facts.knows(model, rows) for rows in (facts.forget, facts.retain, facts.unseen))
    assert forget.recall <= 0.5 and min(retain.recall, unseen.recall) >= kept
    assert forget.nll > 2 > 1.5 > max(retain.nll, unseen.nll)
    assert facts.knows(facts.model, facts.forget).recall > 0.98, "the weights are as they were"


@pytest.mark.parametrize("method", [HARRY, VECTOR])
def test_a_twin_of_other_rows_takes_those(facts, method):
    other = facts.retain[:12]
    with without(facts, method, reinforced(facts, other)) as model:
        forget, taken = facts.knows(model, facts.forget), facts.knows(model, other)
    assert taken.recall <= 0.6 and forget.recall >= 0.7
