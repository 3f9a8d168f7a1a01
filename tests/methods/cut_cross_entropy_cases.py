"""The Triton kernels in Triton's interpreter; run by ``test_cut_cross_entropy_triton.py`` in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import triton_interpreter
from test_cut_cross_entropy import together
from torch import Tensor

from palimpsest.kernels.cut_cross_entropy import driver, filtered, function, linear_cross_entropy, plan
from palimpsest.kernels.cut_cross_entropy.plan import Shape
from palimpsest.kernels.linear_log_probability import linear_log_probability

triton_interpreter.repair()

# Largest error over the largest right value.  Logits and sums are float32 whatever the inputs; G and the gradients are
# rounded to the inputs' dtype, a relative 2^-9 in bfloat16 and 2^-12 in float16, each once.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


def problem(
    tokens: tuple[int, ...] = (2, 12),
    width: int = 48,
    entries: int = 100,
    dtype: torch.dtype = torch.float32,
    ignored: float = 0.0,
    sharp: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """e, c, targets and bias."""
    seed = torch.Generator().manual_seed(0)
    e = torch.randn(*tokens, width, generator=seed).to(dtype)
    c = (torch.randn(entries, width, generator=seed) * width**-0.5 * sharp).to(dtype)
    targets = torch.randint(0, entries, tokens, generator=seed)
    bias = torch.randn(entries, generator=seed).to(dtype)
    return e, c, targets.masked_fill(torch.rand(tokens, generator=seed) < ignored, -100), bias


def compare(
    e: Tensor, c: Tensor, targets: Tensor, bias: Tensor | None = None, frozen: str = "", **options: object
) -> list[Tensor]:
    """Loss, log-sum-exp and gradients by Triton against those of the chunked way in float64, any upstream."""
    given = {"e": e, "c": c, "bias": bias}
    named = {n: t for n, t in given.items() if t is not None and n not in frozen.split()}
    leaves = {n: t.clone().requires_grad_() for n, t in named.items()}
    truth = {n: t.detach().double().requires_grad_() for n, t in named.items()}
    fixed = {n: None if t is None else t.double() for n, t in given.items() if n not in named}
    mine = linear_cross_entropy(
        **{**given, **leaves},
        targets=targets,
        return_lse=True,
        backend="triton",
        **options,  # type: ignore[arg-type]
    )
    options.pop("accumulate", None)
    right = linear_cross_entropy(
        **{**fixed, **truth},
        targets=targets,
        return_lse=True,
        backend="chunked",
        **options,  # type: ignore[arg-type]
    )
    for a, b in zip(mine, right, strict=True):
        assert a.dtype == torch.float32 and torch.allclose(a.double(), b, rtol=2e-6, atol=2e-5)
    seed = torch.Generator().manual_seed(4)
    upstream = [torch.randn(a.shape, generator=seed) for a in mine]
    found = torch.autograd.grad(mine, list(leaves.values()), upstream)
    wanted = torch.autograd.grad(right, list(truth.values()), [u.double() for u in upstream])
    for (name, leaf), a, b in zip(leaves.items(), found, wanted, strict=True):
        assert a.dtype == leaf.dtype and a.shape == leaf.shape
        error = float((a.double() - b).abs().max() / b.abs().max())
        assert error < TOLERANCE[e.dtype], (name, error)
    return list(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("width", "entries", "options"),
    [
        (37, 101, {"bias": True, "softcap": 3.0, "scale": 1.3}),  # by pointers
        (48, 80, {"bias": True, "shift": 1, "reduction": "none", "ignored": 0.1}),
        (40, 100, {"softcap": 20.0, "shift": 2, "reduction": "sum", "ignored": 0.5}),
    ],
    ids=str,
)
def test_values_and_gradients(dtype: torch.dtype, width: int, entries: int, options: dict[str, object]) -> None:
    options = dict(options)
    ignored, with_bias = float(options.pop("ignored", 0.0)), options.pop("bias", False)  # type: ignore[arg-type]
    e, c, targets, bias = problem(width=width, entries=entries, dtype=dtype, ignored=ignored)
    compare(e, c, targets, bias if with_bias else None, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_no_farther_from_the_truth_than_eager_in_the_same_precision(dtype: torch.dtype) -> None:
    """Eager rounds the logits, this only their gradient: it needs no slack as the released tests have."""
    e, c, targets, bias = problem((64,), 48, 300, dtype, sharp=6.0)
    found = []
    for way in ("triton", "eager", "truth"):
        leaves = [(t.double() if way == "truth" else t.clone()).requires_grad_() for t in (e, c, bias)]
        if way == "triton":
            loss = linear_cross_entropy(leaves[0], leaves[1], targets, leaves[2], backend="triton")
        else:
            logits = leaves[0] @ leaves[1].T + leaves[2]
            loss = F.cross_entropy(logits if way == "truth" else logits.float(), targets)
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for name, mine, eager, truth in zip(("loss", "e", "c", "bias"), *found, strict=True):
        errors = [float((value.double() - truth).norm()) for value in (mine, eager)]
        assert errors[0] <= errors[1], (name, errors)


@pytest.mark.parametrize("width", [1000, 2304])
def test_a_bias_is_counted_once_however_wide_the_head(width: int) -> None:
    e, c, targets, bias = problem((6,), width, 40)
    compare(e, c, targets, bias + 5)


@pytest.mark.parametrize("frozen", ["c", "e", "bias", "c bias", "e bias", "e c"])
def test_a_frozen_side_is_skipped(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    e, c, targets, bias = problem()
    steps: list[object] = []
    inner = driver.add_product
    monkeypatch.setattr(driver, "add_product", lambda *a: steps.append(a) or inner(*a))
    compare(e, c, targets, bias, frozen=frozen)
    assert len(steps) == ("e" not in frozen) + ("c" not in frozen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("frozen", "rounded"), [("", False), ("", True), ("c", False), ("e", False)])
def test_the_gradients_serve_as_scratch(
    dtype: torch.dtype, frozen: str, rounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of large shapes at a small one: no extra buffer to speak of, narrow chunks, parts and a tail."""
    for name, value in (("EXTRA", 40 * 16 * 4), ("CHUNKS", (32, 64)), ("ALIGN", 16), ("NARROW", 16), ("PARTS", (1, 2))):
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr(plan, "COARSE", 8)
    plan._ranking.cache_clear()
    e, c, targets, bias = problem((40,), 48, 250, dtype)
    shape = Shape(40, 48, 250, e.element_size())
    steps = plan.plan(shape, hidden="e" not in frozen, weight="c" not in frozen, rounded=rounded).steps
    assert len(steps) > 3 and any(s.signal.arena != "extra" for s in steps)
    compare(e, c, targets, bias, frozen=frozen, accumulate=dtype if rounded else torch.float32)
    plan._ranking.cache_clear()


