"""Experiments that a budget puts on a card keep all their tensors there; tried on a device that is only pretended.

What is moved to ``cuda`` stays where it is, is marked, and says that it is on ``cuda``.  An operation on marked and
unmarked tensors fails as it would on a card, and so does a CPU generator that is to fill a marked tensor.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from palimpsest.claims import (
    _facts,
    _optimizers,
    _plates,
    _pretraining,
    loss_reweighting,
    lost,
    multi_similarity_loss,
    spherical_z_loss,
)
from palimpsest.claims import dco_pass_at_n as dco
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.reweighted import Reweighted
from palimpsest.optim import FRUGAL, BAdam, Fira, GaLore
from palimpsest.schedules.rewarm import Rewarm

CARD = torch.device("cuda")
MAY_MIX = ("copy_", "_to_copy", "index.Tensor", "index_put", "_index_put_impl_")
"""Operations that take tensors of two devices; an index may be the CPU's where what is indexed is not."""
FACTORIES = {
    getattr(torch, name)
    for name in (
        "arange",
        "empty",
        "eye",
        "full",
        "linspace",
        "logspace",
        "ones",
        "rand",
        "randint",
        "randn",
        "randperm",
    )
} | {torch.tensor, torch.zeros, torch.as_tensor}


class Marks:
    """Which storages are on the pretended card, and which are known not to be."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[StorageWeakRef, bool]] = {}

    def of(self, tensor: Tensor) -> bool | None:
        storage = tensor.untyped_storage()
        found = self.known.get(storage.data_ptr())
        return None if found is None or found[0].expired() else found[1]

    def put(self, tensor: Tensor, there: bool) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr():
            self.known[storage.data_ptr()] = (StorageWeakRef(storage), there)
        return tensor


class Operations(TorchDispatchMode):
    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim()]
        found = {self.marks.of(t) for t in given} - {None}
        mixes = any(name in str(func) for name in MAY_MIX)
        if len(found) > 1 and not (mixes and (self.marks.of(given[0]) or "copy" in str(func))):
            raise AssertionError(f"{func} was given tensors of two devices: {[tuple(t.shape) for t in given]}")
        result = func(*args, **(kwargs or {}))
        if len(found) == 1 or mixes:
            for t in tree_leaves(result):
                if isinstance(t, Tensor) and self.marks.of(t) is None and given:
                    self.marks.put(t, bool(self.marks.of(given[0])) if mixes else found == {True})
        return result


class Calls(TorchFunctionMode):
    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return CARD if self.marks.of(args[0]) else func(*args)
        if func is Tensor.numpy and self.marks.of(args[0]):
            raise TypeError("can't convert cuda device type tensor to numpy")
        if func is Tensor.cpu:
            return self.marks.put(args[0].clone(), False)
        if func is Tensor.to:
            return self._moved(args, kwargs)
        there = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if there:
            if kwargs.get("generator") is not None:
                raise AssertionError(f"{func} was given a CPU generator to fill a tensor on the card")
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        if (there or func in FACTORIES) and isinstance(result, Tensor) and self.marks.of(result) is not True:
            self.marks.put(result.clone() if there and func is torch.as_tensor else result, there)
        return result

    def _moved(self, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """``Tensor.to`` with a device, a type, both, or another tensor."""
        tensor, *rest = args
        was, there, dtype = bool(self.marks.of(tensor)), None, kwargs.get("dtype")
        for value in [*rest, kwargs.get("device")]:
            if isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, Tensor):
                there, dtype = bool(self.marks.of(value)), value.dtype
            elif isinstance(value, str | torch.device):
                there = torch.device(value).type == "cuda"
        there = was if there is None else there
        moved = tensor if dtype is None else tensor.type(dtype)
        if there != was and moved.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
            moved = moved.clone()
        return self.marks.put(moved, there) if there != was else moved


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Marks]:
    """Budgets lead to the pretended card."""
    for module in (_facts, _plates, _pretraining):
        monkeypatch.setattr(module, "device_of", lambda budget: CARD if budget == "gpu" else torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    marks = Marks()
    with Operations(marks), Calls(marks):
        yield marks


def test_the_pretence_catches_what_a_card_would(card: Marks) -> None:
    here, there = torch.ones(3), torch.ones(3).to("cuda")
    assert there.device == CARD and here.device.type == "cpu" and (there * 2).device == CARD
    assert torch.zeros_like(there).device == torch.zeros(2, device=CARD).device == CARD
    assert there.cpu().device.type == "cpu" and there[torch.tensor([0, 1])].device == CARD
    for wrong in (lambda: here + there, lambda: here[torch.tensor([0], device="cuda")], lambda: here @ there):
        with pytest.raises(AssertionError, match="two devices"):
            wrong()
    with pytest.raises(AssertionError, match="CPU generator"):
        torch.rand(2, device="cuda", generator=torch.Generator())
    with pytest.raises(TypeError):
        there.numpy()


def tokens(count: int) -> Tensor:
    """Text without sense, which the tests need not read from files."""
    return torch.randint(0, 300, (count,), generator=torch.Generator().manual_seed(0))


SPLITTERS = ("blocks", "columns", "rows", "entries", "svd", "random")
MAKERS: dict[str, Any] = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, weight_decay=0.0),
    "Fira": lambda groups: Fira(groups, rank=4, update_gap=2),
    "GaLore": lambda groups: GaLore(groups, rank=4, update_gap=2),
    "BAdam": lambda groups: BAdam(groups, update_gap=2),
} | {s: lambda groups, s=s: FRUGAL(groups, splitter=s, update_gap=2) for s in SPLITTERS}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_optimizers(card: Marks, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    size = _optimizers.Size(layers=1, width=16, steps=10, batch=2, length=8, device="cuda")
    monkeypatch.setattr(_optimizers, "_tokens", lambda rows: (tokens(100), tokens(64 * 9)))
    seen = []

    def watch(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        seen.extend(p.device for p in model.parameters())

    loss, _ = _optimizers.train(size, _optimizers.Arm(make, (1e-3,)), 1e-3, 0, watch)
    assert 0 < loss < 20 and set(seen) == {CARD}


@pytest.mark.parametrize("arm", lost.ARMS)
def test_lost(card: Marks, monkeypatch: pytest.MonkeyPatch, arm: str) -> None:
    monkeypatch.setattr(lost, "SIZES", {"gpu": lost.Size(layers=1, length=16, batch=2, steps=3)})
    monkeypatch.setattr(lost, "text", lambda size: tokens(320).view(2, 10, 16))
    assert 0 < lost.held_out_loss(lost.ARMS[arm], 1e-3, "gpu", 0) < 20


def test_coverage_and_reweighting(card: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (dco, loss_reweighting):
        monkeypatch.setattr(module, "DECODERS", {"gpu": (1, 32)})
        monkeypatch.setattr(module, "BATCH", 8)
        monkeypatch.setattr(module, "STEPS", 3)
    train, test = dco._questions()
    monkeypatch.setattr(dco, "EARLY", 1)
    monkeypatch.setattr(dco, "_questions", lambda: (train[:16], test[:8]))
    run = dco._run.__wrapped__("gpu", 0, 4.0)
    assert len(run.late[1].items) == 8 and len(run.early[1].items) == 8
    for objective in (CrossEntropy(), Reweighted(CrossEntropy(), temperature=0.4, burn_in=1)):
        assert len(loss_reweighting._loss_on_new_text(objective, "gpu", 0).items) == 300


def test_the_factored_layer(card: Marks) -> None:
    assert spherical_z_loss._factored_seconds(200, "gpu", 0) > 0 and spherical_z_loss._dense_seconds(200, "gpu", 0) > 0
    codes = spherical_z_loss.Codes(classes=40, width=8, steps=3, batch=8, test=50, budget="gpu")
    for loss in spherical_z_loss._losses().values():
        assert len(spherical_z_loss.top_accuracy(codes, loss, 1e-3, 0)) == 3


def test_plates(card: Marks) -> None:
    scale = _plates.Scale(classes=(9, 4, 5), rows_to_learn=6, rows_to_find=3, steps=3, hidden=8)
    world = _plates.Plates(replace(scale, classes_of_batch=3, rows_of_each=2), 0, 0, CARD)
    for objective in multi_similarity_loss._objectives().values():
        inputs, labels = world.asked
        assert 0 <= _plates.recall(_plates.trained(objective, world, 1e-3)(inputs), labels) <= 100


def test_pretraining(card: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    small = _pretraining.Scale(layers=1, width=16, characters=16, batch=2, upstream=3, downstream=2, held_out=4)
    monkeypatch.setattr(_pretraining, "SCALES", {"gpu": small})
    monkeypatch.setattr(
        _pretraining,
        "_passages",
        lambda part, rows, _: [{"id": f"{i}", "text": f"{part} {i:09d}"} for i in range(rows)],
    )
    own = _pretraining.bench.__wrapped__("gpu", 0)
    trained = own.trained(own.untrained, own.old(), Rewarm(0.02, 0.1))
    assert next(trained.parameters()).device == CARD
    assert len(own.loss(own.halfway(trained, own.untrained), "code").items) == 4


def test_the_bench_of_pretraining(card: Marks) -> None:
    folder = Path(__file__).parents[2] / "bench"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("pretrain", folder / "pretrain.py")
        assert spec is not None and spec.loader is not None
        bench = importlib.util.module_from_spec(spec)
        sys.modules["pretrain"] = bench
        spec.loader.exec_module(bench)
    finally:
        sys.path.remove(str(folder))
    size = replace(bench.SIZES["tiny"], vocabulary=40, batch=2, length=8, steps=2, windows=3)
    windows = torch.randint(0, 40, (30, 9), generator=torch.Generator().manual_seed(0))
    text = bench.Text(windows[:24], windows[24:27], windows[27:], "")
    for arm in bench.ARMS:
        found = bench.train(bench.Run(arm, 1e-3, 1e-3, 2, 0), text, size, bench.Machine("cuda", False), 1e9)
        assert len(found["losses"]) == 3 and found["state_bytes"] > 0
