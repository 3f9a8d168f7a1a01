"""Cross-entropy against torch's own, and the one division over the whole window."""

import copy

import pytest
import torch
import torch.nn.functional as F

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.objective import Total, count_items, evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy, cross_entropy
from palimpsest.roles import Roles
from palimpsest.select import Selection
from palimpsest.zoo.models import tiny_llama

ROWS = [
    {"prompt": "one two", "completion": " three"},
    {"prompt": "a", "completion": " b c d e f"},
    {"text": "free text"},
]


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    return model, CausalLM(tokenizer)


def test_tokens_against_torch(language):
    model, adapter = language
    (batch,) = adapter.roles(task=ROWS).window(0, 3, seed=0)
    loss = evaluate(on("task", CrossEntropy()), model, batch).total
    logits = model(**{k: batch["task"][k] for k in ("input_ids", "attention_mask")}).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["task"]["labels"][:, 1:].flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_mean_is_over_tokens_not_over_rows_or_micro_batches(language):
    model, adapter = language
    roles = adapter.roles(task=ROWS)
    (whole,) = roles.window(0, 3, seed=0)
    total = Total((on("task", CrossEntropy()),))
    micro = roles.window(0, 3, seed=0, accumulation=3)
    loss = evaluate(total, model, whole).total.detach()
    counts = count_items(total, micro)
    parts = [evaluate(total, model, b, counts=counts).total.detach() for b in micro]
    means = [evaluate(total, model, b).total.detach() for b in micro]
    assert len({adapter.count(b["task"], "token") for b in micro}) > 1, "equal lengths would not tell the means apart"
    torch.testing.assert_close(sum(parts), loss, rtol=1e-5, atol=1e-5)
    assert abs(float(sum(means) / 3 - loss)) > 1e-4


def test_labels_against_torch():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    adapter = Classifier(3)
    rows = [{"inputs": torch.randn(4), "label": i % 3} for i in range(5)]
    (batch,) = adapter.roles(task=rows).window(0, 5, seed=0)
    loss = evaluate(on("task", CrossEntropy()), model, batch).total
    torch.testing.assert_close(loss, F.cross_entropy(model(batch["task"]["inputs"]), batch["task"]["labels"]))


@pytest.mark.parametrize(("logp", "loss"), [(0.0, 0.0), (-0.6931471805599453, 0.6931471805599453), (-1e30, 1e30)])
def test_negated_log_probability(logp, loss):
    assert cross_entropy(torch.tensor(logp, dtype=torch.float64)).item() == loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precisions(language, dtype):
    model, adapter = language
    (batch,) = adapter.roles(task=ROWS).window(0, 3, seed=0)
    exact = float(evaluate(on("task", CrossEntropy()), model, batch).total.detach())
    loss = evaluate(on("task", CrossEntropy()), copy.deepcopy(model).to(dtype), batch).total
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(loss.detach()) == pytest.approx(exact, rel=1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_items_of_a_selection_carry_their_weights(language):
    model, adapter = language
    chosen = Selection(torch.tensor([0, 1]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0]))
    (batch,) = Roles(adapter, {"task": ROWS[:2]}, selections={"task": chosen}).window(0, 2, seed=0)
    (alone,) = adapter.roles(task=ROWS[1:2]).window(0, 1, seed=0)
    counts = count_items(Total((on("task", CrossEntropy()),)), [batch])
    weighted = evaluate(on("task", CrossEntropy()), model, batch, counts=counts).total
    single = evaluate(on("task", CrossEntropy()), model, alone, counts=counts).total
    torch.testing.assert_close(weighted, 2 * single, rtol=1e-5, atol=1e-6)
