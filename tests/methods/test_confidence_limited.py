"""Direct coverage optimization against the figures of its card, exact fractions and automatic differentiation."""

import math
from fractions import Fraction

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objective import evaluate, on
from palimpsest.objectives.confidence_limited import (
    DirectCoverageOptimization,
    coverage_factor,
    coverage_loss,
    log_coverage,
)
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.views import LabelView
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64


def log(p):
    return torch.tensor(p, dtype=DOUBLE).log()


# 2. and 3. By hand


@pytest.mark.parametrize(
    ("samples", "p", "loss", "factor"),
    [(4, 0.5, 0.0645385, 0.2666667), (256, 0.01, 0.0793842, 0.2136440), (16, 1e-6, 11.042929, 0.9999925)],
)
def test_value_and_factor(samples, p, loss, factor):
    logp = log(p).requires_grad_()
    found = coverage_loss(logp, samples)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert logp.grad.item() == pytest.approx(-factor, abs=1e-6)
    assert float(coverage_factor(logp, samples)) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_dtypes(dtype, tolerance):
    logp = torch.tensor([-0.5, -3.0, -30.0], dtype=dtype)
    expected = -torch.log(-torch.expm1(16 * torch.log1p(-logp.double().exp())))
    found = coverage_loss(logp, 16.0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


# 1. One sample


def test_one_sample_is_cross_entropy_on_answers():
    model, tokenizer = tiny_llama(300, 1, 32)
    adapter = CausalLM(tokenizer)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where", "completion": " it"}]
    (batch,) = adapter.roles(task=rows).window(0, 2, seed=0)
    ours = evaluate(on("task", DirectCoverageOptimization(1)), model, batch).total
    tokens = int((batch["task"]["labels"][:, 1:] != -100).sum())
    plain = evaluate(on("task", CrossEntropy()), model, batch).total * (tokens / 2)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(plain, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


# 4. and 5. The gradient, and the extremes


@pytest.mark.parametrize("samples", [1, 2, 2.5, 16, 256])
def test_the_gradient_is_that_of_the_equation(samples):
    p = torch.tensor([1e-8, 1e-4, 0.01, 0.3, 0.9, 0.999], dtype=DOUBLE)
    logp = p.log().requires_grad_()
    (found,) = torch.autograd.grad(coverage_loss(logp, samples).sum(), logp)
    (expected,) = torch.autograd.grad(-(1 - (1 - logp.exp()) ** samples).log().sum(), logp)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)  # the equation itself loses digits at 1e-8


@pytest.mark.parametrize("samples", [1.0, 2.0, 16.0, 1e6])
def test_extremes(samples):
    logp = torch.tensor([0.0, -1e-12, -1e-3, -50.0, -500.0, -5000.0], dtype=DOUBLE, requires_grad=True)
    loss = coverage_loss(logp, samples)
    loss.sum().backward()
    factor = -logp.grad
    assert torch.isfinite(loss).all() and (loss >= 0).all()
    assert (factor >= 0).all() and (factor <= 1).all() and (factor.diff() >= -1e-12).all()
    assert loss[0] == 0 and factor[0] == (1 if samples == 1 else 0)
    assert loss[-1].item() == pytest.approx(5000 - math.log(samples)) and factor[-1].item() == pytest.approx(1)


@pytest.mark.parametrize("exponent", [-1, -20, -30, -60, -400])
@pytest.mark.parametrize("samples", [1, 3, 64])
def test_against_whole_numbers(exponent, samples):
    p = Fraction(2) ** exponent
    miss = (1 - p) ** samples
    covered = 1 - miss
    log_covered = math.log(covered.numerator) - math.log(covered.denominator)
    logp = torch.tensor(exponent * math.log(2), dtype=DOUBLE)
    assert float(log_coverage(logp, samples)) == pytest.approx(log_covered, rel=1e-9)
    factor = samples * (1 - p) ** (samples - 1) * p / covered
    assert float(coverage_factor(logp, samples)) == pytest.approx(float(factor), rel=1e-9)


def test_rounding_above_certainty_is_certainty():
    assert coverage_loss(torch.tensor([1e-7]), 8.0).item() == 0


# 6. The policies that it leads to


@pytest.mark.parametrize(
    ("samples", "policy", "coverage"),
    [
        (2, (0.777778, 0.222222, 0.0), 0.744444),
        (4, (0.548658, 0.314729, 0.136613), 0.871280),
        (16, (0.379965, 0.325957, 0.294079), 0.998923),
    ],
)
def test_the_best_policy_for_expected_coverage(samples, policy, coverage):
    truth = torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE)
    logits = truth.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        # the derivative of the coverage is the coverage times that of its log, so the loss is weighted by it
        logp = logits.log_softmax(0)
        loss = (truth * log_coverage(logp, samples).exp() * coverage_loss(logp, samples)).sum()
        loss.backward()
        optimizer.step()
    found = logits.detach().softmax(0)
    assert found.tolist() == pytest.approx(policy, abs=5e-3)
    reached = float((truth * log_coverage(found.log(), samples).exp()).sum())
    assert reached == pytest.approx(coverage, abs=1e-4)
    if samples == 4:
        assert float((truth * log_coverage(truth.log(), 4).exp()).sum()) == pytest.approx(0.846800, abs=1e-6)


