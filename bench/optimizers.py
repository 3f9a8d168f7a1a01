"""Bytes of state, time of a step and loss at equal steps of the optimizers, beside AdamW and other implementations.

    python bench/optimizers.py [--steps 60] [--size tiny|10m|60m] [--threads 1] [--json PATH]

Each optimizer trains a Llama of its own from the same weights on the same batches of documentation.  They take turns
step by step.  Time is that of ``optimizer.step()`` alone (on a CPU that of the processor), as a median over
the usual steps and, apart from them, over those at which a subspace or a block is chosen anew.  Bytes are of all state
over all parameters, and over those of the layers' matrices.  Rates are fixed, one for each kind of optimizer, so the
losses are a check that it learns, not a ranking.  galore-torch and torchao are measured where they are installed; of
galore-torch only the module of its AdamW is loaded, since the package itself needs bitsandbytes.  ``renewing`` is the
step at which a new choice is made, and ``amortized`` what it adds to 200 usual steps, as a share of them.  ``calls``
are the operators that a usual step calls, views aside: on a GPU each is a launch of a kernel or of a few.

What holds a step: AdamW moves seven numbers a parameter through memory, reading and writing the weight and both
moments and reading the gradient.  Fira with the rank r moves three for an entry of a matrix, beside its small moments
and bases, but multiplies by the basis three times, which is 6 r operations an entry.  ``floor`` is what these numbers
take at the speed of a copy of many, and these products at the speed of products of that shape, both measured on the
same machine.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from palimpsest.optim import FRUGAL, BAdam, Fira, GaLore
from palimpsest.zoo.models import tiny_llama
from palimpsest.zoo.text import general_text

Named = list[tuple[str, nn.Parameter]]
Maker = Callable[[Named], torch.optim.Optimizer]
PERIOD = 200
"""Steps between two choices in the papers."""


@dataclass(frozen=True)
class Size:
    """A model and its batches; the vocabulary is larger than the tokenizer's where the published model's is."""

    width: int
    inner: int
    layers: int
    vocabulary: int
    batch: int
    length: int
    gap: int


SIZES = {
    "tiny": Size(width=128, inner=384, layers=4, vocabulary=512, batch=4, length=64, gap=10),
    "10m": Size(width=320, inner=864, layers=8, vocabulary=8192, batch=4, length=64, gap=10),
    "60m": Size(width=512, inner=1376, layers=8, vocabulary=32000, batch=32, length=256, gap=50),
}


@dataclass
class Racer:
    """One optimizer with its model, and what it took."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    usual: list[float] = field(default_factory=list)
    renewing: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def llama(size: Size) -> nn.Module:
    """Random weights; head and embeddings tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        num_key_value_heads=size.width // 64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).train()


def matrices(named: Named) -> list[nn.Parameter]:
    """What the papers split."""
    return [p for name, p in named if "layers" in name and p.ndim == 2]


def peers(size: Size) -> tuple[dict[str, Maker], dict[str, str]]:
    """Other implementations that can be imported, and why the others cannot."""
    found: dict[str, Maker] = {}
    absent: dict[str, str] = {}
    for name, make in {"galore-torch": _galore_torch, "torchao AdamW8bit": _torchao}.items():
        try:
            found[name] = make(size)
        except ImportError as error:
            absent[name] = str(error)
    return found, absent


def _galore_torch(size: Size) -> Maker:
    """Its AdamW, without the package's own imports."""
    spec = importlib.util.find_spec("galore_torch")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("galore_torch is not installed")
    package = types.ModuleType("galore_torch")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules.setdefault("galore_torch", package)
    adamw = importlib.import_module("galore_torch.adamw").AdamW

    def make(named: Named) -> torch.optim.Optimizer:
        chosen = matrices(named)
        others = [p for _, p in named if not any(p is m for m in chosen)]
        own = {"rank": size.width // 4, "update_proj_gap": size.gap, "scale": 0.25, "proj_type": "std"}
        groups = [{"params": others}, {"params": chosen, **own}]
        made: torch.optim.Optimizer = adamw(groups, lr=0.01, no_deprecation_warning=True)
        return made

    return make


def _torchao(size: Size) -> Maker:
    eight_bit = importlib.import_module("torchao.optim").AdamW8bit

    def make(named: Named) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = eight_bit([p for _, p in named], lr=1e-3)
        return made

    return make


def makers(size: Size) -> dict[str, Maker]:
    """Ours, and torch's."""
    rank, gap = size.width // 4, size.gap
    return {
        "AdamW fused": lambda named: torch.optim.AdamW(named, lr=1e-3, fused=True),
        "AdamW foreach": lambda named: torch.optim.AdamW(named, lr=1e-3, foreach=True),
        "galore": lambda named: GaLore(named, lr=0.01, rank=rank, update_gap=gap),
        "fira": lambda named: Fira(named, lr=0.01, rank=rank, update_gap=gap),
        "frugal blocks": lambda named: FRUGAL(named, lr=1e-3, update_gap=gap),
        "frugal columns": lambda named: FRUGAL(named, lr=1e-3, update_gap=gap, splitter="columns"),
        "frugal svd": lambda named: FRUGAL(named, lr=1e-3, update_gap=gap, splitter="svd"),
        "badam": lambda named: BAdam(named, lr=1e-3, update_gap=gap),
    }


def batches(size: Size, steps: int, device: str) -> list[Tensor]:
    """Token ids [B, T], the same for all."""
    _, tokenizer = tiny_llama(layers=1, width=16)
    ids = torch.tensor([i for row in general_text(1000) for i in tokenizer(row["text"])["input_ids"]], device=device)
    generator = torch.Generator().manual_seed(0)
    span = torch.arange(size.length)
    starts = [torch.randint(len(ids) - size.length, (size.batch, 1), generator=generator) for _ in range(steps)]
    return [ids[(s + span).to(device)] for s in starts]


def clock(device: str) -> float:
    """Seconds: of the processor where that does the work, since they hold on a busy machine too."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def turn(racer: Racer, ids: Tensor, renews: bool, device: str) -> None:
    """One step of one optimizer."""
    racer.optimizer.zero_grad()
    loss = racer.model(input_ids=ids, labels=ids).loss
    loss.backward()
    start = clock(device)
    racer.optimizer.step()
    seconds = clock(device) - start
    (racer.renewing if renews else racer.usual).append(seconds)
    racer.losses.append(float(loss.detach()))


class Calls(TorchDispatchMode):
    """Counts the operators that are called, without views and without reading a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and not func.is_view and func is not torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def calls(optimizer: torch.optim.Optimizer) -> int:
    """Of the second of two further steps, since the first may choose anew."""
    optimizer.step()
    with Calls() as counter:
        optimizer.step()
    return counter.count


def fastest(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of ten turns."""
    times = []
    for _ in range(10):
        start = clock(device)
        work()
        times.append(clock(device) - start)
    return min(times)


def floor(size: Size, device: str) -> dict[str, float]:
    """Milliseconds of a step, by the numbers that it moves and by the products that it takes; speeds measured here."""
    named = list(llama(size).named_parameters())
    chosen, rank = matrices(named), size.width // 4
    entries = sum(p.numel() for p in chosen)
    others = sum(p.numel() for _, p in named) - entries
    small = rank * sum(4 * max(p.shape) + min(p.shape) for p in chosen)  # moments read and written, the basis read
    one, other = (torch.ones(2**25, device=device) for _ in range(2))
    copied = 2 * one.nbytes / fastest(lambda: other.copy_(one), device)
    shapes = (size.inner, size.width), (size.inner, rank), (rank, size.width)
    whole, part, basis = (torch.ones(size.layers, *shape, device=device) for shape in shapes)
    multiplied = 2 * rank * whole.numel() / fastest(lambda: whole.baddbmm_(part, basis, alpha=0.1), device)
    return {
        "copy_gb_per_s": copied / 1e9,
        "product_gflop_per_s": multiplied / 1e9,
        "adamw_ms": 1e3 * 4 * 7 * (entries + others) / copied,
        "fira_numbers_ms": 1e3 * 4 * (3 * entries + small + 7 * others) / copied,
        "fira_products_ms": 1e3 * 6 * rank * entries / multiplied,
    }


def state_bytes(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> int:
    """Tensors in the state of some parameters, also those that an object in it holds."""

    def size(value: Any) -> int:
        if isinstance(value, Tensor) and is_traceable_wrapper_subclass(value):  # made of others, such as 8-bit codes
            return sum(size(getattr(value, name)) for name in value.__tensor_flatten__()[0])
        if isinstance(value, Tensor):
            return value.nbytes
        members = value.values() if isinstance(value, dict) else getattr(value, "__dict__", {}).values()
        return sum(map(size, members))

    return sum(size(v) for p in parameters for v in optimizer.state[p].values())


def measure(size: Size, steps: int, device: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each optimizer, and why peers are absent."""
    others, absent = peers(size)
    start = llama(size).to(device)
    racers = []
    for name, make in {**makers(size), **others}.items():
        model = copy.deepcopy(start)
        racers.append(Racer(name, model, make(list(model.named_parameters()))))
    for step, ids in enumerate(batches(size, steps, device)):
        for racer in racers:
            turn(racer, ids, step % size.gap == 0, device)
    rows = []
    for racer in racers:
        named = list(racer.model.named_parameters())
        split = matrices(named)
        every = [p for _, p in named]
        usual = statistics.median(racer.usual[1:])
        renewing = statistics.median(racer.renewing[1:] or racer.renewing)
        rows.append(
            {
                "optimizer": racer.name,
                "bytes_per_parameter": state_bytes(racer.optimizer, every) / sum(p.numel() for p in every),
                "bytes_per_matrix_entry": state_bytes(racer.optimizer, split) / sum(p.numel() for p in split),
                "step_ms": 1e3 * usual,
                "renewing_step_ms": 1e3 * renewing,
                "amortized": max(0.0, renewing - usual) / (PERIOD * usual),
                "loss": statistics.fmean(racer.losses[-10:]),
                "calls": None if racer.name in others else calls(racer.optimizer),
            }
        )
    return rows, absent


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--steps", type=int, default=60, help="at least 20; the loss is the mean of the last ten")
    parser.add_argument("--size", choices=SIZES, default="60m" if device == "cuda" else "tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.steps < 20:
        parser.error("--steps is at least 20")
    torch.set_num_threads(options.threads)
    rows, absent = measure(SIZES[options.size], options.steps, device)
    header = f"{'optimizer':<20}{'state B/param':>14}{'B/matrix entry':>16}{'step ms':>10}{'renewing ms':>13}"
    print(f"{header}{'amortized':>11}{'loss':>8}{'calls':>7}")
    for row in rows:
        print(
            f"{row['optimizer']:<20}{row['bytes_per_parameter']:>14.2f}{row['bytes_per_matrix_entry']:>16.2f}"
            f"{row['step_ms']:>10.2f}{row['renewing_step_ms']:>13.2f}{row['amortized']:>11.1%}{row['loss']:>8.3f}"
            f"{'' if row['calls'] is None else row['calls']:>7}"
        )
    for name, why in absent.items():
        print(f"{name} was not measured: {why}")
    least = floor(SIZES[options.size], device)
    print("floor: " + ", ".join(f"{name} {value:.2f}" for name, value in least.items()))
    if options.json:
        name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
        machine = {"machine": name, "threads": options.threads, "torch": torch.__version__}
        settings = {"size": options.size, "steps": options.steps, "absent": absent}
        found = {"what": "optimizers", **machine, **settings, "floor": least, "rows": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
