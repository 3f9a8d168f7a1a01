"""linear_cross_entropy on the CPU: the oracles of its paper and the faults of the released kernel, in float64."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import vocabulary_parallel
from torch import Tensor

import palimpsest
from palimpsest.kernels.cut_cross_entropy import function, linear_cross_entropy

OPTIONS = [
    {},
    {"shift": 1},
    {"shift": 2, "softcap": 20.0},
    {"softcap": 1.5, "scale": 0.7},
]


def problem(tokens: tuple[int, ...] = (3, 8), width: int = 6, entries: int = 23) -> tuple[Tensor, ...]:
    """e, c, bias in float64, and targets of which about a fifth is ignored."""
    seed = torch.Generator().manual_seed(3)
    shapes = ((*tokens, width), (entries, width), (entries,))
    e, c, bias = (torch.randn(*s, generator=seed, dtype=torch.float64) for s in shapes)
    targets = torch.randint(0, entries, tokens, generator=seed)
    return e, c, bias, targets.masked_fill(torch.rand(tokens, generator=seed) < 0.2, -100)


def plain(
    e: Tensor,
    c: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    shift: int = 0,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """The loss by ``F.cross_entropy`` and the log-sum-exp, from all logits."""
    z = scale * e @ c.T + (0 if bias is None else bias)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if shift:
        z, targets = z[..., :-shift, :], targets[..., shift:]
    loss = F.cross_entropy(z.reshape(-1, len(c)), targets.reshape(-1), reduction=reduction)
    lse = torch.where(targets == -100, 0.0, z.logsumexp(-1))
    return (loss.view(targets.shape) if reduction == "none" else loss), lse


def test_it_is_exported() -> None:
    assert palimpsest.linear_cross_entropy is linear_cross_entropy


@pytest.mark.parametrize(
    ("softcap", "nll", "of_logits"),
    [(None, 0.407606, (-0.334759, 0.244728, 0.090031)), (2.0, 0.441034, (-0.280470, 0.255312, 0.079680))],
)
def test_hand_example(softcap: float | None, nll: float, of_logits: tuple[float, ...]) -> None:
    e = torch.tensor([[1.0, 0.0]], requires_grad=True)
    c = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    loss, lse = linear_cross_entropy(e, c, torch.tensor([0]), softcap=softcap, return_lse=True)
    assert loss.item() == pytest.approx(nll, abs=1e-6)
    assert softcap is not None or lse.item() == pytest.approx(1.407606, abs=1e-6)
    loss.backward()
    assert torch.allclose(c.grad[:, 0], torch.tensor(of_logits), atol=1e-6) and not c.grad[:, 1].any()
    assert torch.allclose(e.grad[0], torch.tensor(of_logits) @ c.detach(), atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [((2, 8), 6, 23), ((256,), 128, 512), ((252,), 123, 507)], ids=str)
def test_loss_and_gradients_equal_those_of_all_logits(
    options: dict[str, float], reduction: str, with_bias: bool, shape: tuple[tuple[int, ...], int, int]
) -> None:
    e, c, bias, targets = problem(*shape)
    e, c = e * shape[1] ** -0.5, c * 2
    leaves = [t.requires_grad_() for t in ((e, c, bias) if with_bias else (e, c))]
    used = bias if with_bias else None
    mine = linear_cross_entropy(e, c, targets, used, reduction=reduction, return_lse=True, **options)
    theirs = plain(e, c, targets, used, reduction=reduction, **options)
    seed = torch.Generator().manual_seed(5)
    upstream = [torch.randn(t.shape, generator=seed, dtype=torch.float64) for t in theirs]
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    for wanted in ((upstream[0], None), (None, upstream[1]), tuple(upstream)):
        kept = [(a, b, u) for a, b, u in zip(mine, theirs, wanted) if u is not None]
        found = torch.autograd.grad([a for a, _, _ in kept], leaves, [u for *_, u in kept], retain_graph=True)
        right = torch.autograd.grad([b for _, b, _ in kept], leaves, [u for *_, u in kept], retain_graph=True)
        for a, b in zip(found, right, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_gradcheck_with_a_penalty_on_the_log_sum_exp() -> None:
    e, c, bias, targets = problem((4,), 3, 7)

    def run(e: Tensor, c: Tensor, bias: Tensor) -> Tensor:
        nll, lse = linear_cross_entropy(e, c, targets, bias, softcap=3.0, reduction="none", return_lse=True)
        return nll + 0.1 * lse.square()

    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in (e, c, bias)])


def test_the_gradient_of_the_log_sum_exp_is_softmax_times_weight_undivided() -> None:
    e, c, _, targets = problem((5,))
    _, lse = linear_cross_entropy(e.requires_grad_(), c, targets.clamp(min=0), return_lse=True, reduction="mean")
    assert torch.allclose(torch.autograd.grad(lse.sum(), e)[0], (e @ c.T).softmax(-1) @ c, rtol=1e-10)


@pytest.mark.parametrize("frozen", ["e", "c", "bias"])
def test_a_frozen_side_gets_none_and_the_others_the_same(frozen: str) -> None:
    e, c, bias, targets = problem()
    named = {"e": e, "c": c, "bias": bias}
    every = [t.clone().requires_grad_() for t in named.values()]
    full = torch.autograd.grad(linear_cross_entropy(every[0], every[1], targets, every[2]), every)
    some = {n: t.clone().requires_grad_(n != frozen) for n, t in named.items()}
    for return_lse in (False, True):
        found = linear_cross_entropy(some["e"], some["c"], targets, some["bias"], return_lse=return_lse)
        loss = found[0] if return_lse else found
        for t in some.values():
            t.grad = None
        loss.backward()
        for (name, t), right in zip(some.items(), full, strict=True):
            assert (t.grad is None) == (name == frozen)
            assert t.grad is None or torch.allclose(t.grad, right, rtol=1e-10, atol=1e-13)


def test_a_permuted_vocabulary_permutes_the_gradient_and_nothing_else() -> None:
    e, c, bias, targets = problem()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    moved = torch.where(targets == -100, -100, place[targets.clamp(min=0)])
    c.requires_grad_()
    loss, other = linear_cross_entropy(e, c, targets, bias), linear_cross_entropy(e, c[order], moved, bias[order])
    assert torch.allclose(loss, other, rtol=1e-12)
    assert torch.allclose(torch.autograd.grad(loss, c)[0], torch.autograd.grad(other, c)[0], rtol=1e-9, atol=1e-14)


def test_gradients_of_weight_and_bias_sum_to_zero_over_the_vocabulary() -> None:
    e, c, bias, targets = problem()
    linear_cross_entropy(e, c.requires_grad_(), targets, bias.requires_grad_(), reduction="sum").backward()
    assert float(c.grad.sum(0).abs().max()) < 1e-12 and abs(float(bias.grad.sum())) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_counted_is_zero_with_zero_gradients(reduction: str) -> None:
    e, c, bias, targets = problem()
    leaves = [t.requires_grad_() for t in (e, c, bias)]
    loss, lse = linear_cross_entropy(
        e,
        c,
        torch.full_like(targets, -100),
        bias,
        reduction=reduction,
        return_lse=True,  # type: ignore[call-overload]
    )
    assert not loss.any() and not lse.any()
    assert not any(g.any() for g in torch.autograd.grad(loss.sum() + lse.sum(), leaves))


def test_a_shift_needs_no_slice() -> None:
    e, c, _, targets = problem()
    assert torch.equal(linear_cross_entropy(e, c, targets, shift=1), linear_cross_entropy(e[:, :-1], c, targets[:, 1:]))


def test_a_filter_is_allowed_to_do_nothing() -> None:
    e, c, _, targets = problem()
    assert torch.equal(linear_cross_entropy(e, c, targets, filter_eps=0.01), linear_cross_entropy(e, c, targets))


def test_without_gradients_nothing_is_kept() -> None:
    e, c, _, targets = problem()
    with torch.no_grad():
        assert not linear_cross_entropy(e.requires_grad_(), c.requires_grad_(), targets).requires_grad


def test_other_devices_are_given_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given to it, run as it stands: compiling it would take most of a minute."""
    monkeypatch.setattr(function, "_compiled", lambda: function._full)
    run = partial(linear_cross_entropy, softcap=2.0, return_lse=True, reduction="none")
    e, c, bias, targets = problem()
    leaves = [t.requires_grad_() for t in (e, c, bias)]
    mine, right = run(e, c, targets, bias, backend="compile"), run(e, c, targets, bias)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(mine, right, strict=True))
    gradients = [torch.autograd.grad(x[0].sum() + x[1].square().sum(), leaves) for x in (mine, right)]
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_the_device_and_the_precision_choose_the_way() -> None:
    meta = torch.empty(4, 3, device="meta")
    assert function._backend(torch.ones(4, 3), torch.ones(5, 3), None, None) == "chunked"
    assert function._backend(meta, meta, None, None) == "compile"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not to be had for this system")
