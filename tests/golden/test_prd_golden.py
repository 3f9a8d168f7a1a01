"""PRD's losses against numbers of naderAsadi/Probing-Continual-Learning@8b82d53."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.objectives.prototype_relation import cosine_scores, over_classes, over_samples, prototype_pull
from palimpsest.objectives.supervised_contrastive import supervised_contrastive

CASES = json.loads(Path(__file__).with_name("prd.json").read_text())["cases"]


def cases(begins: str) -> list[dict[str, Any]]:
    return [c for c in CASES if c["what"].startswith(begins)]


def leaf(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def same(found: Any, expected: Any) -> None:
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(torch.as_tensor(found).detach(), expected, rtol=1e-9, atol=1e-9)


def test_the_file_holds_the_cases() -> None:
    assert [len(cases(b)) for b in ("supervised", "relation", "prototype pull", "prediction")] == [3, 3, 1, 1]


@pytest.mark.parametrize("case", cases("supervised"), ids=lambda c: f"T={c['params']['T']}")
def test_supervised_contrastive(case: dict[str, Any]) -> None:
    views = [leaf(case["inputs"][f"z_view{i}"]) for i in (1, 2)]
    labels = torch.tensor(case["inputs"]["labels"]).repeat(2)
    loss = supervised_contrastive(torch.cat(views), labels, case["params"]["T"], case["params"]["T_base"]).mean()
    loss.backward()
    same(loss, case["outputs"]["loss"])
    for i, view in enumerate(views, 1):
        same(view.grad, case["outputs"][f"grad_view{i}"])


@pytest.mark.parametrize("case", cases("relation"), ids=lambda c: c["what"])
def test_relation_distillation(case: dict[str, Any]) -> None:
    given, tau = case["inputs"], case["params"]["tau"]
    before, features = (
        (torch.tensor(given["features_old_model"], dtype=torch.float64)),
        leaf(given["features_new_model"]),
    )
    old = [torch.tensor(p, dtype=torch.float64) for p in given["prototypes_old[task]"]]
    new = [leaf(p) for p in given["prototypes_new[task]"]]
    loss = torch.stack([over_classes(features, n, before, o, tau).mean() for n, o in zip(new, old, strict=True)]).sum()
    loss.backward()
    same(loss, case["outputs"]["loss_axis_prototypes_code"])
    same(features.grad, case["outputs"]["grad_features_new"])
    for found, expected in zip(new, case["outputs"]["grad_prototypes_new[task]"], strict=True):
        same(found.grad, expected)
    samples = over_samples(features, torch.cat(new), before, torch.cat(old), tau).mean()
    same(samples, case["outputs"]["loss_axis_samples_definition"])
    assert abs(float((samples - loss).detach())) > 0.04, "the two axes are told apart"


def test_prototype_pull() -> None:
    (case,) = cases("prototype pull")
    given, labels = case["inputs"], torch.tensor(case["inputs"]["labels"])
    features, prototypes = leaf(given["features"]), leaf(given["prototypes[task]"])
    own = prototypes.flatten(0, 1)[labels]  # classes 2 and 3 are the second task's
    loss = prototype_pull(features, own).mean()
    loss.backward()
    same(loss, case["outputs"]["loss"])
    same(prototypes.grad[1], case["outputs"]["grad_prototypes_of_the_task"])
    assert features.grad is None and not prototypes.grad[0].any()
    assert labels.tolist() == given["labels"], "the released code shifts the labels in place"


def test_prediction() -> None:
    (case,) = cases("prediction")
    features, prototypes = leaf(case["inputs"]["features"]), leaf(case["inputs"]["prototypes[task]"])
    scores = cosine_scores(features, prototypes.flatten(0, 1))
    same(scores, case["outputs"]["class_incremental"])
    assert scores.argmax(1).tolist() == case["outputs"]["class_incremental_argmax"]
    for task, expected in enumerate(case["outputs"]["task_incremental[task]"]):
        same(cosine_scores(features, prototypes[task]), expected)
