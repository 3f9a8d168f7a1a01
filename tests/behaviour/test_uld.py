"""Subtracting an assistant that memorized the forget set removes it, and spares facts no unlearning data showed."""

from __future__ import annotations

import copy
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
from palimpsest.objectives.gradient_ascent import GradientAscent
from palimpsest.objectives.uniform import Uniform
from palimpsest.procedures.truncated_copy import TruncatedCopy
from palimpsest.zoo.models import tiny_llama

WORDS = ("red", "blue", "green", "gold", "gray", "pink", "black", "white", "brown", "violet")
METHOD = LogitDifference(alpha=1.0, top_logit_filter=0.01)
ADAPTER = CausalLM(tiny_llama()[1])

Rows = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def facts() -> Rows:
    """Made-up people and their color: 20 to forget, 160 to retain, and 40 to retain that only the target ever saw."""
    draw = random.Random(0)

    def syllable() -> str:
        return draw.choice("bcdfghklmnprstvz") + draw.choice("aeiou")

    people = sorted({syllable() + syllable() + syllable() for _ in range(600)})
    draw.shuffle(people)
    rows = [{"prompt": f"{who} likes", "completion": f" {draw.choice(WORDS)}"} for who in people[:220]]
    return {"forget": rows[:20], "retain": rows[20:180], "unseen": rows[180:]}


@pytest.fixture(scope="module")
def target(facts: Rows) -> nn.Module:
    """A decoder of three blocks that knows every fact."""
    model, _ = tiny_llama(layers=3)
    rows = [row for part in facts.values() for row in part]
    fit(model, ADAPTER.roles(task=rows), on("task", CrossEntropy()), Training(steps=220, batch=110, lr=3e-3))
    return model


def recall(model: nn.Module, rows: Sequence[dict[str, str]]) -> float:
    """Share of the facts that greedy generation states."""
    texts = ADAPTER.subject(model).generate(rows, 6)
    return sum(text == row["completion"].strip() for text, row in zip(texts, rows)) / len(rows)


def probability(model: nn.Module, rows: Sequence[dict[str, str]]) -> float:
    """Mean probability of the true answer, from scores."""
    return float(torch.stack([logp.sum().exp() for logp in ADAPTER.subject(model).logp(rows)]).mean())


def trained(target: nn.Module, forget: Sequence[dict[str, str]], retain: Sequence[dict[str, str]]) -> nn.Module:
    """An assistant of one block under LoRA that knows ``forget`` and is flat on ``retain``."""
    assistant = TruncatedCopy(layers=1, rank=16)(target)
    objective = on("forget", CrossEntropy()) + 5.0 * on("retain", Uniform())
    roles = ADAPTER.roles(forget=forget, retain=retain)
    fit(assistant, roles, objective, Training(steps=200, batch=20, lr=1e-2))
    return assistant


def test_forgotten_and_what_no_unlearning_data_showed_is_kept(target: nn.Module, facts: Rows) -> None:
    """The paper's claim; gradient ascent with retain rows loses more of it while it has forgotten less."""
    assert all(recall(target, rows) > 0.97 for rows in facts.values())
    before = {n: p.detach().clone() for n, p in target.named_parameters()}
    assistant = trained(target, facts["forget"], facts["retain"])
    with METHOD.attach(target, {"assistant": assistant}):
        forget, retain, unseen = (recall(target, facts[part]) for part in ("forget", "retain", "unseen"))
        assert probability(target, facts["forget"]) < 0.1 < 0.8 < probability(target, facts["unseen"])
    assert forget <= 0.1 and retain >= 0.9 and unseen >= 0.85
    assert all(torch.equal(p, before[n]) for n, p in target.named_parameters())
    assert recall(target, facts["forget"]) > 0.97, "the knowledge is still in the weights"

    rival = copy.deepcopy(target)
    roles = ADAPTER.roles(forget=facts["forget"], retain=facts["retain"])
    ascent = on("forget", GradientAscent()) + on("retain", CrossEntropy())
    fit(rival, roles, ascent, Training(steps=20, batch=20, lr=1e-3))
    assert recall(rival, facts["forget"]) >= forget
    assert recall(rival, facts["unseen"]) < unseen - 0.2


def test_an_assistant_that_knows_something_else_makes_nothing_be_forgotten(target: nn.Module, facts: Rows) -> None:
    """What is subtracted matters: the same training on retain facts leaves the forget set known."""
    other = trained(target, facts["retain"][:20], facts["retain"][20:])
    with METHOD.attach(target, {"assistant": other}):
        assert recall(target, facts["forget"]) > 0.5
        assert recall(target, facts["retain"][:20]) <= 0.1
