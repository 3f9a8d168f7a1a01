"""The inverted hinge against its closed-form gradient, its range, and a loop over positions."""

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objectives.inverted_hinge import InvertedHinge, inverted_hinge, logits_at
from palimpsest.views import LabelView, TokenOutputs, TokenView
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64


def leaf(p):
    return torch.tensor([p], dtype=DOUBLE).log().requires_grad_()


@pytest.mark.parametrize(
    ("p", "loss", "gradient"),
    [((0.6, 0.3, 0.1), 1.3, (0.42, -0.39, -0.03)), ((0.1, 0.3, 0.6), 0.5, (0.15, 0.15, -0.30))],
)
def test_by_hand(p, loss, gradient):
    logits = leaf(p)
    found = inverted_hinge(logits, torch.tensor([0]))
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert logits.grad[0].tolist() == pytest.approx(gradient, abs=1e-12)


def test_gradient_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 9, generator=generator, dtype=DOUBLE).mul(2).requires_grad_()
    targets = torch.randint(0, 9, (50,), generator=generator)
    inverted_hinge(logits, targets).sum().backward()
    p = logits.detach().softmax(-1)
    for i, t in enumerate(targets.tolist()):
        others = [v for v in range(9) if v != t]
        r = max(others, key=lambda v: p[i, v].item())
        expected = p[i] * (p[i, r] - p[i, t])
        expected[t] = p[i, t] * (1 - p[i, t] + p[i, r])
        expected[r] = -p[i, r] * (1 + p[i, t] - p[i, r])
        torch.testing.assert_close(logits.grad[i], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ends_of_the_range(dtype):
    logits = torch.tensor([[0.0, 0, 0, 0], [200, 0, 0, 0], [0, 200, 0, 0]], dtype=dtype)
    assert inverted_hinge(logits, torch.zeros(3, dtype=torch.int64)).tolist() == [1.0, 2.0, 0.0]


def test_always_between_zero_and_two():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2000, 5, generator=generator, dtype=DOUBLE) * 20
    loss = inverted_hinge(logits, torch.randint(0, 5, (2000,), generator=generator))
    assert float(loss.min()) >= 0 and float(loss.max()) <= 2


def test_below_the_rival_by_a_margin():
    assert inverted_hinge(leaf((0.2, 0.7, 0.1)), torch.tensor([0])).item() == pytest.approx(1 - 0.5, abs=1e-12)


def test_a_tie_with_the_target_is_a_rival():
    assert inverted_hinge(leaf((0.4, 0.4, 0.2)), torch.tensor([0])).item() == pytest.approx(1.0, abs=1e-12)


def test_logits_in_the_unit_interval_are_no_probabilities():
    logits = torch.tensor([[0.9, 0.2, 0.4, 0.1], [0.3, 0.8, 0.1, 0.6]], dtype=DOUBLE)
    assert inverted_hinge(logits, torch.tensor([0, 2])).mean().item() == pytest.approx(0.990930, abs=1e-6)


@pytest.fixture(scope="module")
def view():
    model, tokenizer = tiny_llama(300, 2, 32)
    adapter = CausalLM(tokenizer)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where", "completion": " over there"}]
    (batch,) = adapter.roles(forget=rows).window(0, 2, seed=0)
    return adapter.views(model, batch, ["forget"])["forget"]


def test_on_a_model_against_a_loop(view):
    found = InvertedHinge()(view)
    expected = torch.zeros(view.mask.shape)
    for i, t in view.mask.nonzero().tolist():
        p = view.logits[i, t].softmax(-1).detach()
        y = int(view.targets[i, t])
        expected[i, t] = 1 + p[y] - max(float(p[v]) for v in range(len(p)) if v != y)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-6)
    assert 1 < int(view.mask.sum()) < view.mask.numel()


def test_logits_of_the_chosen_positions_only(view):
    positions = torch.zeros_like(view.mask)
    positions[0, 1] = positions[1, 3] = True
    kept = logits_at(view, positions)
    torch.testing.assert_close(kept, view.logits[:, :-1][positions])
    whole = TokenView(view.batch, TokenOutputs(logits=view.logits))  # a head that cannot be applied apart
    torch.testing.assert_close(logits_at(whole, positions), kept)
    fresh = TokenView(view.batch, view.outputs)
    InvertedHinge()(fresh)
    assert "logits" not in fresh.__dict__, "the logits of all positions were made"


def test_nothing_scored_is_zero_everywhere(view):
    batch = {**view.batch, "labels": torch.full_like(view.batch["labels"], -100)}
    found = InvertedHinge()(TokenView(batch, view.outputs))
    assert found.shape == view.mask.shape and not found.any()


def test_a_classifier_has_one_value_a_row():
    logits = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]], dtype=DOUBLE).log()
    found = InvertedHinge()(LabelView({"labels": torch.tensor([0, 0])}, logits))
    assert found.tolist() == pytest.approx([1.3, 0.5], abs=1e-12)
