"""The factored output layer against plain gradient descent on the dense one: hundreds of steps, repairs, refusals."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from palimpsest.adapters.classifier import Classifier
from palimpsest.hf import fit_with_trainer
from palimpsest.layers import spherical_output
from palimpsest.layers.spherical_output import FactoredOutput, SphericalOutput
from palimpsest.loop import Training, fit
from palimpsest.objective import evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.spherical_z import (
    SphericalZ,
    spherical_softmax_loss,
    squared_error_loss,
    taylor_softmax_loss,
    z_loss,
)
from palimpsest.schedules.linear import Linear
from palimpsest.schedules.ramp import Ramp
from palimpsest.views import Moments
from palimpsest.zoo.classifiers import digits_mlp
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64
aten = torch.ops.aten
FAMILY = [z_loss, squared_error_loss, taylor_softmax_loss, spherical_softmax_loss]
ADAPTER = Classifier(10, features="3")
ROWS = [{"inputs": torch.rand(64, generator=torch.Generator().manual_seed(i)), "label": i % 10} for i in range(24)]


def normal(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def items(step, count, size, classes):
    """Inputs of one step and their labels, of which two are the same."""
    generator = torch.Generator().manual_seed(1000 + step)
    labels = torch.randint(0, classes, (count,), generator=generator)
    labels[1] = labels[0]
    return torch.randn(count, size, generator=generator, dtype=DOUBLE), labels


def deviation(layer, steps, *, loss=z_loss, rate=0.05, count=5, decay=0.0, bias=False, dtype=DOUBLE):
    """The largest relative deviation of W, Q, w and the inputs' gradients from dense descent, over ``steps``."""
    worst = 0.0
    dense = layer.dense().to(DOUBLE)
    for step in range(steps):
        hidden, labels = items(step, count, layer.rows.shape[1] - bias, len(layer.rows))
        found, expected = hidden.clone().to(dtype).requires_grad_(), hidden.requires_grad_()
        dense.requires_grad_()
        loss(layer(found).moments(labels)).sum().backward()
        whole = torch.cat([expected, torch.ones(count, 1, dtype=DOUBLE)], 1) if bias else expected
        loss(Moments.of(whole @ dense.T, labels)).sum().backward()
        layer.apply_update()
        with torch.no_grad():
            dense = (dense - rate * dense.grad) * (1 - rate * decay)
        pairs = [(found.grad, expected.grad), (layer.dense(), dense), (layer.gram, dense.T @ dense)]
        for ours, theirs in (*pairs, (layer.total, dense.sum(0))):
            worst = max(worst, float((ours.to(DOUBLE) - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3)))
    return worst


# 3. Hundreds of updates


CASES = [(loss, 10) for loss in FAMILY] + [(z_loss, 1), (z_loss, 1_000_000)]


@pytest.mark.parametrize(("loss", "period"), CASES, ids=lambda v: v if isinstance(v, int) else v.__name__)
def test_equals_dense_descent_over_hundreds_of_updates(loss, period):
    rate = 0.01 if loss is squared_error_loss else 0.05
    layer = FactoredOutput(normal(7, 3), learning_rate=rate, period=period)
    assert deviation(layer, 200, loss=loss, rate=rate) < 1e-9


@pytest.mark.parametrize(("count", "bias", "decay"), [(2, True, 0.0), (9, False, 0.1), (9, True, 0.3)])
def test_few_and_many_items_bias_and_decay(count, bias, decay):
    layer = FactoredOutput(normal(11, 4), normal(11, seed=1) if bias else None, learning_rate=0.05, weight_decay=decay)
    assert deviation(layer, 200, count=count, bias=bias, decay=decay) < 1e-9


def test_single_precision_stays_close_over_hundreds_of_updates():
    """V alone is rounded to float32; the small factors are kept in float64."""
    layer = FactoredOutput(normal(60, 8, dtype=torch.float32), learning_rate=0.05, period=50)
    assert layer.rows.dtype == torch.float32 and layer.gram.dtype == DOUBLE
    assert deviation(layer, 300, count=8, dtype=torch.float32) < 1e-4
    wide = layer.dense().double()
    torch.testing.assert_close(layer.gram, wide.T @ wide, rtol=1e-4, atol=1e-4)