@pytest.mark.parametrize(
    ("hip", "capability", "dtype", "expected"),
    [
        (None, (9, 0), torch.bfloat16, True),
        (None, (7, 5), torch.float16, False),
        (None, (9, 0), torch.float64, False),
        ("6.4", (9, 4), torch.bfloat16, False),
    ],
)
def test_which_cards_and_precisions_the_kernels_take(
    hip: str | None, capability: tuple[int, int], dtype: torch.dtype, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    there: Any = SimpleNamespace(is_cuda=True, dtype=dtype, device="cuda")
    assert function.by_triton(there, there, None) is expected


def test_errors_say_what_to_pass() -> None:
    e, c, bias, targets = problem()
    for change, words in (
        ({"targets": targets.clone().fill_(23)}, "target 23 is outside the vocabulary of 23"),
        ({"targets": targets.clone().fill_(-1)}, "target -1 is outside"),
        ({"targets": targets.int()}, "torch.int64"),
        ({"e": e[..., :4]}, "with one D"),
        ({"bias": bias[:4]}, "bias of shape"),
        ({"shift": 8}, "shift must be at least 0 and below the 8"),
        ({"shift": -1}, "shift must be"),
        ({"reduction": "average"}, "mean, sum, none"),
        ({"backend": "cuda"}, "auto, triton"),
        ({"filter_eps": 0.0}, "filter_eps"),
        ({"accumulate": torch.bfloat16}, "accumulate must be"),
        ({"backend": "triton"}, "backend triton takes float32, float16 and bfloat16 on a CUDA device"),
        ({"softcap": 0.0}, "softcap"),
    ):
        with pytest.raises(ValueError, match=words):
            linear_cross_entropy(**{"e": e, "c": c, "targets": targets, "bias": bias, **change})
    wrong = targets.clone()
    wrong[:, 0] = 99  # is not scored
    linear_cross_entropy(e, c, wrong, shift=1)


def test_distributed_tensors_are_refused_in_a_sentence() -> None:
    from torch.distributed.tensor import DTensor

    e, c, _, targets = problem()
    sharded = torch.Tensor._make_wrapper_subclass(DTensor, c.shape, dtype=c.dtype)
    with pytest.raises(ValueError, match="to_local"):
        linear_cross_entropy(e, sharded, targets)


def test_a_head_in_pieces_is_not_given_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take its own piece for the whole."""
    monkeypatch.setattr(function.Shards, "of", lambda group, weight: function.Shards(group, 0, len(weight)))
    e, c, _, targets = problem()
    with pytest.raises(ValueError, match="compile knows no process_group"):
        linear_cross_entropy(e, c, targets, process_group=object(), backend="compile")  # type: ignore[call-overload]


def together(backend: str, folder: Path) -> None:
    """Two processes give what one gives: the loss and log-sum-exp on both, dE on both, dC and d bias in pieces."""
    script = Path(vocabulary_parallel.__file__)
    done = subprocess.run(
        [sys.executable, str(script), backend, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    e, c, bias, targets, upstream = vocabulary_parallel.problem()
    leaves = [t.double().requires_grad_() for t in (e, c, bias)]
    nll, lse = plain(
        leaves[0],
        leaves[1],
        targets,
        leaves[2],
        softcap=vocabulary_parallel.SOFTCAP,
        scale=vocabulary_parallel.SCALE,
        reduction="none",
    )
    ((nll * upstream[0]).sum() + (lse * upstream[1]).sum()).backward()
    pieces = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    right = [nll, lse, leaves[0].grad]
    for found in pieces:
        for a, b in zip(found, right):
            assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-5)
    for i, leaf in ((3, leaves[1]), (4, leaves[2])):
        assert torch.allclose(torch.cat([p[i] for p in pieces]).double(), leaf.grad, rtol=1e-5, atol=1e-5)


def test_a_head_spread_over_two_processes(tmp_path: Path) -> None:
    together("chunked", tmp_path)


def _bench(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    sys.path.insert(0, str(path.parent))  # as for a script
    try:
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(path.parent))
    return loaded


def test_the_bench_runs_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    _bench("cross_entropy").main(["--shapes", "tiny", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "ours, exact" in printed and "eager" in printed and "not a measurement" in printed
