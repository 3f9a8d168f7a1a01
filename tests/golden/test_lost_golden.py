"""LOST's layer against numbers of JiaxiLi1/Lora-init@ec6ce9b (HybridSparseLinear), not of the paper's repository."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from palimpsest.layers.lost import LowRankSparseLinear, low_rank_and_columns

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("lost.json").read_text())["cases"]}
FAULT = "no number of singular values given (shows a fault)"
SMALLEST = "the 2 smallest singular values score the columns"


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def same(found, expected):
    torch.testing.assert_close(found, exact(expected), rtol=1e-9, atol=1e-9)


def layer_of(case):
    """The layer of a case; the smallest singular values are an option of that code, and so the columns are given."""
    params, weight = case["params"], exact(case["inputs"]["W"])
    linear = nn.Linear(*weight.shape[::-1], bias=params["bias"], dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if params["bias"]:
            linear.bias.copy_(exact(case["inputs"]["bias"]))
    scored = params["scored_singular_values"]
    layer = LowRankSparseLinear.of(
        linear,
        params["rank"],
        params["delta"],
        params["gamma"],
        scored=int(scored.removeprefix("next ")) if scored.startswith("next") else None,
        activation="silu" if params["silu"] else "identity",
    )
    if case["what"] == SMALLEST:
        columns = torch.tensor(case["outputs"]["selected_columns"])
        layer = LowRankSparseLinear(
            layer.left, layer.right, columns, weight[:, columns], gamma=params["gamma"], activation=layer.activation
        )
    return layer


def test_the_file_holds_the_cases():
    assert len(CASES) == 6 and {FAULT, SMALLEST} <= set(CASES)


@pytest.mark.parametrize("what", [w for w in CASES if w != FAULT])
def test_layer(what):
    case = CASES[what]
    outputs, layer = case["outputs"], layer_of(case)
    assert layer.columns.tolist() == outputs["selected_columns"]
    same(layer.sparse.detach(), outputs["W_s"])
    same((layer.left @ layer.right).detach(), outputs["BA"])
    x = exact(case["inputs"]["x"]).requires_grad_()
    y = layer(x)
    same(y.detach(), outputs["y"])
    (y.square().sum() / 2).backward()
    same(x.grad, outputs["grad_x_of_half_sum_y2"])
    same(layer.sparse.grad, outputs["grad_W_s"])


def test_columns_are_scored_by_the_complement_where_that_code_takes_the_weight_itself():
    case = CASES[FAULT]
    weight = exact(case["inputs"]["W"])
    found = low_rank_and_columns(weight, case["params"]["rank"], case["params"]["delta"])[2].tolist()
    assert found == case["outputs"]["columns_by_complement"] != case["outputs"]["selected_columns"]
    assert weight.norm(dim=0).topk(len(found)).indices.sort().values.tolist() == case["outputs"]["selected_columns"]