def test_repairs_that_do_not_wait_keep_the_digits_of_a_long_run(monkeypatch):
    """The squared error shrinks the factor along all inputs it sees: unrepaired, its entries fall below 1e-12."""
    off = {}
    for strain in (spherical_output.STRAIN, math.inf):
        monkeypatch.setattr(spherical_output, "STRAIN", strain)
        layer = FactoredOutput(normal(6, 3), learning_rate=0.02, period=1_000_000)
        off[strain] = deviation(layer, 200, loss=squared_error_loss, rate=0.02)
    assert off[64.0] < 1e-12 < 1e-10 < off[math.inf], off
    assert float(layer.factor.abs().max()) < 1e-12


# 7. Repairs change nothing that can be seen


@pytest.mark.parametrize("factors", [(3.0, 1.0, 1.0, 0.9), (3.0, 0.1, 5.0, 1.0)])
def test_repairs_leave_the_weights_alone(factors):
    layer = FactoredOutput(normal(9, 4), learning_rate=0.01)
    turn = torch.linalg.qr(normal(4, 4, seed=3)).Q
    layer.factor.copy_(turn @ torch.diag(torch.tensor(factors, dtype=DOUBLE)) @ turn.T)
    layer.common.copy_(normal(4, seed=4))
    layer.eval()
    before, logits = layer.dense(), layer(normal(5, 4, seed=5))
    layer.stabilize()
    values = torch.linalg.svdvals(layer.factor)
    assert float(values.min()) >= 0.5 and float(values.max()) <= 2
    torch.testing.assert_close(layer.dense(), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(normal(5, 4, seed=5)), logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.factor @ layer.inverse, torch.eye(4, dtype=DOUBLE), rtol=1e-12, atol=1e-12)
    layer.multiply_out()
    torch.testing.assert_close(layer.dense(), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.gram, before.T @ before, rtol=1e-12, atol=1e-12)
    assert not layer.common.any() and torch.equal(layer.factor, torch.eye(4, dtype=DOUBLE))


# What it computes


@pytest.mark.parametrize("biased", [False, True])
def test_start_logits_and_the_merged_layer(biased):
    plain = nn.Linear(4, 9, bias=biased)
    model = nn.Sequential(nn.Identity(), plain)
    SphericalOutput().install(model)
    x = normal(5, 4, dtype=torch.float32)
    model.eval()
    torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-6)
    SphericalOutput().merge(model)
    assert type(model[1]) is nn.Linear and torch.equal(model[1].weight, plain.weight)


