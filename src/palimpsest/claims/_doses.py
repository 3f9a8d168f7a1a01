"""A tiny decoder that has read prose, continued on doses of junk, tuned again, and probed.

The prose and the probes are those of ``zoo.probes``: notes to be recalled from the same text, facts of a fixed table,
and sums worked out in two steps.  Every dose has the same number of blocks of the same number of tokens, the same steps
and the same instruction tuning.  All treatments of a seed share their control.  All runs start from one decoder;
seeds change the texts of all arms, the instructions and the order of the data.  The probes are the same.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Audit, Row, Scores
from palimpsest.audits.final_answer import FinalAnswer
from palimpsest.audits.multiple_choice import MultipleChoice
from palimpsest.audits.needle_retrieval import NeedleRetrieval
from palimpsest.claim import Budget, Figure
from palimpsest.claims._evidence import figure
from palimpsest.dose_response import DoseResponse, dose_response, slope
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.dose_sweep import Arm, dose_sweep
from palimpsest.resample import Array
from palimpsest.schedules.cosine import Cosine
from palimpsest.schedules.ramp import Ramp
from palimpsest.selectors.junk import Junk
from palimpsest.statistics import Interval, combined_bootstrap, hedges_g_of_groups
from palimpsest.zoo import probes
from palimpsest.zoo.models import word_llama

__all__ = [
    "DOSES",
    "ENDS",
    "PROBES",
    "SIZES",
    "Study",
    "curve",
    "effect",
    "other",
    "points",
    "slope_difference",
    "sweep",
]

DOSES = (0.0, 0.2, 0.5, 0.8, 1.0)
PROBES = ("recalled notes", "known facts", "right sums")
ENDS = (0.0, 0.5, 1.0)
"""The doses of the two treatments that test the instrument."""
FIRST = 0
"""The seed of the decoder's first training, which all runs share, as the paper's runs share their models."""
Other = Literal["tuning alone", "healed by control text", "healed by tuning"]
Probed = Mapping[str, Scores]
"""What the three probes say of one model."""


@dataclass(frozen=True)
class Study:
    """The decoder and how long it is trained: on prose first, on ``blocks`` blocks of a dose, and on instructions."""

    layers: int
    width: int
    texts: int
    first: Training
    blocks: int
    junk: Training
    tuning: Training
    asked: int
    words: int = 120
    context: int = 80

    @property
    def stages(self) -> tuple[Training, Training]:
        """What follows the decoder's first training."""
        return self.junk, self.tuning

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """What the evidence says of it."""
        return {
            "tokens of a dose": self.blocks * self.words,
            "steps of first training": self.first.steps or 0,
            "steps on a dose": self.junk.steps or 0,
            "steps of tuning": self.tuning.steps or 0,
            "learning rate on a dose": self.junk.lr,
            "context of a note, in words": self.context,
        }


_DECAY = Cosine(0.0)
SIZES: Mapping[Budget, Study] = {
    "cpu": Study(
        layers=2,
        width=64,
        texts=400,
        first=Training(steps=260, batch=16, lr=6e-3, warmup=0.05, schedule=Ramp(1.0, 0.05)),
        blocks=50,
        junk=Training(steps=20, batch=8, lr=3e-3, warmup=0.1, schedule=_DECAY),
        tuning=Training(steps=8, batch=8, lr=1e-3, warmup=0.1, schedule=_DECAY),
        asked=96,
    ),
    "gpu": Study(
        layers=4,
        width=128,
        texts=4000,
        first=Training(steps=4000, batch=32, lr=2e-3, warmup=0.05, schedule=Ramp(1.0, 0.05)),
        blocks=400,
        junk=Training(steps=150, batch=8, lr=1e-3, warmup=0.1, schedule=_DECAY),
        tuning=Training(steps=40, batch=8, lr=5e-4, warmup=0.1, schedule=_DECAY),
        asked=400,
    ),
}
"""On a dose: three rounds, as in the paper, at half of the rate of the first training."""


@dataclass(frozen=True)
class Decoder:
    """A decoder that has read prose; never change its model."""

    model: nn.Module
    adapter: CausalLM

    def trained(self, model: nn.Module, rows: Sequence[Row], training: Training, seed: int) -> nn.Module:
        """``model`` itself, trained on the rows."""
        fit(model, self.adapter.roles(text=rows), on("text", CrossEntropy()), training, seed=seed)
        return model

    def probed(self, model: nn.Module, study: Study) -> Probed:
        """The three probes, by name."""
        subject = self.adapter.subject(model)
        asked: dict[str, tuple[Audit, list[Row]]] = {
            "recalled notes": (NeedleRetrieval(2), probes.needles(study.asked, words=study.context)),
            "known facts": (MultipleChoice(), probes.facts(probes.FACTS)),
            "right sums": (FinalAnswer(max_new_tokens=18), probes.sums(probes.SUMS)),
        }
        return {name: audit(subject, {"probe": rows}, "probe") for name, (audit, rows) in asked.items()}


def _tuning_rows(study: Study, seed: int, times: int = 1) -> list[Row]:
    return probes.tuning((study.tuning.steps or 1) * study.tuning.batch * times, seed=seed)


