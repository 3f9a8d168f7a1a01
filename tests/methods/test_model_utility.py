"""Nine components by hand, their harmonic mean, and the zero that pulls everything down."""

from __future__ import annotations

import math
from typing import Any

import pytest

from palimpsest.audits.model_utility import ModelUtility
from palimpsest.statistics import aggregate

COMPONENTS = ("probability", "rouge", "truth_ratio")


def row(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": f"{name} q",
        "completion": f"{name} right",
        "paraphrased_completion": f"{name} paraphrase",
        "perturbed_completions": [f"{name} wrong", f"{name} wronger"],
    }


DATA = {"retain": [row("r")], "real_authors": [row("a")], "world_facts": [row("w")]}


def subject_of(scripted: Any, wrong: float = 0.1) -> Any:
    logp: dict[str, list[float]] = {}
    for name in "raw":
        values = {"right": 0.5, "paraphrase": 0.4, "wrong": wrong, "wronger": wrong}
        logp |= {f"{name} {what}": [math.log(p)] for what, p in values.items()}
    return scripted(logp=logp, answers={f"{name} q": f"{name} something" for name in "raw"})


def test_the_nine_components(scripted: Any) -> None:
    scores = ModelUtility()(subject_of(scripted), DATA, "retain")
    assert scores.ids == tuple(f"{role}/{c}" for role in DATA for c in COMPONENTS)
    relative = 0.5 / (0.5 + 0.2)
    expected = [0.5, 0.5, 1 - 0.1 / 0.4, relative, 0.5, 1 - 0.1 / 0.5, relative, 0.5, 1 - 0.1 / 0.5]
    assert scores.items.tolist() == pytest.approx(expected)
    harmonic = 9 / sum(1 / v for v in expected)
    assert aggregate(scores.items, scores.statistic) == pytest.approx(harmonic)


def test_one_component_at_zero_makes_it_zero(scripted: Any) -> None:
    scores = ModelUtility()(subject_of(scripted, wrong=0.45), DATA, "retain")  # above the paraphrase, below the answer
    assert scores.items[2] == 0
    assert float(scores.items[5]) == pytest.approx(0.1)
    assert aggregate(scores.items, scores.statistic) == 0.0


def test_a_component_is_the_mean_over_rows(scripted: Any) -> None:
    subject = scripted(
        logp={"x": [math.log(0.9)], "y": [math.log(0.1)], "no": [math.log(0.01)]},
        answers={"q": "x"},
    )
    rows = [
        {"prompt": "q", "completion": c, "paraphrased_completion": c, "perturbed_completions": ["no"]}
        for c in ("x", "y")
    ]
    data = {"retain": rows, "real_authors": rows[:1], "world_facts": rows[:1]}
    scores = ModelUtility()(subject, data, "retain")
    assert scores.items[:3].tolist() == pytest.approx([0.5, 0.5, ((1 - 1 / 90) + (1 - 1 / 10)) / 2])


def test_roles_must_be_there_and_differ(scripted: Any) -> None:
    with pytest.raises(ValueError, match="model_utility needs rows of the role 'world_facts'"):
        ModelUtility()(subject_of(scripted), {k: v for k, v in DATA.items() if k != "world_facts"}, "retain")
    with pytest.raises(ValueError, match="three different roles"):
        ModelUtility(real_authors="retain")(subject_of(scripted), DATA, "retain")
