"""Dice losses against numbers of ShannonAI/dice_loss_for_NLP@d437bb9; where that is at fault, against what is right.

A one-logit head is a head of two classes whose first logit is 0.
"""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objectives.dice import dice

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("dice-loss.json").read_text())["cases"]}


def found(what, granularity, positive=None, rows=None):
    """Loss and gradient by the stored logits, of some of the rows."""
    case = CASES[what]
    logits = torch.tensor(case["inputs"]["logits"], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor(case["inputs"]["targets"])
    rows = list(range(len(targets))) if rows is None else rows
    both = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    params = case["params"]
    loss = dice(
        both.log_softmax(1)[rows],
        targets[rows],
        granularity=granularity,
        square_denominator=params["square_denominator"],
        alpha=params["alpha"],
        smooth=params["smooth"],
        positive=positive,
        hard_negatives=params.get("ohem_ratio", 0.0),
    ).mean()
    loss.backward()
    return loss.detach(), logits.grad


def same(found, case):
    for value, expected in zip(found, (case["outputs"]["loss"], case["outputs"]["grad_logits"])):
        torch.testing.assert_close(value, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_the_file_holds_the_cases():
    assert len(CASES) == 7


@pytest.mark.parametrize(
    "what", ["binary, one logit, linear denominator", "binary, no positive in the set, small smoothing"]
)
def test_binary(what):
    same(found(what, "batch", positive=1), CASES[what])


def test_what_is_masked_is_as_if_it_were_not_there():
    what = "binary, squared denominator, alpha 0.01, mask"
    rows = [i for i, m in enumerate(CASES[what]["inputs"]["mask"]) if m]
    same(found(what, "batch", positive=1, rows=rows), CASES[what])


def test_four_classes():
    what = "four classes, squared denominator, alpha 0.01, per example"
    same(found(what, "example"), CASES[what])


def test_a_linear_denominator_belongs_to_the_item_too():
    what = "four classes, linear denominator (shows a fault)"
    value, gradient = found(what, "example")
    assert value < 0.5 * CASES[what]["outputs"]["loss"]
    assert gradient.norm() > 2 * torch.tensor(CASES[what]["outputs"]["grad_logits"]).norm()


def test_as_many_hard_negatives_as_asked_for():
    what = "binary, OHEM ratio 0.5 with 4 positives: keep 2 hardest negatives asked (shows a fault)"
    case = CASES[what]
    value, gradient = found(what, "batch", positive=1)
    logits, targets = (torch.tensor(case["inputs"][k]) for k in ("logits", "targets"))
    two = logits[:, 0].masked_fill(targets == 1, -torch.inf).topk(2).indices
    assert (gradient[:, 0] != 0).nonzero()[:, 0].tolist() == sorted([0, 1, 2, 3, *two.tolist()])
    p = torch.cat([logits[:4], logits[two]]).double().sigmoid()[:, 0]
    y = torch.tensor([1.0] * 4 + [0.0] * 2)
    by_hand = 1 - (2 * (p * y).sum() + 1) / ((p**2).sum() + y.sum() + 1)
    torch.testing.assert_close(value, by_hand)
    assert float(value) > case["outputs"]["loss"] + 0.01  # the release keeps no negative here


def test_the_mean_is_over_what_counts():
    what = next(w for w in CASES if w.startswith("three classes with a mask"))
    case = CASES[what]
    rows = [i for i, (m,) in enumerate(case["inputs"]["mask"]) if m]
    value, gradient = found(what, "example", rows=rows)
    share = len(rows) / len(case["inputs"]["mask"])
    same((value * share, gradient * share), case)
