"""MUSE's measurements, task vectors and Who's Harry Potter against numbers of jaechan-repo/muse_bench@54719c5."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.audit import Scores
from palimpsest.audits.knowledge_memorization import cut
from palimpsest.audits.min_k import min_k
from palimpsest.audits.rouge import rouge_l
from palimpsest.edits.task_vector import negated
from palimpsest.interventions.whos_harry_potter import lowered_logits
from palimpsest.statistics import aggregate, relative_difference

MIN_K, LEAK, ROUGE, STOP, VECTOR, POTTER = json.loads(Path(__file__).with_name("muse.json").read_text())["cases"]


@pytest.mark.parametrize("percent", MIN_K["params"]["K"])
def test_min_k_where_the_release_has_a_number_and_a_token_where_it_has_none(percent: int) -> None:
    lists, seen = MIN_K["inputs"]["token_logprobs"], 0
    for logp, expected in zip(lists, MIN_K["outputs"], strict=True):
        stored = expected[f"Min-{percent}%"]
        found = min_k(torch.tensor(logp, dtype=torch.float64), percent)
        assert math.isfinite(found)
        if stored != "nan":
            assert found == pytest.approx(-stored, abs=1e-9)
            seen += 1
        else:
            assert found == min(logp)
    assert seen >= 1


def scores(forget: list[float], holdout: list[float]) -> Scores:
    """As the audit makes them; the release stores minus the mean log-probability."""
    items = -torch.tensor([*forget, *holdout], dtype=torch.float64)
    ids = tuple(f"{i}" for i in range(len(items)))
    groups = torch.tensor([0] * len(forget) + [1] * len(holdout))
    return Scores("privacy_leakage", items, ids, statistic="auc", versus="relative", groups=groups)


def test_areas_and_privacy_leakage() -> None:
    given, expected = LEAK["inputs"], LEAK["outputs"]
    runs = {
        run: scores(given[f"mink_nll_forget_{run}"], given[f"mink_nll_holdout_{run}"])
        for run in ("unlearned", "retrained")
    }
    for run, found in runs.items():
        area = aggregate(found.items, found.statistic, found.groups)
        assert area == pytest.approx(expected[f"auc_forget_holdout_{run}"], abs=1e-9)
        assert found.groups is not None
        other = aggregate(found.items, "auc", 1 - found.groups)
        assert other == pytest.approx(expected[f"auc_holdout_forget_{run}"], abs=1e-9)
    leak = relative_difference([runs["unlearned"]], [runs["retrained"]], resamples=20).value
    assert leak == pytest.approx(expected["privleak"], abs=1e-8)


def test_rouge_l() -> None:
    found = [rouge_l(p["reference"], p["output"]) for p in ROUGE["inputs"]["pairs"]]
    expected: dict[str, Any] = ROUGE["outputs"]
    assert [f.f1 for f in found] == pytest.approx(expected["rougeL_f1"], abs=1e-9)
    assert [f.recall for f in found] == pytest.approx(expected["rougeL_recall"], abs=1e-9)
    assert sum(f.f1 for f in found) / len(found) == pytest.approx(expected["mean_rougeL_f1"], abs=1e-9)


def test_stop_strings() -> None:
    assert [cut(text, STOP["params"]["stop"]) for text in STOP["inputs"]["strings"]] == STOP["outputs"]


@pytest.mark.parametrize("alpha", VECTOR["params"]["alpha"])
def test_task_vector(alpha: float) -> None:
    target, reinforced = (
        {name: torch.tensor(value, dtype=torch.float64) for name, value in VECTOR["inputs"][which].items()}
        for which in ("target", "reinforced")
    )
    delta = negated(target, reinforced, alpha)
    assert delta.keys() == (target.keys() if alpha else set())
    for name, expected in VECTOR["outputs"][f"{alpha:.1f}"].items():
        found = target[name] + delta.get(name, 0)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("alpha", POTTER["params"]["alpha"])
def test_whos_harry_potter(alpha: float) -> None:
    inputs, expected = POTTER["inputs"], POTTER["outputs"][f"{alpha:.1f}"]
    target, reinforced = (
        torch.tensor(inputs[f"{which}_logits"], dtype=torch.float64) for which in ("target", "reinforced")
    )
    found = lowered_logits(target, reinforced, alpha)
    torch.testing.assert_close(found, torch.tensor(expected["logits"], dtype=torch.float64), rtol=1e-9, atol=1e-8)
    labels = torch.tensor(inputs["labels"])[:, 1:]
    loss = nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), labels.flatten())
    assert float(loss) == pytest.approx(expected["loss"], abs=1e-8)
