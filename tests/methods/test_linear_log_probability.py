"""linear_log_probability against full logits: values, gradients, degenerate inputs, memory."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from palimpsest.kernels import _at_once, _blocks
from palimpsest.kernels import linear_log_probability as module
from palimpsest.kernels.linear_log_probability import linear_log_probability, linear_logits

ONE_OF_THREE = [(True, False, False), (False, True, False), (False, False, True)]  # hidden, weight, bias


def naive(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    ignore_index: int = -100,
) -> Tensor:
    """The plain way, written apart from ``linear_logits``."""
    logits = scale * hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    flat = F.cross_entropy(
        logits.reshape(-1, weight.shape[0]), targets.reshape(-1), reduction="none", ignore_index=ignore_index
    )
    return -flat.reshape(targets.shape)


def problem(
    *, tokens: tuple[int, ...] = (3, 5), width: int = 6, entries: int = 23, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, bias and targets, about a fifth of them ignored."""
    seed = torch.Generator().manual_seed(7)
    hidden = torch.randn(*tokens, width, generator=seed, dtype=torch.float64).to(dtype)
    weight = torch.randn(entries, width, generator=seed, dtype=torch.float64).to(dtype)
    bias = torch.randn(entries, generator=seed, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, entries, tokens, generator=seed)
    ignored = torch.rand(tokens, generator=seed) < 0.2
    return hidden, weight, bias, targets.masked_fill(ignored, -100)


def gradients(value: Tensor, upstream: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs, upstream.to(value.dtype))


def test_hand_example() -> None:
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    log_p = linear_log_probability(hidden, weight, torch.tensor([0]))
    assert log_p.item() == pytest.approx(-0.407606, abs=1e-6)
    log_p.backward()
    assert torch.allclose(-hidden.grad, torch.tensor([[-0.424790, 0.244728]]), atol=1e-6)
    assert torch.allclose(-weight.grad, torch.tensor([[-0.334759, 0.0], [0.244728, 0.0], [0.090031, 0.0]]), atol=1e-6)
    capped = linear_log_probability(hidden.detach(), weight.detach(), torch.tensor([0]), softcap=2.0)
    assert capped.item() == pytest.approx(-0.441034, abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 7, 22, 23, 1000, None])
@pytest.mark.parametrize("rows", [4, 2048])
@pytest.mark.parametrize(("softcap", "scale", "with_bias"), [(None, 1.0, False), (2.0, 1.7, True), (None, -0.5, True)])
def test_equals_full_logits_for_any_upstream(
    monkeypatch: pytest.MonkeyPatch, chunk: int | None, rows: int, softcap: float | None, scale: float, with_bias: bool
) -> None:
    monkeypatch.setattr(_blocks, "TOKENS", rows)
    hidden, weight, bias, targets = problem()
    inputs = [t.requires_grad_() for t in ((hidden, weight, bias) if with_bias else (hidden, weight))]
    upstream = torch.randn(targets.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    used = bias if with_bias else None
    expected = naive(hidden, weight, targets, used, softcap, scale)
    result = linear_log_probability(hidden, weight, targets, used, softcap=softcap, scale=scale, chunk=chunk)
    assert result.dtype == torch.float64 and torch.allclose(result, expected, rtol=1e-11, atol=1e-12)
    assert torch.equal(result[targets == -100], torch.zeros(int((targets == -100).sum()), dtype=torch.float64))
    for mine, theirs in zip(gradients(result, upstream, *inputs), gradients(expected, upstream, *inputs), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trained", [(True, True, True), (True, True, False), *ONE_OF_THREE])
@pytest.mark.parametrize("upstream", [1.0, -0.3, None])
@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (2.0, 1.7)])
@pytest.mark.parametrize(("rows", "width", "chunk"), [(1, 6, 5), (4, 6, None), (1, 20, 5), (1000, 11, 23)])
def test_even_gradients_are_made_at_once_and_uneven_ones_again(
    monkeypatch: pytest.MonkeyPatch,
    trained: tuple[bool, bool, bool],
    upstream: float | None,
    softcap: float | None,
    scale: float,
    rows: int,
    width: int,
    chunk: int | None,
) -> None:
    """With fewer tokens than the head is wide, with as many, and with more, of which ``rows`` come at a time."""
    monkeypatch.setattr(_at_once, "EVEN_LOGITS", 23 * rows)
    hidden, weight, bias, targets = problem(width=width)
    inputs = [t.requires_grad_(n) for t, n in zip((hidden, weight, bias), trained)]
    wanted = [t for t in inputs if t.requires_grad]
    given = torch.linspace(-1, 2, 15, dtype=torch.float64) if upstream is None else torch.full((15,), upstream)
    run = partial(linear_log_probability, softcap=softcap, scale=scale, chunk=chunk, even=True)
    result = run(hidden, weight, targets, bias)
    expected = naive(hidden, weight, targets, bias, softcap, scale)
    assert torch.allclose(result, expected, rtol=1e-11, atol=1e-12)
    theirs = gradients(expected, given.view(3, 5), *wanted)
    again: list[object] = []
    inner = module._gradients
    monkeypatch.setattr(module, "_gradients", lambda *a: again.append(a) or inner(*a))
    for turn in range(2):  # the second backward has nothing left to reuse
        mine = torch.autograd.grad(result, wanted, given.view(3, 5).double(), retain_graph=True)
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(mine, theirs, strict=True))
        once = trained == (True, False, False)  # a frozen head has its own way
        assert len(again) == (0 if once else turn if upstream is not None else turn + 1)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("trained", [(True, True, True), *ONE_OF_THREE])
