"""Figures of what happened between stages: over items and seeds, paired, and of one seed too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from palimpsest.audit import Scores
from palimpsest.between_stages import FIGURES, Between
from palimpsest.curves import StepCurves
from palimpsest.report import StageFigure
from palimpsest.resample import Array
from palimpsest.watch import Watched
from palimpsest.watched_items import keep

TAUGHT = {"one/recall": 1, "two/recall": 2}
STEPS = tuple(range(9))


def truth(stage: int, task: int) -> Array:
    """The expected recall at each step: the first task is learned, dips when the second begins, and comes back.

    What the second stage measures at its start is not what the first did at its end; the first counts.
    """
    t = np.array(STEPS) / STEPS[-1]
    if task == 1:
        return 0.9 * t if stage == 0 else 0.8 - 1.2 * t * (1 - t) + 0.1 * t
    return 0.1 + 0.0 * t if stage == 0 else 0.1 + 0.8 * t


def watched(folder: Path, seed: int, items: int = 40, gain: float = 0.0, others: bool = False) -> list[Watched | None]:
    """Two stages; an item is known while its difficulty lies below the truth, which is another one a seed."""
    found: list[Watched | None] = []
    for stage in (0, 1):
        home, curves = folder / f"{seed}-{stage}", {}
        for task, name in enumerate(TAUGHT, 1):
            rng = np.random.default_rng([seed, task])
            hard, ids = rng.random(items), tuple(f"{seed if others else ''}{task}-{n}" for n in range(items))
            curves[name] = []
            for place, step in enumerate(STEPS):
                known = torch.as_tensor((hard < truth(stage, task)[place]) + gain)
                curves[name].append((step, float(known.mean())))
                keep(home, name, place, Scores("recall", known, ids))
        found.append(Watched(1, curves, items=home))
    return found


def named(figures: list[StageFigure]) -> Mapping[str, StageFigure]:
    return {figure.name: figure for figure in figures}


def test_one_seed_has_intervals_over_its_items(tmp_path: Path) -> None:
    found = named(Between.of(TAUGHT, "higher", [watched(tmp_path, 0)]).figures(300, 0))
    assert found.keys() == FIGURES.keys()
    for name, figure in found.items():
        assert figure.over_items == (name != "share_recovered")
        if figure.over_items:
            assert figure.low <= figure.value <= figure.high and figure.high - figure.low > 0.02, name
    assert math.isnan(found["share_recovered"].low)


def test_the_ends_are_those_of_the_draws_one_by_one(tmp_path: Path) -> None:
    """By plain loops: the items of a task are drawn once for all steps of both stages, and the ends are mirrored."""
    from palimpsest.resample import draw_counts, tail

    stages = watched(tmp_path, 3)
    found = named(Between.of(TAUGHT, "higher", [stages]).figures(200, 5))
    rng = np.random.default_rng(5)
    draws = {name: draw_counts(rng, 200, None, 40) for name in TAUGHT}
    values: dict[str, list[float]] = {name: [] for name in FIGURES}
    for r in range(200):
        curves = []
        for stage in (0, 1):
            own = {}
            for task, name in enumerate(TAUGHT, 1):
                hard = np.random.default_rng([3, task]).random(40)
                means = [float(draws[name][r] @ (hard < level) / 40) for level in truth(stage, task)]
                own[name] = list(zip(STEPS, means, strict=True))
            curves.append(own)
        joined = StepCurves.joined(curves, TAUGHT, better="higher")
        for name, figure in FIGURES.items():
            value = figure(joined)
            assert value is not None
            values[name].append(float(value))
    for name in ("worst_of_earlier", "worst_case_performance", "gap_depth", "gap_area", "windowed_plasticity_10"):
        low, high = np.quantile(values[name], [tail(40), 1 - tail(40)])
        value = found[name].value
        floor = 0.0 if "gap" in name or "windowed" in name else -1.0
        assert found[name].low == pytest.approx(max(floor, min(value, 2 * value - high)), abs=1e-12), name
        assert found[name].high == pytest.approx(max(value, 2 * value - low), abs=1e-12), name


def test_the_interval_covers_the_truth(tmp_path: Path) -> None:
    """Over items: the curves of the expected recall are the truth of every figure."""
    expected = StepCurves.joined(
        [
            {name: list(zip(STEPS, truth(stage, task).tolist(), strict=True)) for task, name in enumerate(TAUGHT, 1)}
            for stage in (0, 1)
        ],
        TAUGHT,
        better="higher",
    )
    hits = dict.fromkeys(("worst_of_earlier", "worst_case_performance", "windowed_forgetting_10"), 0)
    for seed in range(120):
        found = named(Between.of(TAUGHT, "higher", [watched(tmp_path, seed, 30)]).figures(200, seed))
        for name in hits:
            value = FIGURES[name](expected)
            assert value is not None
            hits[name] += found[name].low <= float(value) <= found[name].high
    assert all(hit >= 105 for hit in hits.values()), hits  # 0.95 of 120 is 114, less four standard deviations


def test_seeds_are_a_second_level_and_may_have_items_of_their_own(tmp_path: Path) -> None:
    one = [watched(tmp_path / "one", 0)]
    shared, apart = ([watched(tmp_path / str(own), s, others=own) for s in range(4)] for own in (False, True))
    alone, *both = (named(Between.of(TAUGHT, "higher", w).figures(300, 0)) for w in (one, shared, apart))
    for found in both:
        figure = found["worst_of_earlier"]
        assert figure.over_items and figure.low < figure.value < figure.high
        assert figure.high - figure.low < alone["worst_of_earlier"].high - alone["worst_of_earlier"].low
    assert both[0]["worst_of_earlier"].value == both[1]["worst_of_earlier"].value


def test_differences_are_paired_by_item(tmp_path: Path) -> None:
    """Every item is better by as much at every step: where the figures vary widely, their difference does not."""
    after, other = (Between.of(TAUGHT, "higher", [watched(tmp_path / str(g), 0, gain=g)]) for g in (0.0, 0.1))
    found = named(other.differences(after, 200, 0))
    for name in ("worst_of_earlier", "worst_case_performance"):
        figure = found[name]
        assert (figure.value, figure.low, figure.high) == pytest.approx((0.1,) * 3) and figure.over_items
    assert found["gap_depth"].low == pytest.approx(0.0) and named(after.figures(200, 0))["gap_depth"].low > 0.02


def test_a_drop_has_no_interval_below_zero_and_a_difference_of_drops_has(tmp_path: Path) -> None:
    low, high = (Between.of(TAUGHT, "higher", [watched(tmp_path / str(n), n, n)]) for n in (3, 4))
    found = named(low.figures(300, 0))
    assert all(figure.low >= 0 for name, figure in found.items() if "windowed" in name or name == "gap_depth")
    assert not high.differences(low, 100, 0)[0].over_items, "other items are not paired"


def test_without_items_the_interval_is_over_seeds_and_one_seed_has_none(tmp_path: Path) -> None:
    seeds = [watched(tmp_path, seed) for seed in range(3)]
    file = next((tmp_path / "1-0").iterdir())
    file.write_bytes(file.read_bytes()[:-8])
    found = named(Between.of(TAUGHT, "higher", seeds).figures(200, 0))["worst_of_earlier"]
    assert found.low < found.value < found.high and not found.over_items
    alone = named(Between.of(TAUGHT, "higher", seeds[1:2]).figures(200, 0))["worst_of_earlier"]
    assert math.isnan(alone.low) and not alone.over_items


def test_a_first_stage_without_a_watch_leaves_out_the_windows_alone(tmp_path: Path) -> None:
    """Nothing was there to be lost in it, and the second stage measures its end before its own first step."""
    first, second = watched(tmp_path, 0)
    assert first is not None and second is not None
    whole, short = (Between.of(TAUGHT, "higher", [[one, second]]) for one in (first, None))
    found = named(short.figures(200, 0))
    assert {name for name, figure in found.items() if math.isnan(figure.value)} == {n for n in FIGURES if "window" in n}
    assert found["worst_of_earlier"] == named(whole.figures(200, 0))["worst_of_earlier"]
    assert found["gap_depth"].over_items and found["gap_depth"].low < found["gap_depth"].high
    three = {**TAUGHT, "two/recall": 3}
    assert not Between.of(three, "higher", [[first, None, second]]).seeds, "what the second task cost was not seen"


def test_what_was_not_watched_has_no_figures(tmp_path: Path) -> None:
    first, second = watched(tmp_path, 0)
    assert first is not None and second is not None
    rare = Watched(2, second.curves)
    blind = Watched(1, {"two/recall": second.curves["two/recall"]})
    for stages in ([first, None], [first, rare], [first, blind]):
        nothing = Between.of(TAUGHT, "higher", [stages])
        assert nothing.figures(10, 0) == [] == nothing.differences(nothing, 10, 0)
    known_before = Between.of({**TAUGHT, "one/recall": 0}, "higher", [[None, second]])
    assert not known_before.seeds and not Between.of(TAUGHT, "higher", [[None, blind]]).seeds
    late = Watched(1, {"one/recall": first.curves["one/recall"]}, items=first.items)
    assert named(Between.of(TAUGHT, "higher", [[late, second]]).figures(100, 0))["worst_of_earlier"].over_items


def test_a_last_task_that_is_not_watched_leaves_the_gaps_of_the_others(tmp_path: Path) -> None:
    whole, partly = (watched(tmp_path / name, 0) for name in ("whole", "partly"))
    for stage in partly:
        assert stage is not None and isinstance(stage.curves, dict)
        del stage.curves["two/recall"]
    both, one = (named(Between.of(TAUGHT, "higher", [own]).figures(300, 0)) for own in (whole, partly))
    about_earlier = ("worst_of_earlier", "gap_depth", "gap_area", "share_recovered")
    assert [name for name, figure in one.items() if not math.isnan(figure.value)] == list(about_earlier)
    assert all(one[name].value == both[name].value for name in about_earlier)
    for stage in partly:
        assert stage is not None and isinstance(stage.curves, dict)
        stage.curves["two/recall"] = stage.curves.pop("one/recall")
    assert Between.of(TAUGHT, "higher", [partly]).figures(300, 0) == []