@pytest.mark.parametrize("way", ["parts", "tail", "apart"])
def test_every_kind_of_plan_gives_the_same_gradients(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXTRA", 64 * 16 * 2), ("ALIGN", 16), ("NARROW", 16), ("PART_ROWS", 16)):
        monkeypatch.setattr(plan, name, value)
    shape = Shape(64, 32, 300, 2)
    arrange = {
        "parts": plan._Together(2, 32, "weight", "weight", False),
        "tail": plan._Together(1, 32, "hidden", "weight", False),
        "apart": plan._apart,
    }[way]
    steps = arrange(shape)
    assert steps is not None
    assert any(s.add_weight for s in steps) == (way == "parts")
    monkeypatch.setattr(driver, "plan", lambda *_, **__: plan._evaluated(steps, shape, plan.Machine()))
    e, c, targets, _ = problem((64,), 32, 300, torch.bfloat16)
    compare(e, c, targets)


def test_small_probabilities_survive_float16_under_a_mean() -> None:
    """1/N of a probability of 1e-4 is below the smallest float16."""
    e, c, targets, _ = problem(dtype=torch.float16, sharp=3.0)
    leaves = [t.requires_grad_() for t in (e, c)]
    loss = linear_cross_entropy(e, c, targets, reduction="none", backend="triton")
    found = torch.autograd.grad(loss, leaves, torch.full_like(loss, 2.0**-14))
    right = torch.autograd.grad(linear_cross_entropy(e, c, targets, reduction="none"), leaves, torch.ones_like(loss))
    for a, b in zip(found, right, strict=True):
        assert float((a.double() - b.double() * 2.0**-14).abs().max()) < 1e-3 * float(b.abs().max()) * 2.0**-14 + 6e-8


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_counted(reduction: str) -> None:
    e, c, targets, bias = problem()
    leaves = [t.requires_grad_() for t in (e, c, bias)]
    loss, lse = linear_cross_entropy(
        e,
        c,
        torch.full_like(targets, -100),
        bias,
        reduction=reduction,
        return_lse=True,
        backend="triton",  # type: ignore[call-overload]
    )
    assert not loss.any() and not lse.any()
    assert not any(g.any() for g in torch.autograd.grad(loss.sum() + lse.sum(), leaves))


def test_masked_entries_and_large_logits() -> None:
    e, c, targets, bias = problem()
    bias[:64] = -torch.inf  # a whole tile
    targets = targets.clamp(min=64)
    compare(e, c * 4, targets, bias, frozen="bias")
    nll = linear_cross_entropy(e * 1e4, c, targets, bias, reduction="none", backend="triton")
    assert nll.isfinite().all() and bool((nll >= 0).all())


def test_the_same_bits_every_time_and_for_other_strides() -> None:
    e, c, targets, bias = problem(dtype=torch.bfloat16)
    once, again = compare(e, c, targets, bias), compare(e, c, targets, bias)
    turned = compare(e.transpose(0, 1).contiguous().transpose(0, 1), c.T.contiguous().T, targets, bias)
    assert all(torch.equal(a, b) and torch.equal(a, d) for a, b, d in zip(once, again, turned, strict=True))
    apart = torch.stack([bias, bias + 9], 1)[:, 0]  # every second number
    losses = [linear_cross_entropy(e, c, targets, b, backend="triton") for b in (bias, apart)]
    assert torch.equal(*losses)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("stride", [2**27, 2**27 + 1])  # by descriptors and by pointers
def test_offsets_pass_two_to_the_31(stride: int, tmp_path: Path) -> None:
    """Rows so far apart that a product of two 32-bit numbers would wrap around, in files that are mostly holes."""

    def far(near: Tensor, name: str) -> Tensor:
        whole = torch.from_file(str(tmp_path / name), shared=True, size=len(near) * stride, dtype=near.dtype)
        return whole.as_strided(near.shape, (stride, 1)).copy_(near)

    e, c, targets, _ = problem((20,), 32, 20, torch.float16, sharp=6.0)
    found = []
    for a, b in ((e, c), (far(e, "e"), far(c, "c"))):
        head = driver.Head(b, None, None, 1.0)
        lse, blocks = driver.log_sums(a, head, keep=True)
        assert blocks is not None
        upstream = driver.Upstream(targets, lse, torch.ones_like(lse), torch.ones_like(lse))
        out = torch.empty(20, 20, dtype=e.dtype)
        out = out if a is e else far(out, "out")
        driver.signal(a, head, 0, upstream, out)
        exact = driver.exact_gradients(a, head, upstream, (True, True, False), False, None)
        pairs = torch.arange(20, dtype=torch.int32)
        kept = filtered._gradients(filtered.Filtered(a, head, upstream, pairs, 1.0), [20], (True, True, False), None)
        found.append([lse, driver.target_logits(a, head, targets), out, *exact[:2], *kept[:2]])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_mixed_precisions_meet_in_the_wider() -> None:
    e, c, targets, _ = problem()
    half = e.bfloat16().requires_grad_()
    found = linear_cross_entropy(half, c, targets, backend="triton")
    assert torch.allclose(found, linear_cross_entropy(half.float(), c, targets), rtol=1e-5)
    assert torch.autograd.grad(found, half)[0].dtype == torch.bfloat16


def test_what_log_probabilities_stand_on_where_there_is_a_card() -> None:
    """The kernels by the way of ``linear_log_probability``, against its own: values and gradients, any upstream."""
    e, c, targets, bias = problem(ignored=0.2)
    found = []
    for run, sign in ((function.negative_log_probability, -1.0), (linear_log_probability, 1.0)):
        leaves = [t.clone().requires_grad_() for t in (e, c, bias)]
        given = (leaves[0], leaves[1], targets, leaves[2])
        options = {"softcap": 5.0, "scale": 0.7, "ignore_index": -100}
        value = sign * run(*given, **options)
        found.append([value.detach(), *torch.autograd.grad(value, leaves, torch.linspace(-1, 2, 24).view(2, 12))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_autocast_lowers_the_products_and_not_the_weights() -> None:
    """As it does for a linear layer: whole weights beside it would be multiplied in float32, many times slower."""
    e, c, targets, bias = problem()
    found = []
    for lower in (True, False):
        leaves = [t.clone().requires_grad_() for t in (e, c, bias)]
        given = leaves if lower else [*(t.bfloat16() for t in leaves[:2]), leaves[2]]
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            loss = linear_cross_entropy(given[0], given[1], targets, given[2], backend="triton")
        found.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(*found, strict=True))
    exact = linear_cross_entropy(e, c, targets, bias, backend="triton")
    assert 1e-5 < abs(float(exact - found[0][0])) < 1e-2


@pytest.mark.parametrize("row_blocks", [1, 3, 64, 128, 1000])
@pytest.mark.parametrize(("tiles", "unit"), [(1, 1), (7, 1), (1000, 1), (1000, 4), (192, 8)])
def test_slices_cover_the_vocabulary(row_blocks: int, tiles: int, unit: int) -> None:
    count, size = driver.slices(row_blocks, tiles, unit, 132, 16)
    assert 1 <= count <= driver.SLICES and size % unit == 0
    assert (count - 1) * size < tiles <= count * size


def test_a_head_spread_over_two_processes(tmp_path: Path) -> None:
    together("triton", tmp_path)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of the vocabulary, and buffers that hold few of them."""
    for module, name, value in (
        (driver, "BLOCK", 64),
        (filtered, "EXTRA", 24 * 64 * 2),
        (filtered, "COLUMNS", 16),
        (filtered, "ALIGN", 16),
    ):
        monkeypatch.setattr(module, name, value)


def trained(dtype: torch.dtype, sharp: float = 6.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits that say much, and targets that mostly follow them."""
    e, c, _, bias = problem((24,), 32, 420, dtype, sharp=sharp)
    noise = torch.randn(24, 420, generator=torch.Generator().manual_seed(9))
    likely = (e.float() @ c.float().T + bias.float() + noise).argmax(1)
    return e, c, likely.masked_fill(torch.arange(24) % 13 == 3, -100), bias


@pytest.mark.parametrize(
    ("dtype", "frozen"),
    [(torch.bfloat16, "bias"), (torch.bfloat16, "c bias"), (torch.float16, "e"), (torch.float16, "")],
    ids=str,
)
@pytest.mark.usefixtures("small_blocks")
def test_the_filter_keeps_its_bound(dtype: torch.dtype, frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[filtered.Choice] = []
    inner = filtered.choose
    monkeypatch.setattr(filtered, "choose", lambda *a: chosen.append(inner(*a)) or chosen[-1])
    e, c, targets, bias = trained(dtype)
    named = {"e": e, "c": c, "bias": bias}
    leaves = {n: t.requires_grad_() for n, t in named.items() if n not in frozen.split()}
    upstream = torch.linspace(-1, 2, 24)
    eps = 0.03

    def run(filter_eps: float | None, backend: str) -> dict[str, Tensor]:
        whole = named if backend == "triton" else {n: t.float() for n, t in named.items()}
        loss = linear_cross_entropy(
            **whole,
            targets=targets,
            reduction="none",
            filter_eps=filter_eps,
            backend=backend,  # type: ignore[call-overload]
        )
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), upstream), strict=True))

    right, mine = run(None, "chunked"), run(eps, "triton")
    (choice,) = chosen
    assert choice.share < 0.75 and 0.2 * eps < float(choice.dropped.max()) <= eps
    if not frozen:
        again = run(eps, "triton")
        assert all(torch.equal(mine[n], again[n]) for n in mine)
    rounding = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    for name in mine:
        error = (mine[name].float() - right[name].float()).abs()
        if name == "e":
            bound = choice.dropped * upstream.abs() * float(c.detach().abs().max())
            assert bool((error.amax(1) <= bound + rounding * right[name].float().abs().amax()).all())
            assert float(error.max()) > 1e-4  # something was left out
        else:
            assert float(error.max() / right[name].float().abs().max()) < 2 * eps + rounding