def test_gradcheck(softcap: float | None, trained: tuple[bool, bool, bool]) -> None:
    hidden, weight, bias, targets = problem(tokens=(4,), width=3, entries=7)
    targets[1] = 9
    for tensor, needed in zip((hidden, weight, bias), trained, strict=True):
        tensor.requires_grad_(needed)

    def run(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_log_probability(h, w, targets, b, softcap=softcap, scale=1.3, ignore_index=9, chunk=3)

    assert torch.autograd.gradcheck(run, (hidden, weight, bias))


@pytest.mark.parametrize("trained", [*ONE_OF_THREE, (True, True, False)])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_frozen_parts_get_no_gradient_and_the_rest_is_unchanged(
    trained: tuple[bool, bool, bool], softcap: float | None
) -> None:
    hidden, weight, bias, targets = problem()
    upstream = torch.linspace(-1, 2, targets.numel(), dtype=torch.float64).reshape(targets.shape)
    every = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
    full = gradients(naive(every[0], every[1], targets, every[2], softcap, 0.8), upstream, *every)
    some = [t.clone().requires_grad_(needed) for t, needed in zip((hidden, weight, bias), trained, strict=True)]
    result = linear_log_probability(some[0], some[1], targets, some[2], softcap=softcap, scale=0.8, chunk=5)
    result.backward(upstream)
    for tensor, expected, needed in zip(some, full, trained, strict=True):
        assert (tensor.grad is not None) is needed
        assert tensor.grad is None or torch.allclose(tensor.grad, expected, rtol=1e-10, atol=1e-12)


def test_frozen_head_multiplies_no_matrix_in_the_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, targets = problem()
    result = linear_log_probability(hidden.requires_grad_(), weight, targets)

    def refuse(*_: object) -> None:
        raise AssertionError("logits were computed again")

    monkeypatch.setattr(module, "_gradients", refuse)
    result.sum().backward()
    assert hidden.grad is not None and bool((hidden.grad[targets == -100] == 0).all())


@pytest.mark.parametrize(
    # value against float64 of the same rounded inputs: log-sum-exp and products are float32 whatever the inputs;
    # gradients are rounded once to the inputs' dtype: half a unit of float32 sums, of float16 and of bfloat16
    ("dtype", "of_value", "of_gradient"),
    [(torch.float32, 1e-5, 1e-5), (torch.float16, 1e-5, 1e-3), (torch.bfloat16, 1e-5, 8e-3)],
)
@pytest.mark.parametrize("frozen_head", [False, True])
def test_precisions(dtype: torch.dtype, of_value: float, of_gradient: float, frozen_head: bool) -> None:
    hidden, weight, bias, targets = problem(tokens=(64,), width=48, entries=507, dtype=dtype)
    weight = weight * 0.3
    tensors = [t.requires_grad_(not frozen_head or i == 0) for i, t in enumerate((hidden, weight, bias))]
    inputs = tensors[:1] if frozen_head else tensors
    exact = [t.detach().double().requires_grad_() for t in tensors]
    upstream = torch.randn(64, generator=torch.Generator().manual_seed(2))
    result = linear_log_probability(tensors[0], tensors[1], targets, tensors[2], chunk=100)
    expected = naive(exact[0], exact[1], targets, exact[2])
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), expected, rtol=0, atol=of_value)
    for mine, theirs in zip(gradients(result, upstream, *inputs), gradients(expected, upstream, *exact[: len(inputs)])):
        assert mine.dtype == dtype
        assert float((mine.double() - theirs).abs().max() / theirs.abs().max()) < of_gradient


def test_mixed_precisions_and_autocast_do_not_lower_the_product() -> None:
    hidden, weight, bias, targets = problem(tokens=(16,), width=8, entries=31, dtype=torch.float32)
    half = hidden.bfloat16().requires_grad_()
    weight.requires_grad_()
    expected = linear_log_probability(half.float(), weight, targets, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = linear_log_probability(half, weight, targets, bias)
        logits = linear_logits(half, weight, bias)
    assert torch.equal(result, expected)
    assert logits.dtype == torch.float32
    ones = torch.ones(16)
    for mine, theirs in zip(gradients(result, ones, half, weight), gradients(expected, ones, half, weight)):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)


