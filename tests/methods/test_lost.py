"""LOST against the figures of its card: the decomposition, the choice of columns, merging, gradients, refusals."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from palimpsest.layers.lost import LOST, LowRankSparseLinear, low_rank_and_columns
from palimpsest.names import build
from palimpsest.zoo.models import tiny_llama

DOUBLE = torch.float64


def linear(outputs, inputs, *, bias=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(inputs, outputs, bias=bias, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=DOUBLE))
    return made


def rows(count, inputs, seed=1):
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# 1., 2. and 5. The two paths alone


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_full_rank_and_no_columns_is_the_dense_layer(shape):
    dense = linear(*shape, bias=True)
    layer = LowRankSparseLinear.of(dense, min(shape), 0.2, 1.0)
    x = rows(5, shape[1])
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_all_columns_and_no_product_is_the_dense_layer(shape):
    dense = linear(*shape)
    layer = LowRankSparseLinear.of(dense, 2, 1.0, 0.0)
    assert layer.columns.tolist() == list(range(shape[1]))
    x = rows(5, shape[1])
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_the_product_is_the_best_of_its_rank(shape):
    weight = linear(*shape).weight.detach()
    values = torch.linalg.svdvals(weight)
    for rank in range(1, min(shape) + 1):
        left, right, _ = low_rank_and_columns(weight, rank, 0.2)
        assert left.shape == (shape[0], rank) and right.shape == (rank, shape[1])
        missed = (weight - left @ right).square().sum()
        torch.testing.assert_close(missed, values[rank:].square().sum(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(left.T @ left, right @ right.T, rtol=1e-10, atol=1e-10)  # both carry sqrt(S)


# 3. The choice of columns, by hand and by brute force


def test_columns_by_hand():
    dense = nn.Linear(4, 4, bias=False, dtype=DOUBLE)
    with torch.no_grad():
        dense.weight.copy_(torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0])))
    layer = LowRankSparseLinear.of(dense, 2, 0.25, 0.5)
    assert layer.columns.tolist() == [2]
    assert layer.sparse.flatten().tolist() == [0, 0, 3, 0]
    expected = torch.diag(torch.tensor([2.5, 2.0, 1.5, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(layer(torch.eye(4, dtype=DOUBLE)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scored", [None, 2])
def test_columns_by_brute_force(scored):
    weight = linear(7, 10).weight.detach()
    left, values, right = torch.linalg.svd(weight)
    last = 7 if scored is None else 3 + scored
    complement = sum(values[i] * torch.outer(left[:, i], right[i]) for i in range(3, last))
    expected = sorted(sorted(range(10), key=lambda j: -float(complement[:, j].norm()))[:3])
    assert low_rank_and_columns(weight, 3, 0.35, scored)[2].tolist() == expected
    assert low_rank_and_columns(weight, 3, 0.01, scored)[2].numel() == 1  # one is always kept


# 4. Merging


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_merged_layer_computes_the_same(dtype):
    layer = LowRankSparseLinear.of(linear(9, 12, bias=True).to(dtype), 4, 0.3, 0.7)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    merged, x = layer.dense(), rows(5, 12).to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    assert type(merged) is nn.Linear and merged.weight.dtype == dtype
    torch.testing.assert_close(merged(x), layer(x), rtol=tolerance, atol=tolerance)


def test_what_has_an_activation_inside_is_not_merged():
    layer = LowRankSparseLinear.of(linear(6, 6), 2, activation="silu")
    with pytest.raises(ValueError, match="is no linear layer; keep it as it is"):
        layer.dense()
    x = rows(3, 6)
    by_hand = 0.5 * F.silu(x @ layer.right.T) @ layer.left.T + 0.5 * x[:, layer.columns] @ layer.sparse.T
    torch.testing.assert_close(layer(x), by_hand)


def test_rescaled_start_is_at_full_scale():
    dense, x = linear(6, 8), rows(3, 8)
    plain, scaled = (LowRankSparseLinear.of(dense, 2, 0.3, 0.25, rescale_init=r) for r in (False, True))
    low, kept = x @ (plain.left @ plain.right).T, x[:, plain.columns] @ plain.sparse.T
    torch.testing.assert_close(plain(x), 0.25 * low + 0.75 * kept)
    torch.testing.assert_close(scaled(x), low + kept)


# 6. Gradients


def test_gradients():
    layer = LowRankSparseLinear.of(linear(5, 7, bias=True), 2, 0.3, 0.75)
    x, upstream = rows(4, 7).requires_grad_(), rows(4, 5, seed=2)
    layer(x).backward(upstream)
    torch.testing.assert_close(layer.sparse.grad, 0.25 * upstream.T @ x.detach()[:, layer.columns])
    parameters = tuple(p.detach().requires_grad_() for p in layer.parameters())

    def run(x, *values):
        names = [n for n, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, values)), x)

    assert torch.autograd.gradcheck(run, (x, *parameters))


# 7. What is stored


def test_parameters_counted_by_the_formula():
    layer = LowRankSparseLinear.of(nn.Linear(768, 768, bias=False), 256, 0.01)
    assert sum(p.numel() for p in layer.parameters()) == 256 * (768 + 768) + 7 * 768 == 398_592
    assert sum(b.numel() for b in layer.buffers()) == 7  # the dense weight is gone


def test_state_dict_round_trip_and_change_of_dtype():
    layer = LowRankSparseLinear.of(linear(6, 9), 2, 0.4).float()
    assert layer.columns.dtype == torch.int64
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = LowRankSparseLinear.of(linear(6, 9, seed=5), 2, 0.4).float()
    other.load_state_dict(torch.load(buffer))
    x = rows(3, 9).float()
    assert torch.equal(other(x), layer(x))
    half = layer.to(torch.bfloat16)
    assert half.columns.dtype == torch.int64 and half(x.bfloat16()).dtype == torch.bfloat16


def test_no_parameter_lies_in_memory_by_columns():
    """A fused AdamW that resumes with state stored by rows would otherwise update the wrong entries."""
    layer = LowRankSparseLinear.of(linear(6, 9), 3, 0.4)
    assert all(p.is_contiguous() for p in layer.parameters())


# Inside a model


def test_only_attention_and_mlp_of_a_llama_are_replaced():
    model, _ = tiny_llama(300, layers=1, width=32)
    LOST().install(model)
    replaced = {n.rsplit(".", 1)[1] for n, m in model.named_modules() if isinstance(m, LowRankSparseLinear)}
    assert replaced == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert type(model.lm_head) is nn.Linear
    assert model.model.layers[0].self_attn.q_proj.right.shape == (8, 32)  # a quarter


# 8. What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"sparsity": 0.0}, "sparsity is the share of columns"),
        ({"sparsity": 1.5}, "sparsity is the share of columns"),
        ({"gamma": -0.1}, r"gamma must lie in \[0, 1\]"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\]"),
        ({"scored": 0}, "scored must be at least 1"),
        ({"targets": ()}, "targets names the layers"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        LOST(**fields)
    with pytest.raises(ValueError, match=r"layers\.lost: " + message):
        build({"lost": fields}, "layers", place="layers")


def test_layers_out_of_range():
    with pytest.raises(ValueError, match=r"rank must lie in 1\.\.4"):
        LowRankSparseLinear.of(linear(9, 4), 5)
    with pytest.raises(ValueError, match="sparsity"):
        LowRankSparseLinear.of(linear(9, 4), 2, 0.0)
    with pytest.raises(ValueError, match="scored must be at least 1"):
        low_rank_and_columns(torch.eye(3), 1, 0.5, 0)
    with pytest.raises(ValueError, match="gamma"):
        LowRankSparseLinear.of(linear(9, 4), 2, 0.1, 2.0)
    with pytest.raises(ValueError, match="not of a Conv1d"):
        LowRankSparseLinear.of(nn.Conv1d(1, 1, 1), 1)


def test_models_that_do_not_fit_stay_as_they_were():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"mlp": nn.Sequential(shared, shared, nn.Linear(4, 4))})
    with pytest.raises(ValueError, match=r"mlp\.0 shares its weight with another part"):
        LOST().install(model)
    model = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))})
    with pytest.raises(ValueError, match=r"rank 4 is above 3, the smaller side of mlp\.1; lower it\."):
        LOST(rank=4).install(model)
    assert type(model["mlp"][0]) is nn.Linear
    with pytest.raises(ValueError, match=r"no linear layer with 'body' in its path; there are: mlp\.0, mlp\.1\."):
        LOST(targets=("body",)).install(model)
