"""Members against non-members: groups, orientation, ids, and the area under the curve by brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from palimpsest.audits.loss_attack import LossAttack
from palimpsest.statistics import aggregate

LOGP = {"m1": [-1.0, -3.0], "m2": [-0.5], "h1": [-2.0], "h2": [-4.0, -4.0, -1.0]}
DATA = {"forget": [{"text": "m1"}, {"text": "m2"}], "holdout": [{"id": "x", "text": "h1"}, {"id": "y", "text": "h2"}]}


def test_scores_groups_and_ids(scripted: Any) -> None:
    subject = scripted(logp=LOGP)
    scores = LossAttack()(subject, DATA, "forget")
    assert scores.items.tolist() == [-2.0, -0.5, -2.0, -3.0]
    assert scores.groups is not None
    assert scores.groups.tolist() == [1, 1, 0, 0]
    assert scores.ids == ("forget:forget/0", "forget:forget/1", "holdout:x", "holdout:y")
    assert scores.statistic == "auc"
    assert subject.calls == [("logp", 4)]
    # Pairs (member, non-member): tie, win, win, win.
    assert aggregate(scores.items, "auc", scores.groups) == pytest.approx(3.5 / 4)


def test_the_area_is_that_of_brute_force_and_of_scikit_learn(scripted: Any) -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(0)).mul(4).round().div(4)  # rounded, so some tie
    logp = {str(i): [float(v)] for i, v in enumerate(values)}
    rows = [{"id": str(i), "text": str(i)} for i in range(60)]
    scores = LossAttack()(scripted(logp=logp), {"forget": rows[:25], "holdout": rows[25:]}, "forget")
    assert scores.groups is not None
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in values[:25] for b in values[25:]]
    found = aggregate(scores.items, "auc", scores.groups)
    assert found == pytest.approx(sum(pairs) / len(pairs))
    assert found == pytest.approx(roc_auc_score(scores.groups.numpy(), scores.items.numpy()))


def test_the_holdout_must_be_another_role_with_rows(scripted: Any) -> None:
    with pytest.raises(ValueError, match="'forget' cannot be both members and holdout"):
        LossAttack(holdout="forget")(scripted(logp=LOGP), DATA, "forget")
    with pytest.raises(ValueError, match="loss_attack needs rows of the role 'holdout'"):
        LossAttack()(scripted(logp=LOGP), {"forget": DATA["forget"]}, "forget")