def test_large_logits_neither_overflow_nor_vanish() -> None:
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    targets = torch.tensor([0, 0, 2])
    result = linear_log_probability(hidden, weight, targets, chunk=1)
    assert torch.equal(result, torch.tensor([0.0, -2e4, -5e3]))
    result.sum().backward()
    assert torch.equal(hidden.grad, torch.tensor([[0.0], [2.0], [-0.5]]))


def test_bias_may_mask_entries_and_whole_chunks() -> None:
    hidden, weight, bias, targets = problem(entries=24)
    targets = targets.clamp(max=9)
    bias[10:] = -torch.inf
    hidden.requires_grad_()
    expected = naive(hidden, weight, targets, bias)
    result = linear_log_probability(hidden, weight, targets, bias, chunk=6)
    assert torch.allclose(result, expected, rtol=1e-11)
    assert torch.isfinite(gradients(result, torch.ones(targets.shape), hidden)[0]).all()
    weight.requires_grad_()
    wanted = gradients(naive(hidden, weight, targets, bias), torch.ones(targets.shape), hidden, weight)
    even = linear_log_probability(hidden, weight, targets, bias, chunk=6, even=True)
    for mine, theirs in zip(gradients(even, torch.ones(targets.shape), hidden, weight), wanted, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-12)
    bias[:10], bias[10:] = -torch.inf, 0.0
    for promise in (False, True):
        masked = linear_log_probability(hidden, weight, targets, bias, chunk=6, even=promise)
        assert bool((masked[targets != -100] == -torch.inf).all())


@pytest.mark.parametrize("shape", [(0,), (2, 0), (4,), (2, 3)])
def test_nothing_to_count_gives_zeros_and_zero_gradients(shape: tuple[int, ...]) -> None:
    hidden, weight, bias, _ = problem(tokens=shape)
    inputs = [t.requires_grad_() for t in (hidden, weight, bias)]
    result = linear_log_probability(hidden, weight, torch.full(shape, -100), bias)
    assert torch.equal(result, torch.zeros(shape, dtype=torch.float64))
    for tensor, gradient in zip(inputs, gradients(result, torch.ones(shape), *inputs), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))
    even = linear_log_probability(hidden, weight, torch.full(shape, -100), bias, even=True)
    for tensor, gradient in zip(inputs, gradients(even, torch.ones(shape), *inputs), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))
    frozen = linear_log_probability(hidden, weight.detach(), torch.full(shape, -100))
    assert torch.equal(gradients(frozen, torch.ones(shape), hidden)[0], torch.zeros_like(hidden))


def test_one_token_without_dimensions() -> None:
    hidden, weight, _, _ = problem(tokens=())
    hidden.requires_grad_()
    target = torch.tensor(4)
    result = linear_log_probability(hidden, weight, target)
    expected = F.log_softmax(weight @ hidden, dim=0)[4]
    assert result.shape == () and torch.allclose(result, expected, rtol=1e-12)
    assert torch.allclose(*gradients(result, torch.ones(()), hidden), *gradients(expected, torch.ones(()), hidden))


def test_views_and_strides() -> None:
    hidden, weight, _, targets = problem(tokens=(5, 4), width=6)
    states = hidden.transpose(0, 1)[:, 1:]  # [4, 4, 6], neither contiguous nor from the start
    wide = torch.randn(6, 46, dtype=torch.float64)
    wide[:, ::2] = weight.T
    head = wide[:, ::2].T  # [23, 6], strides (2, 46)
    labels = targets.transpose(0, 1)[:, 1:]
    assert not states.is_contiguous() and not head.is_contiguous() and not labels.is_contiguous()
    for tensor in (hidden, wide):
        tensor.requires_grad_()
    states, head = hidden.transpose(0, 1)[:, 1:], wide[:, ::2].T
    upstream = torch.randn(4, 4, dtype=torch.float64).T
    mine = gradients(linear_log_probability(states, head, labels, chunk=4), upstream, hidden, wide)
    theirs = gradients(naive(states, head, labels), upstream, hidden, wide)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(mine, theirs, strict=True))


def test_expanded_upstream_and_tied_weight() -> None:
    table = torch.randn(23, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    ids = torch.tensor([[1, 2, 3, 1], [4, 4, 22, 0]])
    mine = torch.autograd.grad(linear_log_probability(table[ids[:, :-1]], table, ids[:, 1:], chunk=10).mean(), table)[0]
    theirs = torch.autograd.grad(naive(table[ids[:, :-1]], table, ids[:, 1:]).mean(), table)[0]
    assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-13)