@pytest.mark.usefixtures("small_blocks")
def test_the_filter_turns_itself_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """On flat rows, and in float32."""
    monkeypatch.setattr(filtered, "_gradients", lambda *_: pytest.fail("blocks were left out"))
    for dtype, sharp in ((torch.bfloat16, 0.5), (torch.float32, 6.0)):
        e, c, targets, _ = trained(dtype, sharp)
        compare(e, c, targets, filter_eps=0.01)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("first", "stop"), [(0, 700), (128, 700), (0, 128), (320, 320)])
@pytest.mark.parametrize("room", [200, 1000, 5000])
def test_groups_take_every_entry_once_and_fit(first: int, stop: int, room: int) -> None:
    counts = [40, 0, 3, 12, 40, 1, 0, 0, 7, 9, 11]
    found = list(filtered.groups(counts, 700, first, stop, lambda _: room))
    pieces = [piece for group in found for piece in group]
    assert [p.first for p in pieces] == ([first, *(p.stop for p in pieces[:-1])] if pieces else [])
    assert (pieces[-1].stop if pieces else first) == stop
    for group in found:
        ends = [0, *(p.at + p.size for p in group)]
        assert all(p.at >= before for p, before in zip(group, ends))
        assert ends[-1] <= max(room, 16 * 40) or len(group) == 1
    for p in pieces:
        block = p.first // 64
        assert p.stop <= (block + 1) * 64 and p.rows == counts[block] and p.start == sum(counts[:block])


