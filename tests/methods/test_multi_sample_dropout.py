"""Multi-sample dropout against the figures of its card: one sample, no dropout, the loop, moments, evaluation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.layers.multi_sample_dropout import MultiSampleDropout, MultiSampleHead, dropped, multi_sample_loss
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.general_pair_weighting import GeneralPairWeighting
from palimpsest.objectives.multi_similarity import MultiSimilarity
from palimpsest.objectives.npo import NPO
from palimpsest.reference import Copy, cache
from palimpsest.roles import RoleBatch
from palimpsest.zoo.classifiers import digits_mlp
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64
ADAPTER = Classifier(10, features="3")
GENERATOR = torch.Generator().manual_seed(0)
ROWS = [{"inputs": torch.rand(64, generator=GENERATOR), "label": i % 10} for i in range(12)]


def per_row(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def toy(seed=0):
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(DOUBLE)
    return head, torch.randn(4, 6, dtype=DOUBLE, requires_grad=True), torch.tensor([0, 2, 1, 1])


def gradients(loss, head, hidden):
    return torch.autograd.grad(loss, (hidden, *head.parameters()))


# 1. and 2. One sample, and no dropout


def test_one_sample_is_one_dropout_bit_for_bit():
    head, hidden, targets = toy()
    found = []
    for loss in (
        lambda: multi_sample_loss(head, per_row, hidden, targets, samples=1, dropout=0.4).mean(),
        lambda: F.cross_entropy(head(F.dropout(hidden, 0.4)), targets),
        lambda: F.cross_entropy(MultiSampleHead(head, 1, 0.4)(hidden), targets),
        lambda: F.cross_entropy(MultiSampleHead(head, 1, 0.4, "logits")(hidden), targets),
    ):
        torch.manual_seed(7)
        value = loss()
        found.append((value, *gradients(value, head, hidden)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.parametrize("samples", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_dropout_it_is_the_plain_loss(samples, dtype):
    head, hidden, targets = toy()
    head, hidden = head.to(dtype), hidden.detach().to(dtype).requires_grad_()
    plain = F.cross_entropy(head(hidden), targets)
    several = multi_sample_loss(head, per_row, hidden, targets, samples=samples, dropout=0.0).mean()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(several, plain, rtol=tolerance, atol=tolerance)
    for a, b in zip(gradients(several, head, hidden), gradients(plain, head, hidden)):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# 3. One pass over more rows is the loop


def test_it_is_the_loop_over_the_same_masks():
    head, hidden, targets = toy()
    torch.manual_seed(3)
    value = multi_sample_loss(head, per_row, hidden, targets, samples=5, dropout=0.5).mean()
    torch.manual_seed(3)
    masks = F.dropout(torch.ones(20, 6, dtype=DOUBLE), 0.5).view(4, 5, 6)  # already over 1 - p
    assert len({tuple(m.flatten().tolist()) for m in masks.unbind(1)}) == 5
    loop = torch.stack([F.cross_entropy(head(hidden * masks[:, m]), targets) for m in range(5)]).mean()
    torch.testing.assert_close(value, loop, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(value, head, hidden), gradients(loop, head, hidden)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# 4. and 5. Moments over the masks


def test_closed_form_of_a_squared_loss():
    head, hidden = (lambda h: h.sum(1)), torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    torch.manual_seed(0)
    draws = multi_sample_loss(
        head, lambda o, y: (o - y).square(), hidden.expand(40_000, 2), torch.zeros(40_000), samples=4
    )
    assert float(draws.mean()) == pytest.approx(14, abs=0.2)  # (clean 3)^2 + p / (1 - p) * (1 + 4)
    assert float(draws.var()) == pytest.approx(196 / 4, rel=0.05)


def test_the_variance_of_the_gradient_falls_with_the_samples():
    torch.manual_seed(1)
    hidden, weight = torch.randn(3, 8, dtype=DOUBLE), torch.randn(2, 8, dtype=DOUBLE)
    targets, draws = torch.tensor([0, 1, 1]), 4000

    def variance(samples):
        masked = dropped(hidden.repeat(draws, 1), samples, 0.5)  # [draws * 3 * samples, 8]
        probability = (masked @ weight.T).softmax(1) - F.one_hot(targets.repeat(draws).repeat_interleave(samples), 2)
        each = (probability.unsqueeze(2) * masked.unsqueeze(1)).view(draws, 3 * samples, -1).mean(1)
        return float(each.var(0).sum())

    assert 12 < variance(1) / variance(16) < 20


# 6. Averaged logits are another method


def test_the_loss_of_averaged_logits_is_smaller():
    head, hidden, targets = toy()
    losses = []
    for aggregate in ("loss", "logits"):
        torch.manual_seed(5)
        out = MultiSampleHead(head, 6, 0.5, aggregate)(hidden)
        losses.append(float(F.cross_entropy(out, targets.repeat_interleave(len(out) // 4)).detach()))
    assert losses[1] < losses[0] - 1e-3


# 7. Evaluation


def test_evaluation_is_one_plain_pass():
    head, hidden, _ = toy()
    keys = set()
    for samples in (1, 8, 32):
        module = MultiSampleHead(head, samples, 0.5).eval()
        assert torch.equal(module(hidden), head(hidden)) and torch.equal(module(hidden), module(hidden))
        keys.add(tuple(module.state_dict()))
        assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in head.parameters())
    assert len(keys) == 1


# In a model that the library trains


@pytest.fixture
def batch():
    return ADAPTER.roles(task=ROWS).window(0, 6, seed=0)[0]


def test_a_row_counts_once_however_often_it_is_answered(batch):
    model = digits_mlp()
    clean = evaluate(on("task", CrossEntropy()), model, batch).total
    model[4] = MultiSampleHead(model[4], 5, 0.0)
    model.train()
    view = ADAPTER.views(model, batch, ["task"])["task"]
    assert view.size == 30 and view.logits.shape == (30, 10) and view.features.shape == (30, 64)
    assert float(view.batch["weight"].sum()) == pytest.approx(6)
    torch.testing.assert_close(evaluate(on("task", CrossEntropy()), model, batch).total, clean, rtol=1e-6, atol=1e-7)


def test_the_loss_is_the_mean_over_samples_and_weighted_rows(batch):
    model = digits_mlp()
    body, head = model[:4], model[4]
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0, 0.5])
    weighted = RoleBatch({"task": {**batch["task"], "weight": weight}}, ADAPTER)
    torch.manual_seed(2)
    values = multi_sample_loss(head, per_row, body(batch["task"]["inputs"]), batch["task"]["labels"], samples=4)
    MultiSampleDropout(4, 0.5).install(model)
    model.train()
    torch.manual_seed(2)
    found = evaluate(on("task", CrossEntropy()), model, weighted).total
    torch.testing.assert_close(found, (values * weight).sum() / 6, rtol=1e-6, atol=1e-6)


def test_references_answer_once_and_are_compared_with_every_answer(batch):
    model = digits_mlp()
    reference, roles = Copy(model), ADAPTER.roles(task=ROWS)
    stored = cache(roles, model, ("task",))
    with torch.no_grad():
        model[4].weight.add_(0.1 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    plain = evaluate(on("task", NPO()), model, batch, reference=reference).total
    model[4] = MultiSampleHead(model[4], 3, 0.0)
    model.train()
    for kept in (reference, stored):
        found = evaluate(on("task", NPO()), model, batch, reference=kept).total
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", [MultiSimilarity(mining_margin=None), GeneralPairWeighting("triplet")])
def test_pairs_of_rows_do_not_notice_it(loss, batch):
    """Features lie before the dropout: each row is paired once, and not with itself."""
    model = digits_mlp()
    batch["task"]["labels"] %= 3  # two rows of a class
    plain = evaluate(on("task", loss), model, batch).total
    assert float(plain.detach()) != 0
    MultiSampleDropout(4, 0.5).install(model)
    model.train()
    torch.testing.assert_close(evaluate(on("task", loss), model, batch).total, plain, rtol=1e-6, atol=1e-7)


def test_more_samples_leave_the_head_of_one_dropout_where_it_is():
    """Trained with one sample, the model is bit for bit the one with an ordinary dropout before its head."""
    trained = []
    for install in (True, False):
        model = digits_mlp()
        if install:
            MultiSampleDropout(1, 0.3).install(model)
        else:
            model.insert(4, nn.Dropout(0.3))
        fit(model, ADAPTER.roles(task=ROWS), on("task", CrossEntropy()), Training(steps=4, batch=6, lr=1e-2), seed=1)
        trained.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*trained))


# 8. What is refused


def test_refusals():
    for samples in (0, -1):
        with pytest.raises(ValueError, match="samples is the number of dropout masks"):
            MultiSampleDropout(samples)
    with pytest.raises(ValueError, match="all 2 samples of a row are the same; raise dropout"):
        MultiSampleDropout(2, 0.0)
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match="dropout is the share of entries"):
            MultiSampleHead(nn.Identity(), 2, dropout)
    with pytest.raises(ValueError, match="cut after it"):
        MultiSampleHead(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), 2)
    with pytest.raises(ValueError, match="no module 'fc'; there are: 0, 1, 2, 3, 4"):
        MultiSampleDropout(head="fc").install(digits_mlp())
    head, hidden, targets = toy()
    with pytest.raises(ValueError, match="must give one a row, not reduced"):
        multi_sample_loss(head, F.cross_entropy, hidden, targets)
    language, _ = tiny_llama(300, layers=1, width=16)
    for path in (None, "lm_head"):
        before = copy.deepcopy([type(m) for m in language.modules()])
        with pytest.raises(ValueError, match="for the head of a classifier"):
            MultiSampleDropout(head=path).install(language)
        assert [type(m) for m in language.modules()] == before
