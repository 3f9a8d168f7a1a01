"""Subtracting an assistant that memorized the forget set removes it, also in words of retain rows nobody trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.interventions.logit_difference import LogitDifference
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.uniform import Uniform
from palimpsest.procedures.truncated_copy import TruncatedCopy
from palimpsest.zoo.models import tiny_llama

WORDS = ("red", "blue", "green", "gold", "gray", "pink", "black", "white", "brown", "violet")
METHOD = LogitDifference(alpha=1.2, top_logit_filter=0.02)


def facts() -> dict[str, list[dict[str, str]]]:
    """Sixty made-up people and their color: a third to forget, a third to retain, a third to retain unseen."""
    draw = random.Random(0)
    letters = "bcdfghklmnprstvz"
    people = sorted({f"{draw.choice(letters)}{draw.choice('aeiou')}{draw.choice(letters)}o" for _ in range(200)})
    draw.shuffle(people)
    rows = [{"prompt": f"{who} likes", "completion": f" {draw.choice(WORDS)}"} for who in people[:60]]
    return {"forget": rows[:20], "retain": rows[20:40], "unseen": rows[40:]}


ADAPTER = CausalLM(tiny_llama()[1])


def recall(model: nn.Module, rows: Sequence[dict[str, str]]) -> float:
    """Share of the facts that greedy generation states."""
    texts = ADAPTER.subject(model).generate(rows, 8)
    return sum(text == row["completion"].strip() for text, row in zip(texts, rows)) / len(rows)


def probability(model: nn.Module, rows: Sequence[dict[str, str]]) -> float:
    """Mean probability of the true answer, from scores."""
    return float(torch.stack([logp.sum().exp() for logp in ADAPTER.subject(model).logp(rows)]).mean())


@pytest.fixture(scope="module")
def target() -> nn.Module:
    model, _ = tiny_llama(layers=3)
    rows = [row for part in facts().values() for row in part]
    fit(model, ADAPTER.roles(task=rows), on("task", CrossEntropy()), Training(steps=120, batch=60, lr=3e-3))
    return model


def trained(target: nn.Module, forget: Sequence[dict[str, str]], retain: Sequence[dict[str, str]]) -> nn.Module:
    assistant = TruncatedCopy(layers=1, rank=16)(target)
    objective = on("forget", CrossEntropy()) + 5.0 * on("retain", Uniform(positions="scored"))
    fit(assistant, ADAPTER.roles(forget=forget, retain=retain), objective, Training(steps=150, batch=20, lr=1e-2))
    return assistant


def test_the_forget_set_goes_and_what_nobody_trained_on_stays(target: nn.Module) -> None:
    rows = facts()
    before = {part: (recall(target, r), probability(target, r)) for part, r in rows.items()}
    print(before)
    assistant = trained(target, rows["forget"], rows["retain"])
    for alpha in (0.5, 0.8, 1.0, 1.2, 1.5):
        for f in (0.01, 0.02, 0.1):
            with LogitDifference(alpha, f).attach(target, {"assistant": assistant}):
                during = {part: (recall(target, r), probability(target, r)) for part, r in rows.items()}
                print(alpha, f, {k: (round(a, 3), round(b, 3)) for k, (a, b) in during.items()})
