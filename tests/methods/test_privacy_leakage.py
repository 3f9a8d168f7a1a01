"""MUSE's orientation: a memorized forget set gives -100, a retrained model 0, over-unlearning more than 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.audits.privacy_leakage import PrivacyLeakage
from palimpsest.statistics import aggregate, relative_difference

FORGET = [{"id": f"f{i}", "text": f"f{i}"} for i in range(4)]
HOLDOUT = [{"id": f"h{i}", "text": f"h{i}"} for i in range(4)]


def measured(scripted: Any, forget: list[float], holdout: list[float]) -> Scores:
    logp = {f"f{i}": [v] for i, v in enumerate(forget)} | {f"h{i}": [v] for i, v in enumerate(holdout)}
    scores: Scores = PrivacyLeakage()(scripted(logp=logp), {"forget": FORGET, "holdout": HOLDOUT}, "forget")
    return scores


def area(scores: Scores) -> float:
    return aggregate(scores.items, scores.statistic, scores.groups)


def leak(run: Scores, retrained: Scores) -> float:
    return relative_difference([run], [retrained], resamples=50).value


def with_area(wins: int, pairs: int) -> Scores:
    """Scores whose AUC is wins / pairs: one holdout item above ``wins`` of ``pairs`` forget items."""
    items = torch.cat([torch.arange(pairs).double(), torch.tensor([wins - 0.5])])
    groups = torch.tensor([0] * pairs + [1])
    ids = tuple(f"{i}" for i in range(pairs + 1))
    return Scores("privacy_leakage", items, ids, statistic="auc", versus="relative", groups=groups)


def test_a_memorized_forget_set_gives_minus_100(scripted: Any) -> None:
    memorized = measured(scripted, [-0.1] * 4, [-3.0, -4.0, -5.0, -6.0])
    retrained = measured(scripted, [-3.0, -4.0, -5.0, -6.0], [-3.0, -4.0, -5.0, -6.0])
    assert area(memorized) == 0.0
    assert area(retrained) == 0.5
    assert leak(memorized, retrained) == -100.0
    assert leak(retrained, retrained) == 0.0


def test_an_over_unlearned_forget_set_gives_plus_100(scripted: Any) -> None:
    over = measured(scripted, [-20.0] * 4, [-3.0, -4.0, -5.0, -6.0])
    retrained = measured(scripted, [-3.0, -4.0, -5.0, -6.0], [-3.0, -4.0, -5.0, -6.0])
    assert area(over) == 1.0
    assert leak(over, retrained) == 100.0


def test_the_roles_are_not_interchangeable(scripted: Any) -> None:
    forget, holdout = [-1.0, -2.0, -1.5, -4.0], [-3.0, -2.5, -5.0, -1.2]
    assert area(measured(scripted, forget, holdout)) == pytest.approx(1 - area(measured(scripted, holdout, forget)))


@pytest.mark.parametrize(
    ("run", "retrained", "expected"), [((3, 4), (1, 2), 50.0), ((1, 1000), (48, 100), -99.79), ((5, 10), (5, 10), 0.0)]
)
def test_the_card_s_areas(run: tuple[int, int], retrained: tuple[int, int], expected: float) -> None:
    a, r = with_area(*run), with_area(*retrained)
    assert area(a) == pytest.approx(run[0] / run[1])
    assert 100 * (area(a) - area(r)) / area(r) == pytest.approx(expected, abs=0.005)
    if run[1] == retrained[1]:
        assert leak(a, r) == expected


def test_plus_50_through_the_report_s_own_statistic(scripted: Any) -> None:
    run = measured(scripted, [1.0, 2.0, 3.0, 4.0], [3.5, 3.5, 3.5, 3.5])
    retrained = measured(scripted, [1.0, 2.0, 3.0, 4.0], [2.5, 2.5, 2.5, 2.5])
    assert (area(run), area(retrained)) == (0.75, 0.5)
    assert leak(run, retrained) == pytest.approx(50.0)


def test_it_is_min_40_percent_of_both_groups(scripted: Any) -> None:
    subject = scripted(logp={"f": [-1.0, -2.0, -3.0, -4.0, -10.0], "h": [-1.0]})
    scores = PrivacyLeakage()(subject, {"forget": [{"text": "f"}], "holdout": [{"text": "h"}]}, "forget")
    assert scores.items.tolist() == [-7.0, -1.0]
    assert scores.groups is not None
    assert scores.groups.tolist() == [0, 1]
    assert (scores.versus, scores.better) == ("relative", "nearer:retrained")


def test_a_share_outside_0_to_100_is_refused() -> None:
    with pytest.raises(ValueError, match="percent"):
        PrivacyLeakage(percent=0)
