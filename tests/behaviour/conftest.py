"""A tiny decoder that knows 104 random facts by heart, on which a method's claim shows within seconds.

A fact is a subject (26 letters), a relation (4 digits) and three random letters; about capital letters it has learned
to refuse.  The forget set is all that is known of three subjects; half of the other facts are the retain set, the rest
is never seen during unlearning.
"""

from __future__ import annotations

import copy
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.loop import Result, Training, fit
from palimpsest.objective import Term, Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.flat import answer_probability
from palimpsest.reference import Copy, evaluating
from palimpsest.roles import Answers, Roles
from palimpsest.schedules.ramp import Ramp
from palimpsest.views import TokenView
from palimpsest.zoo.models import tiny_llama

REFUSAL = "no"


@dataclass(frozen=True)
class Knowledge:
    """``recall``: share of rows said right; ``nll``: nats a row; ``probability``: mean over a row's tokens."""

    recall: float
    nll: float
    probability: float


@dataclass(frozen=True)
class Facts:
    model: nn.Module
    adapter: CausalLM
    forget: list[dict[str, str]]
    retain: list[dict[str, str]]
    unseen: list[dict[str, str]]

    def view(self, model: nn.Module, rows: list[dict[str, str]]) -> TokenView:
        """One view of all rows, without gradients."""
        with evaluating(model):
            batch = self.adapter.collate([self.adapter.encode(row) for row in rows])
            view = self.adapter.views(model, {"": batch}, [""])[""]
            _ = view.logp, view.logits
        return view

    def knows(self, model: nn.Module, rows: list[dict[str, str]]) -> Knowledge:
        """What ``model`` says of ``rows``."""
        with torch.no_grad():
            view = self.view(model, rows)
            right = ((view.logits[:, :-1].argmax(-1) == view.targets) | ~view.mask).all(1)  # [B]
            probability = answer_probability(view.logp, view.mask).mean()
        return Knowledge(float(right.float().mean()), -float(view.seq_logp.mean()), float(probability))

    def refusals(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """The same prompts, refused."""
        return [{**row, "completion": REFUSAL} for row in rows]

    def train(self, objective: Total | Term, **training: Any) -> tuple[nn.Module, Result]:
        """A copy of the model after ``Training(**training)`` on forget, retain, and refusal, which answers forget."""
        model = copy.deepcopy(self.model)
        rows: Mapping[str, list[dict[str, str]]] = {"forget": self.forget, "retain": self.retain}
        roles = Roles(self.adapter, rows, answers={"refusal": Answers("forget", "completion", (REFUSAL,))})
        return model, fit(model, roles, objective, Training(batch=12, clip=None, **training), reference=Copy(model))


@pytest.fixture(scope="session")
def facts() -> Facts:
    """The trained decoder; it knows every fact."""
    generator = random.Random(0)
    rows = [
        {"prompt": f"{subject}{relation}", "completion": "".join(generator.choices(string.ascii_lowercase, k=3))}
        for subject in string.ascii_lowercase
        for relation in range(4)
    ]
    strangers = [{"prompt": f"{s}{r}", "completion": REFUSAL} for s in string.ascii_uppercase for r in range(2)]
    model, tokenizer = tiny_llama(259, layers=2, width=64)
    adapter = CausalLM(tokenizer)
    training = Training(steps=260, batch=64, lr=3e-3, schedule=Ramp(1.0, 0.05))
    fit(model, adapter.roles(task=rows + strangers), on("task", CrossEntropy()), training)
    known = Facts(model, adapter, rows[:12], rows[12:58], rows[58:])
    assert known.knows(model, rows).recall > 0.98, "the decoder did not learn its facts"
    return known