@cache
def decoder(study: Study, seed: int, device: torch.device) -> Decoder:
    """A decoder trained from scratch on prose and instructions, once a process."""
    model, tokenizer = word_llama(study.layers, study.width, seed=seed)
    made = Decoder(model.to(device), CausalLM(tokenizer, max_length=256))
    rows = probes.base(study.texts, words=study.words, seed=seed)
    made.trained(made.model, [*rows, *probes.tuning(study.texts // 4, seed=1000 + seed)], study.first, seed)
    return made


@cache
def _arms(study: Study, kind: probes.Arms, seed: int, doses: tuple[float, ...]) -> list[Arm]:
    """Doses of a treatment, filled up with the blocks that are the control of all treatments."""
    size = study.blocks
    treated = probes.arms(kind, size, words=study.words, seed=seed)[:size]
    control = probes.arms("engagement", size, words=study.words, seed=seed)[size:]
    rows = [*treated, *control]
    found = []
    for dose in doses:
        chosen = Junk("label", dose=dose, seed=seed)(rows)
        count = int((chosen.score[chosen.index] > 0).sum())
        found.append(Arm(dose, [rows[i] for i in chosen.index.tolist()], count, study.stages))
    return found


def _after(study: Study, seed: int, device: torch.device, texts: Sequence[Sequence[Row]], times: int = 1) -> nn.Module:
    """The decoder continued on each of ``texts`` in turn, and tuned ``times`` as long as usual."""
    start = decoder(study, FIRST, device)
    model = copy.deepcopy(start.model)
    for rows in texts:
        start.trained(model, rows, study.junk, seed)
    tuning = dataclasses.replace(study.tuning, steps=times * (study.tuning.steps or 1))
    return start.trained(model, _tuning_rows(study, seed, times), tuning, seed)


@cache
def _control(study: Study, seed: int, device: torch.device) -> nn.Module:
    """Dose 0, which is the same for all treatments."""
    return _after(study, seed, device, [_arms(study, "engagement", seed, (0.0,))[0].rows])


@cache
def sweep(
    study: Study, kind: probes.Arms, seed: int, device: torch.device, doses: tuple[float, ...] = DOSES
) -> dict[float, Probed]:
    """The probes of every dose of a treatment."""
    start = decoder(study, FIRST, device)

    def train(_: nn.Module, arm: Arm) -> nn.Module:
        return _after(study, seed, device, [arm.rows]) if arm.dose else _control(study, seed, device)

    return dose_sweep(start.model, _arms(study, kind, seed, doses), train, lambda m: start.probed(m, study))


@cache
def other(study: Study, which: Other, seed: int, device: torch.device) -> Probed:
    """The probes of a decoder that was only tuned, or that read nothing but junk by engagement and was healed."""
    control, junk = (arm.rows for arm in _arms(study, "engagement", seed, (0.0, 1.0)))
    texts = {"tuning alone": [], "healed by control text": [junk, control], "healed by tuning": [junk]}[which]
    model = _after(study, seed, device, texts, times=4 if which == "healed by tuning" else 1)
    return decoder(study, FIRST, device).probed(model, study)


def curve(
    study: Study,
    kind: probes.Arms,
    probe: str,
    seeds: Sequence[int],
    device: torch.device,
    doses: tuple[float, ...] = DOSES,
) -> DoseResponse:
    """How one probe follows the dose of a treatment, over items and seeds."""
    runs = [sweep(study, kind, seed, device, doses) for seed in seeds]
    return dose_response(doses, [[run[dose][probe] for run in runs] for dose in doses])


def slope_difference(
    study: Study, kinds: tuple[probes.Arms, probes.Arms], probe: str, seeds: Sequence[int], device: torch.device
) -> Interval:
    """The slope of a probe in the first treatment minus that in the second, over items and seeds."""
    runs = [[sweep(study, kind, seed, device) for seed in seeds] for kind in kinds]
    arms = [[run[dose][probe] for run in own] for own in runs for dose in DOSES]

    def difference(*figures: Array) -> Array:
        first, second = figures[: len(DOSES)], figures[len(DOSES) :]
        return slope(DOSES, np.stack(first, -1)) - slope(DOSES, np.stack(second, -1))

    return combined_bootstrap(arms, difference)


def effect(study: Study, kind: probes.Arms, probe: str, seeds: Sequence[int], device: torch.device) -> Interval:
    """Hedges' g of dose 1 against dose 0, each seed's figure being one value; above 0 where the dose takes away.

    Undefined (nan) for a single seed, and where no figure varies.
    """
    runs = [sweep(study, kind, seed, device, ENDS if kind in ("shuffled", "halves") else DOSES) for seed in seeds]
    control, treated = ([float(run[dose][probe].items.mean()) for run in runs] for dose in (0.0, 1.0))
    try:
        return hedges_g_of_groups(control, treated)
    except ValueError:
        return Interval(math.nan, math.nan, math.nan)


def points(name: str, found: DoseResponse, g: Interval) -> list[Figure]:
    """The figures of a curve, its rank correlation with the dose, and Hedges' g of its ends where that is defined."""
    shown = [figure(f"{name}, dose {dose:g}", interval) for dose, interval in zip(found.doses, found.figures)]
    shown.append(figure(f"{name}, rank correlation with the dose", found.spearman))
    return shown if math.isnan(g.value) else [*shown, figure(f"{name}, Hedges' g of dose 1 against 0", g)]
