"""Pre-trains a small Llama with AdamW, GaLore, Fira, FRUGAL and LOST, and holds their order to that of the papers.

    python bench/pretrain.py [--size tiny|60m] [--seeds 0 1 2] [--rates 3] [--seconds 540] [--json PATH]

The text is the Python source of the standard library and of installed packages, comments and docstrings included;
every 40th file is held out, of the tiny text every fifth.  It is not the papers' C4, and how often it repeats is said.
All start from the same weights of a seed and read the same batches, with a warm-up over a tenth of the steps and a
cosine down to a tenth of the rate.  Rates are chosen on a further seed with a quarter of the steps and half of the
held-out text; the other half is what is reported.  AdamW has one rate for everything; embeddings, head and norms keep
it in all others, which choose that of the matrices from a grid of their own, so that only these differ.  Intervals are
over windows of held-out text and seeds, paired for differences.  Runs are kept in ``--json`` as they end, and the same
command goes on from there, one seed after the other; no run is begun that would not end within ``--seconds``.
``--size tiny`` is a trial of the script, from which nothing follows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from _source_text import Text, prepared
from palimpsest.audit import Scores
from palimpsest.checkpoint import write_json
from palimpsest.layers.lost import LOST
from palimpsest.optim import FRUGAL, Fira, GaLore
from palimpsest.roles import seeded
from palimpsest.schedules.rewarm import Rewarm
from palimpsest.statistics import Interval, bootstrap_over_seeds, paired_bootstrap_over_seeds

Groups = list[dict[str, Any]]
CHOOSING = -1
"""The seed of the runs that choose a rate."""


@dataclass(frozen=True)
class Size:
    """The model, the text it reads, and how long: head and embeddings apart, as in the papers' 60 M."""

    width: int
    inner: int
    layers: int
    vocabulary: int
    batch: int
    length: int
    steps: int
    megabytes: int
    held_out: int  # one file in so many
    windows: int

    @property
    def rank(self) -> int:
        return self.width // 4


SIZES = {
    "tiny": Size(64, 176, 2, 512, batch=8, length=64, steps=40, megabytes=1, held_out=5, windows=32),
    "60m": Size(512, 1376, 8, 32000, batch=64, length=256, steps=400, megabytes=40, held_out=40, windows=256),
}


@dataclass(frozen=True)
class Arm:
    """How the matrices of the layers are moved, and the rate in the middle of their grid."""

    make: Callable[[Groups, Size, int], torch.optim.Optimizer]
    rate: float
    layers: Callable[[Size], LOST] | None = None


