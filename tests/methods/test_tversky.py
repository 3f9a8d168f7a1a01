"""The Tversky loss against the Dice loss, F-scores and a plain loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objective import evaluate, on
from palimpsest.objectives.dice import dice
from palimpsest.objectives.tversky import Tversky, tversky
from palimpsest.views import LabelView

DOUBLE = torch.float64
SETS = pytest.mark.parametrize("granularity", ["example", "batch"])


def random(rows=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=DOUBLE) * 2
    return logits, torch.randint(0, classes, (rows,), generator=generator)


@SETS
@pytest.mark.parametrize("positive", [None, 1])
@pytest.mark.parametrize("smooth", [1e-9, 0.5, 2.0])
def test_at_one_half_each_it_is_the_linear_dice_loss_of_twice_the_smoothing(granularity, positive, smooth):
    logits, labels = random()
    same = {"granularity": granularity, "positive": positive}
    found = tversky(logits.log_softmax(1), labels, smooth=smooth, **same)
    plain = dice(logits.log_softmax(1), labels, square_denominator=False, alpha=0, smooth=2 * smooth, **same)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize(("false_alarms", "misses"), [(0.5, 0.5), (0.2, 0.8), (0.8, 0.2)])
def test_one_minus_the_f_score_of_sure_predictions(false_alarms, misses):
    from sklearn.metrics import fbeta_score

    generator = torch.Generator().manual_seed(0)
    said, labels = torch.randint(0, 2, (2, 30), generator=generator)
    log_probs = F.one_hot(said, 2).double().clamp_min(1e-14).log()
    prices = {"false_alarms": false_alarms, "misses": misses}
    loss = tversky(log_probs, labels, granularity="batch", smooth=1e-12, positive=1, **prices)
    beta = (misses / false_alarms) ** 0.5
    assert 1 - float(loss[0]) == pytest.approx(fbeta_score(labels, said, beta=beta), abs=1e-9)


@SETS
def test_several_classes_as_a_loop(granularity):
    logits, labels = random()
    p = logits.softmax(1)
    expected = torch.zeros(len(p), dtype=DOUBLE)
    sets = [[i] for i in range(len(p))] if granularity == "example" else [list(range(len(p)))]
    for members in sets:
        loss = 0.0
        for c in range(4):
            found = sum(p[i, c] for i in members if labels[i] == c)
            alarms = sum(p[i, c] for i in members if labels[i] != c)
            missed = sum(1 - p[i, c] for i in members if labels[i] == c)
            loss = loss + 1 - (found + 0.7) / (found + 0.3 * alarms + 0.9 * missed + 0.7)
        expected[members] = loss
    prices = {"false_alarms": 0.3, "misses": 0.9, "smooth": 0.7}
    torch.testing.assert_close(tversky(logits.log_softmax(1), labels, granularity=granularity, **prices), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_an_item_by_hand(dtype, tolerance):
    """found 0.8, missed 0.2 for its own class; alarms 0.2 for the other."""
    log_probs = torch.tensor([[0.2, 0.8]], dtype=DOUBLE).log().to(dtype)
    found = tversky(log_probs, torch.tensor([1]), false_alarms=0.25, misses=0.75, smooth=1.0)
    assert float(found) == pytest.approx((1 - 1.8 / 1.95) + (1 - 1 / 1.05), abs=tolerance)


@SETS
def test_the_gradient_is_that_of_the_values(granularity):
    logits, labels = random(rows=4, classes=3)
    torch.autograd.gradcheck(
        lambda z: tversky(z.log_softmax(1), labels, granularity=granularity, misses=0.9), (logits.requires_grad_(),)
    )


@SETS
def test_finite_for_sure_predictions(granularity):
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0], [50.0, -50.0]], requires_grad=True)
    loss = tversky(logits.log_softmax(1), torch.tensor([0, 0, 1]), granularity=granularity)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def test_a_batch_without_the_class_pushes_it_down():
    logits = torch.zeros(3, 2, requires_grad=True)
    Tversky("batch", positive=1)(LabelView({"labels": torch.zeros(3).long()}, logits)).mean().backward()
    assert bool((logits.grad[:, 1] > 0).all())


@SETS
def test_tokens_that_are_not_scored_do_not_count(granularity):
    from palimpsest.zoo.models import tiny_llama

    model, tokenizer = tiny_llama(300, 1, 32)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where to", "completion": " over there"}]
    (batch,) = CausalLM(tokenizer).roles(task=rows).window(0, 2, seed=0)
    found = evaluate(on("task", Tversky(granularity)), model, batch).total
    view = batch.adapter.views(model, batch, ["task"])["task"]
    plain = tversky(view.log_probs[view.mask], view.targets[view.mask], granularity=granularity)
    torch.testing.assert_close(found, plain.mean())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"granularity": "set"}, "granularity is 'example' or 'batch', not 'set'"),
        ({"smooth": 0.0}, "smooth must be above 0"),
        ({"misses": 0.0}, "misses must be a finite number above 0"),
        ({"false_alarms": math.nan}, "false_alarms must be a finite number above 0"),
        ({"positive": -1}, "positive is a class number from 0"),
    ],
)
def test_settings_are_checked(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Tversky(**fields)


def test_a_class_that_is_not_there():
    with pytest.raises(ValueError, match="given 2 classes and positive 2"):
        Tversky(positive=2)(LabelView({"labels": torch.zeros(3).long()}, torch.zeros(3, 2)))
    assert Tversky("batch").couples and not Tversky().couples
