"""A tiny decoder learns articles with LOST better than with as many parameters in low-rank layers of a random start."""

import pytest
import torch

from palimpsest import zoo
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.claims.lost import Arm
from palimpsest.layers._replace import linears, replace
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.zoo.models import tiny_llama


@pytest.mark.parametrize("seed", [0, 1])
def test_learns_faster_than_low_rank_layers_of_its_size(seed):
    rows = zoo.load({"zoo": "authors", "people": 6, "facts": 2, "forget": 1, "part": "retain"})
    found = {}
    for name, arm in (("lost", Arm(6, True, True)), ("random", Arm(7, False, False))):
        model, tokenizer = tiny_llama(300, 2, 32, seed=seed)
        torch.manual_seed(seed)
        for path, linear in linears(model, lambda n: "attn" in n or "mlp" in n, "to replace"):
            replace(model, path, arm.layer(linear))
        roles = CausalLM(tokenizer).roles(task=rows)
        result = fit(model, roles, on("task", CrossEntropy()), Training(steps=40, batch=8, lr=1e-2), seed=seed)
        found[name] = sum(v for _, v in result.curves["task/cross_entropy"][-10:]) / 10
    assert found["lost"] < found["random"] - 0.05 and found["random"] < 5, found