def test_moments_are_those_of_the_logits():
    layer = FactoredOutput(normal(50, 6), normal(50, seed=1))
    x, labels = normal(8, 6, seed=2), torch.arange(8)
    found, expected = layer(x).moments(labels), Moments.of(layer.eval()(x), labels)
    for name in ("target", "mean", "variance"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


def test_the_backward_passes_of_a_window_make_one_step():
    together, apart = (FactoredOutput(normal(7, 3), learning_rate=0.1) for _ in range(2))
    hidden, labels = items(0, 6, 3, 7)
    z_loss(together(hidden).moments(labels)).sum().backward()
    for part in (slice(0, 2), slice(2, 6)):
        z_loss(apart(hidden[part]).moments(labels[part])).sum().backward()
    for layer in (together, apart):
        layer.apply_update()
        assert int(layer.updates) == 1
        layer.apply_update()  # nothing is pending
        assert int(layer.updates) == 1
    torch.testing.assert_close(apart.dense(), together.dense(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        apart(hidden).moments(labels)
    apart.apply_update()
    assert int(apart.updates) == 1


@pytest.mark.parametrize(
    "train", [{}, {"schedule": Ramp(1, 0), "warmup": 0.2}, {"schedule": Linear(warmup=0.2)}], ids=str
)
@pytest.mark.parametrize("loop", [fit, fit_with_trainer])
def test_in_the_library_s_loops_it_is_descent_on_the_dense_layer(loop, train):
    """Whole batches: the body by SGD without momentum, the output layer by its own steps of the same rate."""
    models = [digits_mlp(), digits_mlp()]
    SphericalOutput(learning_rate=0.05, period=3).install(models[0])
    objective, roles = on("task", SphericalZ(1.0, 2.0)), ADAPTER.roles(task=ROWS)

    def plain(groups, lr, weight_decay):
        return torch.optim.SGD([p for g in groups for p in g["params"]], lr=lr)

    for model in models:
        loop(model, roles, objective, Training(steps=30, batch=8, lr=0.05, optimizer=plain, clip=None, **train), seed=0)
    SphericalOutput().merge(models[0])
    for found, expected in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.equal(models[1][4].weight, digits_mlp()[4].weight)


# 6. Work does not grow with the number of classes


class Entries(TorchDispatchMode):
    """Counts the entries that every call reads and writes; of V, calls that look at single rows touch no others."""

    BY_ROW = {aten.index.Tensor, aten.index_select.default, aten.index_add_.default, aten.index_put_.default}

    def __init__(self, rows):
        super().__init__()
        self.rows, self.count = rows, 0

    def __torch_dispatch__(self, call, types, arguments=(), options=None):
        found = call(*arguments, **(options or {}))
        for tensor in (t for t in tree_leaves((arguments, options, found)) if isinstance(t, torch.Tensor)):
            if call not in self.BY_ROW or tensor.shape != self.rows.shape:
                self.count += tensor.numel()
        return found


def test_a_step_touches_as_much_for_a_thousand_and_a_hundred_thousand_classes():
    hidden, touched = normal(32, 64, dtype=torch.float32), {}
    for classes in (1_000, 100_000):
        layer = FactoredOutput(normal(classes, 64, dtype=torch.float32), period=1_000_000)
        labels = torch.arange(32)
        with Entries(layer.rows) as entries:
            for _ in range(3):
                z_loss(layer(hidden).moments(labels)).mean().backward()
                layer.apply_update()
        touched[classes] = entries.count
    assert touched[100_000] == touched[1_000] < 64 * 100_000, touched  # the dense layer reads all of W in each step


# What is refused


def test_a_loss_that_needs_all_scores_is_told_so():
    model = digits_mlp()
    SphericalOutput().install(model)
    model.train()
    (batch,) = ADAPTER.roles(task=ROWS).window(0, 6, seed=0)
    with pytest.raises(ValueError, match="train it with spherical_z, or leave spherical_output away"):
        evaluate(on("task", CrossEntropy()), model, batch)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"learning_rate": 0.5, "weight_decay": 2.0}, "below 1 / learning_rate"),
        ({"period": 0}, "period must be at least 1"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        SphericalOutput(**fields)
    with pytest.raises(ValueError, match=message):
        FactoredOutput(torch.eye(3), **fields)


def test_labels_steps_and_models_that_do_not_fit():
    layer = FactoredOutput(normal(5, 3))
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"outside 0\.\.4"):
            layer(normal(1, 3)).moments(torch.tensor([wrong]))
    layer = FactoredOutput(torch.eye(2, dtype=DOUBLE), learning_rate=0.5)
    squared_error_loss(layer(torch.tensor([[1.0, 0.0]], dtype=DOUBLE)).moments(torch.tensor([0]))).sum().backward()
    with pytest.raises(ValueError, match="wipes out a direction of its input, which cannot be kept in factors; lower"):
        layer.apply_update()  # 1 - 2 * rate * |h|^2 = 0
    with pytest.raises(ValueError, match="3 is a ReLU"):
        SphericalOutput(head="3").install(digits_mlp())
    language, _ = tiny_llama(300, layers=1, width=16)
    with pytest.raises(ValueError, match="lm_head scores the tokens that the model reads"):
        SphericalOutput().install(language)


def test_a_copy_goes_on_by_itself():
    layer = FactoredOutput(normal(7, 3), learning_rate=0.1)
    hidden, labels = items(0, 4, 3, 7)
    z_loss(layer(hidden).moments(labels)).sum().backward()
    other = copy.deepcopy(layer)
    layer.apply_update()
    assert int(other.updates) == 0 and torch.equal(other.dense(), normal(7, 3))
    assert F.mse_loss(layer.dense(), other.dense()) > 0