@pytest.mark.usefixtures("small_blocks")
def test_the_choice_drops_the_least_and_never_a_target() -> None:
    mass = torch.tensor([[0.5, 0.3, 0.15, 0.04, 0.01], [0.0005, 0.9, 0.09, 0.0094, 0.0001]])
    targets = torch.tensor([4 * 64 + 3, -1])
    choice = filtered.choose(mass.log().half(), torch.zeros(2), targets, 320, 0.05, None)
    assert choice.kept.tolist() == [[True, True, True, False, True], [False, True, True, False, False]]
    assert torch.allclose(choice.dropped, torch.tensor([0.04, 0.01]), rtol=1e-2)
    assert choice.share == pytest.approx(0.6)


@pytest.mark.usefixtures("small_blocks")
def test_behind_the_last_entry_the_filter_multiplies_zeros() -> None:
    """Rows of its G are whole multiples of 16 numbers, in memory that may hold anything."""
    e, c, targets, _ = problem((20,), 32, 83, torch.bfloat16)
    upstream = driver.Upstream(targets, *torch.ones(3, 20))
    work = filtered.Filtered(e, driver.Head(c, None, None, 1.0), upstream, torch.arange(20, dtype=torch.int32), 1.0)
    (group,) = filtered.groups([0, 20], 83, 64, 83, lambda _: 1000)
    room = torch.full((1000,), torch.nan, dtype=torch.bfloat16)
    work.signal(group, room)
    g = room[: group[0].size].view(20, 32)
    assert bool(g[:, :19].isfinite().all()) and bool(g[:, :19].any()) and not g[:, 19:].any()
