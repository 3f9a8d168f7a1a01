"""The Dice loss against the figures of its card, F1 and plain loops."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objective import evaluate, on
from palimpsest.objectives.dice import Dice, adjusted, dice, hardest, log_complement
from palimpsest.views import LabelView

DOUBLE = torch.float64


def two(p, dtype=DOUBLE):
    """Log-probabilities [N, 2] of two classes, ``p`` that of the second."""
    p = torch.as_tensor(p, dtype=DOUBLE)
    return torch.stack([1 - p, p], 1).log().to(dtype)


def random(rows=12, classes=4, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=dtype) * 2
    return logits, torch.randint(0, classes, (rows,), generator=generator)


# 1. The set, by hand


@pytest.mark.parametrize(("square", "smooth", "expected"), [(False, 1.0, 0.4), (True, 1.0, 1 / 3), (False, 1e-9, 0.5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-8), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_of_a_set(square, smooth, expected, dtype, tolerance):
    log_probs, labels = two([0.9, 0.2, 0.8, 0.1], dtype), torch.tensor([1, 0, 0, 1])
    found = dice(log_probs, labels, granularity="batch", square_denominator=square, alpha=0, smooth=smooth, positive=1)
    assert found.tolist() == pytest.approx([expected] * 4, abs=tolerance)  # every item carries the whole


# 2. Sure predictions


@pytest.mark.parametrize("seed", range(3))
def test_one_minus_f1_of_sure_predictions(seed):
    from sklearn.metrics import f1_score

    generator = torch.Generator().manual_seed(seed)
    said, labels = torch.randint(0, 2, (2, 30), generator=generator)
    log_probs = F.one_hot(said, 2).double().clamp_min(1e-12).log()
    loss = dice(log_probs, labels, granularity="batch", alpha=0, smooth=1e-12, positive=1)
    assert 1 - float(loss[0]) == pytest.approx(f1_score(labels, said), abs=1e-9)


# 3. and 4. Item by item


@pytest.mark.parametrize(
    ("y", "square", "alpha", "expected"),
    [
        (1, True, 0.0, {0.1: 0.402985, 0.5: 0.111111, 0.9: 0.003559}),
        (0, True, 0.0, {0.1: 0.009901, 0.5: 0.2, 0.9: 0.447514}),
        (1, True, 0.01, {0.1: 0.403084, 0.5: 0.112824, 0.9: 0.005234}),
        (0, True, 0.01, {0.1: 0.009880, 0.5: 0.197791, 0.9: 0.436157}),
        (1, False, 1.0, {0.1: 0.4354, 0.5: 0.3333, 0.9: 0.4354, 0.99: 0.4926}),
        (0, False, 1.0, {0.9: 0.0826, 0.99: 0.0098}),
        (0, False, 0.01, {0.1: 0.0908, 0.5: 0.3318, 0.9: 0.4679, 0.99: 0.4860}),
        (0, True, 0.01, {0.1: 0.0099, 0.5: 0.1978, 0.9: 0.4362, 0.99: 0.4720}),
    ],
)
def test_of_an_item(y, square, alpha, expected):
    labels = torch.full((len(expected),), y)
    found = dice(two(list(expected)), labels, square_denominator=square, alpha=alpha, positive=1)
    digits = 6 if alpha < 1 and square and 0.99 not in expected else 4
    assert found.tolist() == pytest.approx(list(expected.values()), abs=0.51 * 10**-digits)


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("granularity", ["example", "batch"])
def test_several_classes_as_a_loop(square, granularity):
    logits, labels = random()
    p = logits.softmax(1)
    rows, classes = p.shape
    w = (1 - p) ** 0.3 * p
    expected = torch.zeros(rows, dtype=DOUBLE)
    sets = [[i] for i in range(rows)] if granularity == "example" else [list(range(rows))]
    for members in sets:
        loss = 0.0
        for c in range(classes):
            both = sum(2 * w[i, c] for i in members if labels[i] == c)
            size = sum((w[i, c] ** 2 if square else w[i, c]) + (labels[i] == c) for i in members)
            loss = loss + 1 - (both + 0.7) / (size + 0.7)
        expected[members] = loss
    found = dice(
        logits.log_softmax(1), labels, granularity=granularity, square_denominator=square, alpha=0.3, smooth=0.7
    )
    torch.testing.assert_close(found, expected)


def test_two_classes_are_a_sigmoid():
    logits, labels = random(classes=2)
    found = dice(logits.log_softmax(1), labels, positive=1, alpha=0)
    p, y = (logits[:, 1] - logits[:, 0]).sigmoid(), labels.double()
    torch.testing.assert_close(found, 1 - (2 * p * y + 1) / (p**2 + y + 1))


# 6. Differentiable everywhere


def test_the_gradient_is_that_of_the_values():
    logits, labels = random(rows=4, classes=3)
    for granularity in ("example", "batch"):
        for alpha in (0.0, 0.01, 1.0):
            torch.autograd.gradcheck(
                lambda z, g=granularity, a=alpha: dice(z.log_softmax(1), labels, granularity=g, alpha=a),
                (logits.requires_grad_(),),
            )


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("focal", [False, True])
def test_finite_for_sure_predictions(dtype, focal):
    logits = torch.tensor([[50.0, -50.0], [-50.0, 50.0], [50.0, -50.0]], dtype=dtype, requires_grad=True)
    loss = dice(logits.log_softmax(1), torch.tensor([0, 0, 1]), alpha=0.01, focal=focal)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    plain = adjusted(logits.log_softmax(1), torch.zeros(3, 2).bool(), 0.01)
    assert float(plain[0, 0].detach()) == pytest.approx(math.exp(-1), rel=1e-5)  # (e^-100)^0.01


def test_one_minus_a_probability_that_rounds_to_one():
    logits = torch.tensor([[40.0, 0.0, 1.0], [0.1, 0.2, 0.3]])
    found = log_complement(logits.log_softmax(1))
    torch.testing.assert_close(found[0, 0], torch.tensor(math.log(1 + math.e) - 40.0))
    torch.testing.assert_close(found[1], torch.log1p(-logits[1].softmax(0)))


# 7. Masks and copies


def test_duplicates_leave_the_set_as_it_is():
    logits, labels = random()
    once, twice = (
        dice(z.log_softmax(1), y, granularity="batch", smooth=1e-12)[0]
        for z, y in ((logits, labels), (logits.repeat(2, 1), labels.repeat(2)))
    )
    torch.testing.assert_close(once, twice)


def test_tokens_that_are_not_scored_do_not_count():
    from palimpsest.zoo.models import tiny_llama

    model, tokenizer = tiny_llama(300, 1, 32)
    adapter = CausalLM(tokenizer)
    rows = [{"prompt": "who", "completion": " me"}, {"prompt": "where to", "completion": " over there"}]
    for objective in (Dice(), Dice("batch")):
        (batch,) = adapter.roles(task=rows).window(0, 2, seed=0)
        view = adapter.views(model, batch, ["task"])["task"]
        found = objective(view)
        expected = dice(view.log_probs[view.mask], view.targets[view.mask], granularity=objective.granularity)
        torch.testing.assert_close(found[view.mask], expected)
        assert (found[~view.mask] == 0).all() and (~view.mask).any()
        total = evaluate(on("task", objective), model, batch).total
        torch.testing.assert_close(total, expected.mean())


# 8. The hardest negatives


def test_which_negatives_are_kept():
    p = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    labels = torch.tensor([1, 0, 0, 1, 0, 0])
    own = F.one_hot(labels, 2).bool()
    for ratio, expected in ((0.5, [0, 1, 3]), (1.0, [0, 1, 2, 3]), (0.01, [0, 1, 3]), (9.0, list(range(6)))):
        kept = hardest(two(p), own, ratio)[:, 1]
        assert kept.nonzero()[:, 0].tolist() == expected
    assert not hardest(two(p), torch.zeros_like(own), 3.0).any()  # a class without an own item keeps none


def test_all_negatives_are_as_none_left_out():
    logits, labels = random()
    for granularity in ("example", "batch"):
        every = dice(logits.log_softmax(1), labels, granularity=granularity)
        mined = dice(logits.log_softmax(1), labels, granularity=granularity, hard_negatives=100)
        torch.testing.assert_close(every, mined)


# Ours: the factor as a weight


def test_focal_pulls_towards_sure_answers():
    logits = torch.tensor([[-4.0, 4.0]], dtype=DOUBLE, requires_grad=True)

    def slope(**fields):
        loss = dice(logits.log_softmax(1), torch.tensor([1]), positive=1, **fields)
        return float(torch.autograd.grad(loss.sum(), logits)[0][0, 1])

    assert slope(alpha=1.0) > 0  # the paper's form pushes a right answer down
    assert slope(alpha=1.0, focal=True) < 0
    assert slope(alpha=0.0, focal=True) == pytest.approx(slope(alpha=0.0))


# What is refused


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"smooth": 0.0}, "smooth must be above 0"),
        ({"alpha": -0.1}, "alpha must be at least 0"),
        ({"hard_negatives": -1.0}, "hard_negatives must be at least 0"),
        ({"positive": -1}, "positive is a class number"),
        ({"granularity": "token"}, "granularity is 'example' or 'batch'"),
    ],
)
def test_settings_are_checked(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Dice(**fields)
    if "granularity" not in fields:
        with pytest.raises(ValueError, match=rf"objective\.0\.dice: {sentence}"):
            build({"dice": fields}, "objectives", place="objective.0")


def test_a_large_alpha_is_warned_of():
    with pytest.warns(UserWarning, match=r"least at p = 0\.50"):
        Dice(alpha=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dice(alpha=1.0, focal=True)


def test_a_class_that_is_not_there_and_unequal_lengths():
    logits, labels = random(classes=3)
    with pytest.raises(ValueError, match="3 classes and positive 3"):
        Dice(positive=3)(LabelView({"labels": labels}, logits))
    with pytest.raises(ValueError, match="1 classes"):
        Dice()(LabelView({"labels": labels * 0}, logits[:, :1]))
    with pytest.raises((ValueError, RuntimeError)):
        dice(logits.log_softmax(1), labels[:-1])


def test_rows_depend_on_each_other_only_where_it_says_so():
    assert not Dice().couples and Dice("batch").couples and Dice(hard_negatives=0.3).couples
    assert copy.deepcopy(Dice("batch")) == Dice("batch")
