"""The threshold margin keeps facts that are never replayed, where replay alone loses them."""

import copy

import pytest

from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.balanced_threshold_margin import BalancedThresholdMargin
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.feature_distance import FeatureDistance
from palimpsest.objectives.threshold_margin import ThresholdMargin

REPLAY = 0.5 * on("task", CrossEntropy()) + 0.5 * on("replay", CrossEntropy())
TASK = [
    {"prompt": f"{letter}{digit}", "completion": "xy"[digit] * 3} for letter in "ABCDEFGHIJKL" for digit in range(2)
]


@pytest.fixture(scope="module")
def kept(facts):
    """Term -> recall of the facts that no training saw, after a task; the task itself is learned by all."""
    found = {}
    terms = {
        "replay": REPLAY,
        "margin": REPLAY + on("replay", ThresholdMargin()),
        "balanced": REPLAY + on(("replay", "task"), BalancedThresholdMargin(dynamic=True)),
        "l2": REPLAY + on("replay", FeatureDistance("l2")),
    }
    for name, objective in terms.items():
        model = copy.deepcopy(facts.model)
        roles = facts.adapter.roles(task=TASK, replay=facts.retain)
        fit(model, roles, objective, Training(steps=40, batch=24, lr=1e-3))
        assert facts.knows(model, TASK).recall > 0.95, name
        found[name] = facts.knows(model, facts.unseen).recall
    return found


@pytest.mark.parametrize("term", ["margin", "balanced", "l2"])
def test_keeps_what_replay_alone_loses(kept, term):
    assert kept[term] > kept["replay"] + 0.1, kept
