"""TOFU's metrics against numbers of locuslab/tofu@bdc209e, and two of locuslab/open-unlearning@d3d7cf9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.audits.probability import relative_probability
from palimpsest.audits.rouge import rouge_l
from palimpsest.audits.truth_ratio import Mean, closeness, truth_ratio, utility
from palimpsest.statistics import aggregate, ks_two_sample
from palimpsest.views import TokenOutputs, TokenView

CASES = json.loads(Path(__file__).with_name("tofu-metrics.json").read_text())["cases"]
LOGITS, RECALL, UTILITY, ZERO, FORGET_QUALITY, OPEN = CASES
FILES = {
    "Retain": "eval_log.json",
    "Real Authors": "eval_real_author_wo_options.json",
    "Real World": "eval_real_world_wo_options.json",
    "Forget": "eval_log_forget.json",
}


def number(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, expected: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, number(expected), rtol=tolerance, atol=tolerance)


def mean_logp(logits: Any, labels: Any) -> Tensor:
    """What the audits start from: the mean log-probability of a row's scored tokens, through the view, [B]."""
    labels = torch.tensor(labels)
    view = TokenView({"labels": labels}, TokenOutputs(logits=number(logits)))
    return view.seq_logp / view.mask.sum(1)


def test_losses_probability_and_truth_ratio_from_logits() -> None:
    given, expected = LOGITS["inputs"], LOGITS["outputs"]
    right = mean_logp(given["logits_correct"], given["labels_correct"])
    pairs = zip(given["logits_perturbed"], given["labels_perturbed"], strict=True)
    wrong = torch.stack([mean_logp(logits, labels) for logits, labels in pairs])  # [B, W]
    close(-right, expected["avg_loss_correct"])
    close(-wrong, expected["avg_loss_perturbed"])
    close(right.exp(), expected["prob_correct"])
    close(truth_ratio(right, wrong), expected["truth_ratio"])


def test_rouge_recall_with_stemming() -> None:
    found = [rouge_l(p["ground_truth"], p["generated"], stemmer=True).recall for p in RECALL["inputs"]["pairs"]]
    assert found == pytest.approx(RECALL["outputs"]["rougeL_recall"], abs=1e-9)


def components(form: Mean, world_paraphrase: list[float] | None = None) -> dict[str, float]:
    """The twelve figures of TOFU's table from its evaluation logs."""
    found: dict[str, float] = {}
    for name, file in FILES.items():
        log = {k: number(list(v.values())) for k, v in UTILITY["inputs"][file].items()}
        if world_paraphrase is not None and name == "Real World":
            log["avg_paraphrased_loss"] = number(world_paraphrase)
        right, wrong = -log["avg_gt_loss"], -log["average_perturb_loss"]
        relative = name.startswith("Real")
        probability = relative_probability(right, wrong) if relative else right.exp()
        ratio = truth_ratio(-log["avg_paraphrased_loss"], wrong, form)
        found[f"{name} Probability"] = float(probability.mean())
        found[f"{name} ROUGE"] = float(log["rougeL_recall"].mean())
        found[f"{name} Truth Ratio"] = float((closeness if name == "Forget" else utility)(ratio).mean())
    nine = number([value for name, value in found.items() if not name.startswith("Forget")])
    return {**found, "Model Utility": aggregate(nine, "harmonic_mean")}


@pytest.mark.parametrize("form", ["arithmetic", "geometric"])
def test_model_utility_in_both_released_forms(form: Mean) -> None:
    assert components(form) == pytest.approx(UTILITY["outputs"][f"{form}_form"], abs=1e-9)


def test_a_component_at_zero() -> None:
    found = components("arithmetic", ZERO["inputs"]["avg_paraphrased_loss_real_world"])
    assert {name: found[name] for name in ZERO["outputs"]} == ZERO["outputs"]


@pytest.mark.parametrize("pair", ["different", "similar", "identical"])
def test_forget_quality(pair: str) -> None:
    samples = [FORGET_QUALITY["inputs"][name] for name in FORGET_QUALITY["params"]["pairs"][pair]]
    ratios = [truth_ratio(-number(s["avg_paraphrased_loss"]), -number(s["average_perturb_loss"])) for s in samples]
    found, expected = ks_two_sample(*ratios), FORGET_QUALITY["outputs"][pair]
    assert (found.statistic, found.p) == pytest.approx((expected["statistic"], expected["p_value"]), abs=1e-9)


def test_open_unlearning_s_form_up_to_its_1e_10() -> None:
    given, expected = OPEN["inputs"], OPEN["outputs"]
    right, wrong = -number(given["avg_loss_correct"]), -number(given["avg_loss_wrong"])
    ratio = truth_ratio(right, wrong)
    close(closeness(ratio), expected["closer_to_1_better"]["per_item"], 1e-8)
    close(closeness(ratio).mean(), expected["closer_to_1_better"]["agg_value"], 1e-8)
    close(relative_probability(right, wrong), expected["probability_w_options"]["per_item"], 1e-8)