def _adamw(groups: Groups, size: Size, gap: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


ARMS: Mapping[str, Arm] = {
    "AdamW": Arm(_adamw, 2e-3),
    "GaLore": Arm(lambda groups, size, gap: GaLore(groups, rank=size.rank, update_gap=gap), 0.01),
    "Fira": Arm(lambda groups, size, gap: Fira(groups, rank=size.rank, update_gap=gap), 0.01),
    "FRUGAL": Arm(lambda groups, size, gap: FRUGAL(groups, density=0.25, update_gap=gap), 2e-3),
    "LOST": Arm(_adamw, 3e-3, lambda size: LOST(rank=size.rank)),
}
CLAIMS = (
    ("AdamW", "GaLore", "GaLore"),
    ("Fira", "GaLore", "Fira"),
    ("Fira", "AdamW", "Fira"),
    ("FRUGAL", "GaLore", "FRUGAL"),
    ("LOST", "AdamW", "LOST"),
)
"""(the lower loss, the higher, whose paper says so at 60 M)."""


# Training


def llama(size: Size, seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, size.width // 64)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=size.length,
        tie_word_embeddings=False,
        use_cache=False,
    )
    torch.manual_seed(seeded("pretrain", seed) % 2**32)
    return LlamaForCausalLM(config).train()


@dataclass(frozen=True)
class Machine:
    device: str
    bfloat16: bool

    def nll(self, model: nn.Module, windows: Tensor) -> Tensor:
        """Nats a token of each window, [B]."""
        with torch.autocast(self.device, torch.bfloat16) if self.bfloat16 else nullcontext():
            logits = model(input_ids=windows[:, :-1]).logits
        losses = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
        return losses.view(len(windows), -1).mean(1)

    def clock(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def batches(text: Text, size: Size, steps: int, seed: int) -> Iterator[Tensor]:
    """Windows [B, T + 1]; each is read once before any is read again."""
    place = 0
    for round_ in itertools.count():
        order = torch.randperm(len(text.read), generator=torch.Generator().manual_seed(seeded("read", seed, round_)))
        for first in range(0, len(order) - size.batch + 1, size.batch):
            if place == steps:
                return
            place += 1
            yield text.read[order[first : first + size.batch]]


def parts(model: nn.Module, rate: float, rest: float) -> Groups:
    """The matrices of the layers with one rate, everything else with another."""
    named = list(model.named_parameters())
    inside = [(n, p) for n, p in named if "layers" in n and p.ndim == 2]
    outside = [(n, p) for n, p in named if not ("layers" in n and p.ndim == 2)]
    return [{"params": inside, "lr": rate}, {"params": outside, "lr": rest}]


@dataclass(frozen=True)
class Run:
    """What is to be done: ``rate`` is that of the matrices, ``rest`` that of everything else."""

    arm: str
    rate: float
    rest: float
    steps: int
    seed: int


def train(run: Run, text: Text, size: Size, machine: Machine, limit: float) -> dict[str, Any]:
    """Its curve, its loss on each held-out window, what it took.  ``limit`` is in seconds."""
    arm, steps = ARMS[run.arm], run.steps
    model = llama(size, run.seed).to(machine.device)
    if arm.layers is not None:
        arm.layers(size).install(model)
    optimizer = arm.make(parts(model, run.rate, run.rest), size, max(1, min(200, steps // 10)))
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule, curve = Rewarm(0.1, 0.1), []
    start = machine.clock()
    for step, windows in enumerate(batches(text, size, steps, run.seed)):
        loss = machine.nll(model, windows.to(machine.device)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * schedule((step + 1) / steps)
        optimizer.step()
        if step % max(1, steps // 40) == 0 or step + 1 == steps:
            curve.append((step, float(loss.detach())))
            if time.perf_counter() - start > limit or not math.isfinite(curve[-1][1]):
                return {"stopped_after": step + 1, "curve": [p for p in curve if math.isfinite(p[1])]}
    seconds = machine.clock() - start
    held = text.choosing if run.seed == CHOOSING else text.reported
    model.eval()
    with torch.no_grad():
        losses = torch.cat([machine.nll(model, part.to(machine.device)).cpu() for part in held.split(size.batch)])
    return {
        "loss": float(losses.mean()),
        "losses": [round(v, 5) for v in losses.tolist()],
        "curve": curve,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "state_bytes": sum(v.nbytes for state in optimizer.state.values() for v in state.values()),
    }


# What is kept and said


class Kept:
    """The runs so far, in memory and in a file; those of other settings are refused."""

    def __init__(self, file: Path | None, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, dict(settings)
        self.runs: list[dict[str, Any]] = []
        if file is not None and file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            other = [k for k, v in self.settings.items() if found.get(k) != v]
            if other:
                raise SystemExit(
                    f"{file} holds runs with another {other[0]} ({found.get(other[0])}); name another file."
                )
            self.runs = found["runs"]

    def find(self, run: Run) -> dict[str, Any] | None:
        wanted = asdict(run)
        return next((r for r in self.runs if all(r[k] == v for k, v in wanted.items())), None)

    def add(self, found: dict[str, Any], report: Mapping[str, Any]) -> None:
        self.runs.append(found)
        self.write(report)

    def write(self, report: Mapping[str, Any]) -> None:
        if self.file is not None:
            write_json(self.file, {"what": "pretrain", **self.settings, **report, "runs": self.runs})


def scores(runs: Sequence[Mapping[str, Any]], arm: str, seeds: Sequence[int]) -> list[Scores]:
    """The losses of an arm's windows, a seed after the other."""
    own = {r["seed"]: r for r in runs if r["arm"] == arm and r["seed"] in seeds and "losses" in r}
    items = [torch.tensor(own[s]["losses"]) for s in seeds if s in own]
    return [Scores("loss", v, tuple(map(str, range(len(v)))), better="lower") for v in items]


def spoken(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def summary(runs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """A row for each arm, from the lowest loss to the highest, and what the papers say beside what was measured."""
    rows = []
    for arm in ARMS:
        own = [r for r in runs if r["arm"] == arm and r["seed"] in seeds and "losses" in r]
        if not own:
            continue
        loss = bootstrap_over_seeds(scores(runs, arm, seeds))
        row = {"optimizer": arm, "rate": own[0]["rate"], "loss": loss.value, "low": loss.low, "high": loss.high}
        tried = [r["rate"] for r in runs if r["arm"] == arm and r["seed"] == CHOOSING]
        row |= {"at_the_edge_of_its_grid": len(tried) > 1 and own[0]["rate"] in (min(tried), max(tried))}
        row |= {"seeds": len(own), "seconds": sum(r["seconds"] for r in own) / len(own)}
        row |= {"parameters": own[0]["parameters"], "state_bytes": own[0]["state_bytes"]}
        rows.append(row)
    rows.sort(key=lambda row: row["loss"])
    said = {}
    for low, high, paper in CLAIMS:
        both = [
            s
            for s in seeds
            if all(any(r["arm"] == a and r["seed"] == s and "losses" in r for r in runs) for a in (low, high))
        ]
        if both:
            change = paired_bootstrap_over_seeds(scores(runs, low, both), scores(runs, high, both))
            verdict = "shown" if change.low > 0 else "the opposite" if change.high < 0 else "not shown"
            said[f"{low} below {high} ({paper})"] = f"{verdict}: {spoken(change)} nats over {len(both)} seeds"
    return {"rows": rows, "order": " < ".join(row["optimizer"] for row in rows), "papers": said}


def grid(rate: float, number: int) -> list[float]:
    """``number`` rates from a third of ``rate`` to three times as much, evenly apart as factors."""
    return [rate * 3.0 ** (2 * i / (number - 1) - 1) for i in range(number)] if number > 1 else [rate]


@dataclass
class Plan:
    """Does the runs that are not kept yet, as long as there is time."""

    text: Text
    size: Size
    machine: Machine
    kept: Kept
    seeds: Sequence[int]
    seconds: float
    run_seconds: float
    start: float
    pace: dict[str, float] = field(default_factory=dict)  # seconds a step of each one's last run
    missed: list[str] = field(default_factory=list)

    def loss(self, run: Run) -> float:
        """The held-out loss of a run, kept or new; infinite where it did not end or there is no time for it."""
        found = self.kept.find(run)
        left = self.seconds - (time.perf_counter() - self.start)
        if found is None and left < max(1.0, 1.2 * self.pace.get(run.arm, 0.0) * run.steps):
            self.missed.append(f"{run.arm} at {run.rate:g} with seed {run.seed}")
        elif found is None:
            found = self._new(run, min(left, self.run_seconds))
        return math.inf if found is None else float(found.get("loss", math.inf))

    def _new(self, run: Run, limit: float) -> dict[str, Any]:
        begun = time.perf_counter()
        found = {**asdict(run), **train(run, self.text, self.size, self.machine, limit)}
        self.pace[run.arm] = (time.perf_counter() - begun) / found.get("stopped_after", run.steps)
        self.kept.add(found, summary([*self.kept.runs, found], self.seeds))
        end = f"loss {found['loss']:.4f}" if "loss" in found else f"stopped after {found['stopped_after']} steps"
        print(f"{run.arm:<8} rate {run.rate:<8.4g} seed {run.seed:>2}  {run.steps} steps  {end}", flush=True)
        return found

    def all(self, rates: int) -> None:
        """Rates first, AdamW's before the others', then a seed after the other."""
        chosen: dict[str, float] = {}
        for name, arm in ARMS.items():
            tried = grid(arm.rate, rates)
            steps = self.size.steps // 4
            found = {r: self.loss(Run(name, r, chosen.get("AdamW", r), steps, CHOOSING)) for r in tried if rates > 1}
            ended = {r: loss for r, loss in found.items() if math.isfinite(loss)}
            chosen[name] = min(ended, key=ended.__getitem__, default=arm.rate)
            if self.missed:  # a rate that is not known to be the best yet is not used
                return
        for seed in self.seeds:
            for name in ARMS:
                self.loss(Run(name, chosen[name], chosen["AdamW"], self.size.steps, seed))


def main() -> None:
    """Runs, prints and keeps."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="60m" if device == "cuda" else "tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=int, default=3, help="how many rates each has to choose from; 1: its paper's")
    parser.add_argument("--steps", type=int, help="of a run; those that choose a rate have a quarter")
    parser.add_argument("--seconds", type=float, default=540, help="for all runs together")
    parser.add_argument("--run-seconds", type=float, default=120, help="for one run; one that takes longer is cut off")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast (the default without CUDA)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="where runs are kept as they end")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.threads:
        torch.set_num_threads(options.threads)
    size = SIZES[options.size]
    size = replace(size, steps=options.steps or size.steps)
    machine = Machine(device, device == "cuda" and not options.float32)
    text = prepared(size.megabytes, size.held_out, size.vocabulary, size.length, size.windows)
    tokens, read = text.read[:, 1:].numel(), size.steps * size.batch * size.length
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    settings = {"size": options.size, "steps": size.steps, "batch": size.batch, "length": size.length}
    settings |= {"precision": "bfloat16 autocast" if machine.bfloat16 else "float32", "text": text.digest}
    settings |= {"tokens_of_text": tokens, "tokens_read": read, "times_read": read / tokens, "rates": options.rates}
    settings |= {"machine": name, "torch": torch.__version__}
    print(f"Text: Python source of the standard library and packages, {tokens:,} tokens; each run reads {read:,}, ")
    print(f"so every token {read / tokens:.2f} times. Ready after {time.perf_counter() - start:.0f} s on {name}.")
    kept = Kept(options.json, settings)
    plan = Plan(text, size, machine, kept, options.seeds, options.seconds, options.run_seconds, start)
    plan.all(options.rates)
    found = summary(kept.runs, options.seeds)
    kept.write(found)
    header = f"{'optimizer':<10}{'rate':>9}{'held-out loss, nats a token':>30}{'seeds':>7}{'seconds':>9}"
    print(f"\n{header}{'state B/param':>15}")
    for row in found["rows"]:
        interval = spoken(Interval(row["loss"], row["low"], row["high"]))
        state = row["state_bytes"] / row["parameters"]
        figures = f"{row['rate']:>9.4g}{interval:>30}{row['seeds']:>7}{row['seconds']:>9.1f}{state:>15.2f}"
        print(f"{row['optimizer']:<10}{figures}")
    print(f"\nOrder: {found['order']}")
    for claim, verdict in found["papers"].items():
        print(f"{claim}: {verdict}")
    edges = [row["optimizer"] for row in found["rows"] if row["at_the_edge_of_its_grid"]]
    if edges:
        print(f"At the edge of their grids, so that another rate may be better: {', '.join(edges)}.")
    if plan.missed:
        print(f"No time for {', '.join(plan.missed)} and what comes after; the same command with --json goes on.")


if __name__ == "__main__":
    main()