@pytest.mark.parametrize("samples", [1, 4])
def test_its_own_optimum_is_another(samples):
    truth = torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE)
    logits = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (truth * coverage_loss(logits.log_softmax(0), samples)).sum().backward()
        optimizer.step()
    found = logits.detach().softmax(0)
    if samples == 1:
        assert found.tolist() == pytest.approx(truth.tolist(), abs=1e-3)  # calibrated
        return
    grid = torch.cartesian_prod(torch.linspace(0.005, 0.99, 198), torch.linspace(0.005, 0.99, 198)).double()
    grid = grid[grid.sum(1) < 0.999]
    q = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    best = q[(truth * (1 - (1 - q) ** 4).log()).sum(1).argmax()]
    assert found.tolist() == pytest.approx(best.tolist(), abs=0.01)
    assert float(found[0]) < 0.6


# 8. Whole answers, not tokens


def test_whole_answers():
    both = log(0.5) * 2  # two tokens of probability one half
    assert float(coverage_factor(both, 4)) == pytest.approx(4 * 0.75**3 * 0.25 / (1 - 0.75**4), abs=1e-9)
    assert float(coverage_factor(both, 4)) == pytest.approx(0.617143, abs=1e-6)


def test_padding_prompt_and_neighbors_do_not_matter():
    model, tokenizer = tiny_llama(300, 1, 32)
    adapter = CausalLM(tokenizer)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where to", "completion": " over there"}]
    (batch,) = adapter.roles(task=rows).window(0, 2, seed=0)
    found = DirectCoverageOptimization(64)(adapter.views(model, batch, ["task"])["task"])
    alone = []
    for row in rows:
        (batch_of_one,) = adapter.roles(task=[row]).window(0, 1, seed=0)
        alone.append(DirectCoverageOptimization(64)(adapter.views(model, batch_of_one, ["task"])["task"]))
    torch.testing.assert_close(found.sort().values, torch.cat(alone).sort().values, rtol=1e-5, atol=1e-5)


def test_a_label_is_an_answer():
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    view = LabelView({"labels": labels}, logits)
    torch.testing.assert_close(DirectCoverageOptimization(4)(view), coverage_loss(view.logp, 4))


@pytest.mark.parametrize("bad", [0.0, 0.5, -1.0, math.inf, math.nan])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match=r"objective\.0\.confidence_limited: samples must be at least 1"):
        build({"confidence_limited": {"samples": bad}}, "objectives", place="objective.0")
