"""RegLoRA against numbers of jinpeng0528/SEFE@2f61efe."""

import json
from pathlib import Path

import pytest
import torch

from palimpsest.objectives.reg_lora import join_positions, product_at, top_positions

CASES = {c["what"]: c for c in json.loads(Path(__file__).with_name("sefe.json").read_text())["cases"]}
TWO_TASKS = [w for w in CASES if w.startswith("second task")]
FRACTION = 0.02


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def positions(task, multiset=False, earlier=None):
    """Layer -> positions after a task's adapter."""
    found = {}
    for layer, factors in task.items():
        new = top_positions(tensor(factors["B"]) @ tensor(factors["A"]), FRACTION)
        found[layer] = new if earlier is None else join_positions(new, earlier[layer], multiset)
    return found


def flat(pairs, columns):
    return [row * columns + column for row, column in pairs]


def sum_of_means(new, where):
    return sum(product_at(tensor(f["B"]), tensor(f["A"]), where[layer]).abs().mean() for layer, f in new.items())


def same(found, expected):
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float64), tensor(expected), rtol=1e-9, atol=1e-9)


def test_the_file_holds_the_cases():
    assert len(CASES) == 5 and len(TWO_TASKS) == 2


def test_first_task():
    case = CASES["key positions of the first task and penalty on a new adapter"]
    inputs, outputs = case["inputs"], case["outputs"]
    where = positions(inputs["task1"])
    for layer, pairs in outputs["key_positions_task1"].items():
        assert where[layer].tolist() == flat(pairs, len(inputs["task1"][layer]["A"][0]))
    same(sum_of_means(inputs["new"], where), outputs["sum_of_means"])
    recommended = 2500 * sum_of_means(inputs["new"], where) / len(where)
    same(recommended, outputs["penalty_recommended (x lambda / n_linears)"])
    for layer, expected in outputs["grad_of_sum_of_means"].items():
        a, b = (tensor(inputs["new"][layer][k]).requires_grad_() for k in "AB")
        product_at(b, a, where[layer]).abs().mean().backward()
        same(a.grad, expected["dA"])
        same(b.grad, expected["dB"])


@pytest.mark.parametrize("what", TWO_TASKS)
def test_second_task(what):
    inputs, outputs = CASES[what]["inputs"], CASES[what]["outputs"]
    first = positions(inputs["task1"])
    multiset, union = (positions(inputs["task2"], m, first) for m in (True, False))
    for layer, pairs in outputs["key_positions_accumulated"].items():
        listed = flat(pairs, len(inputs["task1"][layer]["A"][0]))
        assert multiset[layer].tolist() == listed
        assert union[layer].tolist() == sorted(set(listed))
    names = ("sum_of_means_code", "sum_of_means_union")
    code, as_set = (next(v for k, v in outputs.items() if k.startswith(name)) for name in names)
    same(sum_of_means(inputs["new"], multiset), code)
    same(sum_of_means(inputs["new"], union), as_set)


def test_fresh_adapter():
    case = CASES["fresh adapter (B = 0)"]
    where = positions(case["inputs"]["task1"])
    largest = 0.0
    for layer, factors in case["inputs"]["new"].items():
        a, b = (tensor(factors[k]).requires_grad_() for k in "AB")
        loss = product_at(b, a, where[layer]).abs().mean()
        loss.backward()
        assert float(loss.detach()) == 0.0
        largest = max(largest, float(a.grad.abs().max()), float(b.grad.abs().max()))
    assert largest == case["outputs"]["largest_absolute_gradient"] == 0.0


def test_a_matrix_too_small_has_no_positions_where_the_code_has_no_number():
    case = CASES["matrix so small that int(0.02 rows cols) = 0"]
    assert case["outputs"]["sum_of_means"] == "nan"
    assert all(len(where) == 0 for where in positions(case["inputs"]["task1"]).values())
