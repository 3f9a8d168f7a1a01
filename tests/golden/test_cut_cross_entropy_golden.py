"""linear_cross_entropy against numbers of the authors' kernels, apple/ml-cross-entropy@d42911f, faults included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palimpsest.kernels.cut_cross_entropy import linear_cross_entropy

FILE = json.loads(Path(__file__).with_name("cut-cross-entropy.json").read_text(encoding="utf-8"))
CASES = {case["what"]: case for case in FILE["cases"]}
EXACT = list(CASES)[:4]


def close(found: Tensor, expected: Any) -> None:
    """Theirs were computed in float32."""
    right = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))


def leaves(inputs: dict[str, Any]) -> dict[str, Tensor]:
    named = {"E": "e", "C": "c", "bias": "bias"}
    return {named[n]: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in inputs.items() if n in named}


def test_the_file_holds_the_cases() -> None:
    assert len(CASES) == 8 and sum("fault" in what for what in CASES) == 3


@pytest.mark.parametrize("what", EXACT)
def test_loss_and_gradients(what: str) -> None:
    inputs, outputs, params = (CASES[what][k] for k in ("inputs", "outputs", "params"))
    given = leaves(inputs)
    targets = torch.tensor(inputs["targets"])
    options = {k: params[k] for k in ("softcap", "reduction", "shift", "ignore_index")}
    loss, lse = linear_cross_entropy(**given, targets=targets, return_lse=True, **options)
    objective = loss + params.get("lse_square_weight", 0.0) * lse.square().sum()
    upstream = (
        torch.tensor(inputs["upstream"], dtype=torch.float64) if "upstream" in inputs else torch.ones_like(objective)
    )
    close(loss, outputs["loss_float64_reference"])
    if "lse" in outputs:
        close(lse, outputs["lse"])
    objective.backward(upstream)
    for name, leaf in given.items():
        close(leaf.grad, outputs[{"e": "grad_E", "c": "grad_C", "bias": "grad_bias"}[name]])


def test_the_released_filter_leaves_the_loss_as_it_is() -> None:
    (case,) = (c for what, c in CASES.items() if what.startswith("gradient filtering"))
    given = leaves(case["inputs"])
    close(linear_cross_entropy(**given, targets=torch.tensor(case["inputs"]["targets"])), case["outputs"]["loss"])


def test_a_bias_counts_once_where_theirs_counted_twice() -> None:
    case = CASES["bias with D = 260 > 256 (shows a fault)"]
    inputs, outputs = case["inputs"], case["outputs"]
    dense = {}
    for name in ("E", "C"):
        dense[name] = torch.zeros(inputs[f"{name}_shape"], dtype=torch.float64)
        for *place, value in inputs[f"{name}_nonzero"]:
            dense[name][tuple(place)] = value
    bias, targets = torch.tensor(inputs["bias"], dtype=torch.float64), torch.tensor(inputs["targets"])
    found = linear_cross_entropy(dense["E"], dense["C"], targets, bias, reduction="none")
    close(found, outputs["loss_float64_reference"])
    close(found - bias[targets], outputs["loss"])


def test_all_ignored_is_zero_where_theirs_fails() -> None:
    case = CASES["every target ignored (shows a fault)"]
    given, targets = leaves(case["inputs"]), torch.tensor(case["inputs"]["targets"])
    assert case["outputs"]["loss_mean"] == "nan"
    for reduction in ("mean", "sum"):
        loss = linear_cross_entropy(**given, targets=targets, reduction=reduction)
        loss.backward()
        assert loss == 0.0 and all(not leaf.grad.any() for leaf in given.values())
    close(linear_cross_entropy(**given, targets=targets, reduction="none"), case["outputs"]["loss_none"])


def test_a_target_outside_the_vocabulary_is_refused_where_theirs_is_not() -> None:
    case = CASES["a target outside the vocabulary (shows a fault)"]
    with pytest.raises(ValueError, match="outside the vocabulary of 4"):
        linear_cross_entropy(**leaves(case["inputs"]), targets=torch.tensor(case["inputs"]["targets"]))