def test_no_grad_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets = problem()
    wanted: list[bool] = []
    inner = module._log_probability

    def watch(problem: object, with_direction: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        wanted.append(with_direction)
        return inner(problem, with_direction)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_log_probability", watch)
    with torch.no_grad():
        result = linear_log_probability(hidden.requires_grad_(), weight, targets, bias)
    assert wanted == [False] and not result.requires_grad
    assert torch.allclose(result, naive(hidden, weight, targets, bias), rtol=1e-11)


@pytest.mark.parametrize("frozen_head", [False, True])
def test_second_derivative_is_refused(frozen_head: bool) -> None:
    hidden, weight, _, targets = problem()
    value = linear_log_probability(hidden.requires_grad_(), weight.requires_grad_(not frozen_head), targets).sum()
    with pytest.raises(RuntimeError, match="gradients can be taken once only"):
        torch.autograd.grad(value, hidden, create_graph=True)


def test_repeats_bit_for_bit() -> None:
    hidden, weight, bias, targets = problem(tokens=(50,), width=32, entries=301, dtype=torch.float32)
    inputs = [t.requires_grad_() for t in (hidden, weight, bias)]
    runs = []
    for _ in range(2):
        result = linear_log_probability(hidden, weight, targets, bias, chunk=64)
        runs.append((result, *gradients(result, torch.arange(50.0), *inputs)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (3.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_linear_logits_agree(softcap: float | None, scale: float, dtype: torch.dtype) -> None:
    hidden, weight, bias, targets = problem(dtype=dtype)
    logits = linear_logits(hidden, weight, bias, softcap, scale)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    raw = scale * torch.einsum("btd,vd->btv", hidden.double(), weight.double()) + bias.double()
    expected = raw if softcap is None else softcap * torch.tanh(raw / softcap)
    assert torch.allclose(logits.double(), expected, rtol=1e-5, atol=1e-5)
    of_targets = logits.log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    mine = linear_log_probability(hidden, weight, targets, bias, softcap=softcap, scale=scale)
    assert torch.allclose(mine, of_targets.masked_fill(targets == -100, 0.0), rtol=1e-5, atol=1e-5)


def test_errors_say_what_to_pass() -> None:
    hidden, weight, bias, targets = problem()
    for arguments, words in (
        ((hidden[..., :4], weight, targets), "with one D"),
        ((hidden, weight[0], targets), "with one D"),
        ((hidden, weight, targets[:, :4]), "one target per token"),
        ((hidden, weight, targets.int()), "torch.int64"),
        ((hidden, weight, targets, bias[:4]), "bias of shape"),
        ((hidden, weight, targets.clone().fill_(23)), "target 23 is outside the vocabulary of 23"),
        ((hidden, weight, targets.clone().fill_(-1)), "target -1 is outside"),
    ):
        with pytest.raises(ValueError, match=words):
            linear_log_probability(*arguments)
    with pytest.raises(ValueError, match="chunk"):
        linear_log_probability(hidden, weight, targets, chunk=0)
    with pytest.raises(ValueError, match="softcap"):
        linear_log_probability(hidden, weight, targets, softcap=0.0)


def _bench() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "log_probability.py"
    spec = importlib.util.spec_from_file_location("bench_log_probability", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize(
    ("tokens", "width", "ignored"),
    # mostly a narrow head: the [N, V] arrays do not depend on the width, but which tokens wait in dW does
    [(2048, 32, 0.0), (2048, 32, 0.05), (2048, 32, 0.9), (512, 32, 0.0), (512, 576, 0.0), (640, 576, 0.1)],
)
@pytest.mark.parametrize("way", ["ours", "even"])
@pytest.mark.parametrize("frozen_head", [False, True])
def test_peak_memory_is_a_sixteenth_of_the_logits(
    tokens: int, width: int, ignored: float, way: str, frozen_head: bool
) -> None:
    entries = 49152
    seed = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=seed).requires_grad_()
    weight = (torch.randn(entries, width, generator=seed) * width**-0.5).requires_grad_(not frozen_head)
    targets = torch.randint(0, entries, (tokens,), generator=seed)
    targets[: int(ignored * tokens)] = -100
    bench = _bench()
    logits = 4 * tokens * entries
    assert bench.peak_beyond_gradients(bench.WAYS[way], hidden, weight, targets) <= logits / 16


def test_the_memory_meter_sees_the_plain_way() -> None:
    hidden, weight = torch.randn(128, 8, requires_grad=True), torch.randn(512, 8, requires_grad=True)
    targets = torch.randint(0, 512, (128,))
    bench = _bench()
    logits = 4 * 128 * 512
    # log-softmax, the gradient that nll_loss returns and the one that log-softmax returns
    assert 2.9 * logits < bench.peak_beyond_gradients(bench.plain, hidden, weight, targets) < 3.2 * logits
