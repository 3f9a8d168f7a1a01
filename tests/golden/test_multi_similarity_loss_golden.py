"""Multi-similarity loss against msight-tech/research-ms-loss@b68507d and against pytorch-metric-learning 2.9.0."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objectives._pairs import Pairs, mined
from palimpsest.objectives.multi_similarity import MultiSimilarity, multi_similarity
from palimpsest.views import LabelView

HERE = Path(__file__)
AUTHORS = {c["what"]: c for c in json.loads(HERE.with_name("multi-similarity-loss.json").read_text())["cases"]}
PEER = {c["what"]: c for c in json.loads(HERE.with_name("multi-similarity-peer.json").read_text())["cases"]}
FAULTS = [what for what in AUTHORS if "shows a fault" in what]


def as_given(case):
    """Loss and gradient by the rows as they are stored, which are of unit length up to their eight digits."""
    rows = torch.tensor(case["inputs"]["embeddings"], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(case["inputs"]["labels"])
    same = labels[:, None] == labels
    params = case["params"]
    pairs = mined(Pairs(rows @ rows.T, same & ~torch.eye(len(labels)).bool(), ~same), params["eps"])
    loss = multi_similarity(pairs, params["alpha"], params["beta"], params["lam"]).mean()
    loss.backward()
    return loss.detach(), rows.grad


def test_the_files_hold_the_cases():
    assert len(AUTHORS) == 6 and len(FAULTS) == 2 and len(PEER) == 5


@pytest.mark.parametrize("what", [w for w in AUTHORS if w not in FAULTS])
def test_authors(what):
    loss, gradient = as_given(AUTHORS[what])
    outputs = AUTHORS[what]["outputs"]
    torch.testing.assert_close(loss, torch.tensor(outputs["loss"], dtype=torch.float64), rtol=1e-9, atol=1e-9)
    expected = torch.tensor(outputs["grad_embeddings"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_equal_rows_of_a_class_are_a_pair():
    (what,) = (w for w in FAULTS if "duplicate" in w)
    loss, _ = as_given(AUTHORS[what])
    assert abs(float(loss) - AUTHORS[what]["outputs"]["loss"]) > 0.005


def test_nothing_mined_leaves_a_zero_gradient_instead_of_none():
    (what,) = (w for w in FAULTS if "nothing mined" in w)
    loss, gradient = as_given(AUTHORS[what])
    assert float(loss) == 0 == AUTHORS[what]["outputs"]["loss"]
    assert float(gradient.abs().max()) == 0 and AUTHORS[what]["outputs"]["grad_embeddings"] is None


@pytest.mark.parametrize("what", list(PEER))
def test_peer(what):
    case = PEER[what]
    features = torch.tensor(case["inputs"]["features"], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(case["inputs"]["labels"])
    loss = MultiSimilarity(**case["params"])(LabelView({"labels": labels}, features, features)).mean()
    loss.backward()
    torch.testing.assert_close(loss.item(), case["outputs"]["loss"], rtol=1e-12, atol=1e-12)
    expected = torch.tensor(case["outputs"]["grad_features"], dtype=torch.float64)
    torch.testing.assert_close(features.grad, expected, rtol=1e-10, atol=1e-12)
