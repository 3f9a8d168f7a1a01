"""Intervals, tests and effect sizes against hand calculations, naive loops, scipy and the authors' numbers."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import statistics as stats
from palimpsest.audit import Scores
from palimpsest.resample import student_quantile

_FILE = Path(__file__).parents[1] / "golden" / "statistics.json"
GOLDEN = {case["name"]: case for case in json.loads(_FILE.read_text())["cases"]}


def scores(values, ids=None, **fields):
    items = torch.as_tensor(np.asarray(values, dtype=np.float64))
    return Scores("accuracy", items, tuple(ids or (f"item {i}" for i in range(len(items)))), **fields)


def two_groups(zero, one):
    return scores([*zero, *one], statistic="auc", groups=torch.tensor([0] * len(zero) + [1] * len(one)))


def naive_auc(zero, one):
    return float(np.mean([1.0 if o > z else 0.5 if o == z else 0.0 for o in one for z in zero]))


# ---------------------------------------------------------------------------------------------- figures


def test_figures_by_hand():
    assert stats.aggregate(torch.tensor([1.0, 2.0, 6.0])) == 3.0
    assert stats.aggregate(torch.tensor([1.0, 2.0, 4.0]), "harmonic_mean") == pytest.approx(3 / 1.75)
    assert stats.aggregate(torch.tensor([1.0, 0.0, 4.0]), "harmonic_mean") == 0.0
    assert stats.aggregate(torch.tensor([1.0, 2.0, 2.0, 3.0]), "auc", torch.tensor([0, 0, 1, 1])) == 3.5 / 4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_auc_equals_the_mean_over_pairs(zero, one):
    s = two_groups(zero, one)
    assert stats.aggregate(s.items, "auc", s.groups) == pytest.approx(naive_auc(zero, one), abs=1e-12)


def test_auc_and_privleak_of_muse():
    case = GOLDEN["auc_and_privleak"]
    runs = {}
    for run in ("unlearned", "retrained"):
        forget, holdout = (-np.asarray(case["inputs"][f"mink_nll_{part}_{run}"]) for part in ("forget", "holdout"))
        runs[run] = two_groups(forget, holdout)
        measured = stats.aggregate(runs[run].items, "auc", runs[run].groups)
        assert measured == pytest.approx(case["outputs"][f"auc_forget_holdout_{run}"], abs=1e-11)
    leak = stats.relative_difference([runs["unlearned"]], [runs["retrained"]])
    assert leak.value == pytest.approx(case["outputs"]["privleak"], abs=1e-8)
    assert stats.relative_difference([runs["retrained"]], [runs["retrained"]]) == stats.Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("pair", ["different", "similar", "identical"])
def test_forget_quality_of_tofu(pair):
    case = GOLDEN["forget_quality"]
    sides = []
    for name in case["params"]["pairs"][pair]:
        losses = case["inputs"][name]
        wrong = torch.tensor(losses["average_perturb_loss"], dtype=torch.float64).mean(1)
        sides.append(torch.exp(wrong - torch.tensor(losses["avg_paraphrased_loss"], dtype=torch.float64)))
    result = stats.ks_two_sample(*sides)
    assert result.statistic == pytest.approx(case["outputs"][pair]["statistic"], abs=1e-11)
    assert result.p == pytest.approx(case["outputs"][pair]["p_value"], rel=1e-9)


def test_model_utility_of_tofu():
    case = GOLDEN["model_utility"]
    components = torch.tensor(case["inputs"]["components"], dtype=torch.float64)
    assert len(components) == 9
    assert stats.aggregate(components, "harmonic_mean") == pytest.approx(case["outputs"]["model_utility"], abs=1e-11)


def test_undefined_figures_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match="two groups; give each item's group"):
        stats.aggregate(torch.ones(3), "auc")
    with pytest.raises(ValueError, match=r"group 0 and of group 1; it has groups \[1.0\]"):
        stats.aggregate(torch.ones(3), "auc", torch.ones(3))
    with pytest.raises(ValueError, match="at least 0; the lowest is -1"):
        stats.aggregate(torch.tensor([1.0, -1.0]), "harmonic_mean")
    with pytest.raises(ValueError, match="no items"):
        stats.aggregate(torch.tensor([]))


# -------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("size", [8, 50])
def test_the_interval_of_a_mean_covers_the_truth(size):
    rng, covered = np.random.default_rng(1), 0
    for seed in range(400):
        covered += stats.bootstrap(scores(rng.normal(1, 1, size)), resamples=1000, seed=seed).contains(1)
    assert 0.93 <= covered / 400 <= 0.97


def test_the_interval_of_an_auc_covers_the_truth():
    rng, covered = np.random.default_rng(2), 0
    truth = 0.5 * (1 + math.erf(1 / math.sqrt(2) / math.sqrt(2)))  # P(N(1, 1) > N(0, 1))
    for seed in range(400):
        sample = two_groups(rng.normal(0, 1, 40), rng.normal(1, 1, 40))
        covered += stats.bootstrap(sample, resamples=500, seed=seed).contains(truth)
    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_over_seeds_covers_the_truth():
    """Items that all seeds share, seeds that shift all items: an interval over items alone would be far too short."""
    rng, covered, items_only = np.random.default_rng(3), 0, 0
    for seed in range(400):
        difficulty = rng.normal(0, 1, 40)
        runs = [scores(difficulty + rng.normal(0, 0.3) + rng.normal(0, 0.5, 40)) for _ in range(5)]
        covered += stats.bootstrap_over_seeds(runs, resamples=500, seed=seed).contains(0)
        mean = torch.stack([run.items for run in runs]).mean(0)
        items_only += stats.bootstrap(scores(mean), resamples=500, seed=seed).contains(0)
    assert 0.93 <= covered / 400 <= 0.985
    assert items_only < covered


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    before = rng.normal(0, 3, 200)
    after = before - 0.5 + rng.normal(0, 0.1, 200)
    change = stats.paired_bootstrap(scores(before), scores(after))
    alone = stats.bootstrap(scores(before))
    assert change.value == pytest.approx(after.mean() - before.mean(), abs=1e-12)
    assert change.high - change.low < 0.1 * (alone.high - alone.low)
    assert change.low < -0.5 < change.high


def test_pairing_is_by_id_and_not_by_position():
    before, after = scores([0.1, 0.5, 0.9], ["a", "b", "c"]), scores([0.9, 0.1, 0.5], ["c", "a", "b"])
    assert stats.paired_bootstrap(before, after) == stats.Interval(0.0, 0.0, 0.0)


def test_other_items_are_refused_by_name():
    with pytest.raises(ValueError, match="'c' is missing from one of them"):
        stats.paired_bootstrap(scores([1, 0], ["a", "b"]), scores([1, 0, 1], ["a", "b", "c"]))
    with pytest.raises(ValueError, match="group differs between two runs"):
        first, second = two_groups([0.1, 0.2], [0.3]), two_groups([0.1], [0.2, 0.3])
        stats.paired_bootstrap(first, second)
    with pytest.raises(ValueError, match="use the same audit"):
        stats.paired_bootstrap(scores([1, 0]), scores([1, 0], statistic="harmonic_mean"))


def test_the_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).gamma(2, size=400)
    ours = stats.bootstrap(scores(values), resamples=20000)
    theirs = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=0)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_draws_within_groups_keep_both_groups():
    interval = stats.bootstrap(two_groups([0.0] * 3, [1.0] * 3))  # a draw over all items would lose a group at times
    assert (interval.value, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(0.05 ** (1 / 3))  # that of three items which all lie at an end


def test_one_item_has_no_interval_and_a_constant_has_an_empty_one():
    single = stats.bootstrap(scores([0.3]))
    assert single.value == 0.3 and math.isnan(single.low) and math.isnan(single.high)
    assert stats.bootstrap(scores([0.1] * 7)) == stats.Interval(0.1, 0.1, 0.1)
    assert not single.contains(0.3)


def test_two_items_reach_as_far_as_the_items():
    assert stats.bootstrap(scores([0.0, 1.0])) == stats.Interval(0.5, 0.0, 1.0)


def test_draws_repeat_with_the_seed_and_do_not_depend_on_blocks(monkeypatch):
    s = scores(np.random.default_rng(0).normal(size=30))
    first = stats.bootstrap(s, seed=3)
    assert stats.bootstrap(s, seed=3) == first != stats.bootstrap(s, seed=4)
    monkeypatch.setattr("palimpsest.resample._CELLS", 100)
    small = stats.bootstrap(s, seed=3)
    assert small.low == pytest.approx(first.low, abs=0.1) and small.value == first.value


def test_seeds_are_a_second_level():
    items = np.linspace(0, 1, 50)
    before = [scores(items)]
    far = [scores(np.clip(items - shift, -9, 9)) for shift in (0.1, 0.5, 0.9)]
    change = stats.paired_bootstrap_over_seeds(before, far)
    assert change.value == pytest.approx(-0.5)
    # Items change alike within a seed, so the spread is that of the seeds alone: 0.4 * sqrt(3 / 2) each way at most.
    assert change.low == pytest.approx(-0.5 - 0.4 * math.sqrt(1.5), abs=0.02)
    assert change.high == pytest.approx(-0.5 + 0.4 * math.sqrt(1.5), abs=0.02)
    near = stats.paired_bootstrap_over_seeds(before, [far[1]] * 3)
    assert near.low == pytest.approx(-0.5, abs=1e-9) and near.high == pytest.approx(-0.5, abs=1e-9)


def test_equal_numbers_of_seeds_are_paired_by_seed():
    rng = np.random.default_rng(0)
    before = [scores(rng.normal(shift, 0.1, 30)) for shift in (0, 5, 10)]
    after = [scores(s.items + 1) for s in before]
    change = stats.paired_bootstrap_over_seeds(before, after)
    assert (change.low, change.high) == (pytest.approx(1.0), pytest.approx(1.0))


def test_seeds_with_items_of_their_own_are_drawn_apart():
    rng = np.random.default_rng(0)
    runs = [scores(rng.normal(0, 1, 20 + s), [f"{s}/{i}" for i in range(20 + s)]) for s in range(3)]
    change = stats.paired_bootstrap_over_seeds(runs, [scores(r.items + 2, r.ids) for r in runs])
    assert change.value == pytest.approx(2.0) and change.high - change.low < 1e-9
    with pytest.raises(ValueError, match="missing from one of them"):
        stats.paired_bootstrap_over_seeds(runs[:1], runs)


def test_distance_change_is_negative_when_the_run_comes_nearer():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.1, 100)
    before, after, goal = [scores(base + 0.9)], [scores(base + 0.35)], [scores(base + 0.3)]
    nearer = stats.distance_change(before, after, goal)
    assert nearer.value == pytest.approx(-0.55) and nearer.high < 0
    assert stats.distance_change(after, before, goal).low > 0
    overshot = stats.distance_change([scores(base + 0.4)], [scores(base - 0.2)], goal)
    assert overshot.value == pytest.approx(0.4)


def test_a_reference_of_zero_leaves_the_relative_difference_undefined():
    result = stats.relative_difference([scores([1.0, 1.0])], [scores([0.0, 0.0])])
    assert all(math.isnan(v) for v in (result.value, result.low, result.high))
    # One item in four is not 0, so many resamples of the reference are 0 and nothing bounds the difference above.
    open_ended = stats.relative_difference([scores([2.0, 1.0, 1.0, 1.0])], [scores([1.0, 0.0, 0.0, 0.0])])
    assert open_ended.value == 400.0 and math.isnan(open_ended.high) and open_ended.low < 400


# ------------------------------------------------------------------------------------------------ tests


def test_mcnemar_by_hand():
    before, after = scores([1] * 8 + [0] * 1 + [1] * 5), scores([0] * 8 + [1] * 1 + [1] * 5)
    # 8 against 1: two-sided binomial, 2 * (1 + 9) / 2 ** 9
    assert stats.mcnemar(before, after) == stats.McNemar(8, 1, 20 / 512)
    assert stats.mcnemar(before, before) == stats.McNemar(0, 0, 1.0)
    with pytest.raises(ValueError, match="paired_permutation"):
        stats.mcnemar(before, scores(np.linspace(0, 1, 14)))
    assert stats.is_binary(before) and not stats.is_binary(scores([0.5]))


@pytest.mark.parametrize(("lost", "won"), [(3, 3), (40, 22), (900, 700), (0, 2000)])
def test_mcnemar_equals_the_binomial_test(lost, won):
    from scipy.stats import binomtest

    before, after = scores([1] * lost + [0] * won), scores([0] * lost + [1] * won)
    assert stats.mcnemar(before, after).p == pytest.approx(binomtest(lost, lost + won).pvalue, rel=1e-9, abs=1e-300)


def test_hedges_g_by_hand():
    before, after = scores([1.0, 2.0, 3.0]), scores([3.0, 5.0, 7.0])
    # means 2 and 5, variances 1 and 4, J = 1 - 3 / 15
    assert stats.hedges_g(before, after) == pytest.approx(3 / math.sqrt(2.5) * 0.8)
    assert stats.hedges_g(after, before) == pytest.approx(-3 / math.sqrt(2.5) * 0.8)
    assert math.isnan(stats.hedges_g(scores([1.0, 1.0]), scores([2.0, 2.0])))
    assert math.isnan(stats.hedges_g(scores([1.0]), scores([2.0])))


def test_the_permutation_test_equals_its_enumeration():
    change = np.array([0.3, 0.5, -0.1, 0.8, 0.2, 0.4])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = float((np.abs(signs @ change) >= change.sum() - 1e-12).mean())
    p = stats.paired_permutation(scores(np.zeros(6)), scores(change), resamples=20000)
    assert p == pytest.approx(exact, abs=0.006)
    assert stats.paired_permutation(scores(change), scores(change)) == 1.0


@pytest.mark.parametrize("test", [stats.paired_permutation, lambda b, a: stats.bootstrap_p([b], [a])])
def test_p_is_uniform_without_a_change(test):
    rng = np.random.default_rng(0)
    p = [test(scores(rng.normal(size=40)), scores(rng.normal(size=40))) for _ in range(200)]
    assert 0.01 <= np.mean(np.asarray(p) < 0.05) <= 0.1
    assert 0.4 <= np.mean(p) <= 0.6


def test_bootstrap_p_agrees_with_the_interval():
    rng = np.random.default_rng(0)
    before = two_groups(rng.normal(0, 1, 50), rng.normal(2, 1, 50))
    after = scores(rng.normal(0, 1, 100), statistic="auc", groups=before.groups)
    assert stats.paired_bootstrap(before, after).high < 0
    assert 0 < stats.bootstrap_p([before], [after]) < 1e-6
    assert stats.bootstrap_p([before], [before]) == 1.0


def test_the_tail_of_the_bootstrap_p_continues_that_of_the_t_test():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    for shift in (0.1, 0.3, 0.6):
        before, after = rng.normal(0, 1, 300), rng.normal(shift, 1, 300)
        ours, theirs = stats.bootstrap_p([scores(before)], [scores(after)]), ttest_rel(after, before).pvalue
        assert math.log10(ours) == pytest.approx(math.log10(theirs), rel=0.15, abs=0.15)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, math.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert stats.holm([0.01, 0.04, math.nan, 0.03])[3] == pytest.approx(0.06)
    assert math.isnan(stats.holm([0.01, math.nan])[1])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0] and stats.holm([]) == []


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 49, 300, 301, 5000])
def test_student_quantile(degrees):
    from scipy.stats import t

    assert student_quantile(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=1e-6)


# ------------------------------------------------------------------------------------------------ speed


def test_four_hundred_items_are_fast():
    rng = np.random.default_rng(0)
    mean = [scores(rng.normal(size=400)) for _ in range(2)]
    auc = [scores(s.items, statistic="auc", groups=torch.arange(400) % 2) for s in mean]
    best = {}
    for name, pair in (("mean", mean), ("auc", auc)):
        times = []
        for _ in range(5):
            start = time.process_time()
            stats.paired_bootstrap(*pair)
            times.append(time.process_time() - start)
        best[name] = min(times)
    assert best["mean"] < 0.1 and best["auc"] < 1.0


def test_many_items_stay_within_memory():
    import tracemalloc

    items = scores(np.random.default_rng(0).normal(size=20000))
    tracemalloc.start()
    stats.paired_bootstrap(items, items, resamples=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # drawn at once, 400 x 20000 counts alone would be 64 MB and the draws 128 MB more
