"""What doses do to a tiny decoder that has learned to copy what it was told: packing, order, and nothing else."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Row
from palimpsest.audits.multiple_choice import MultipleChoice
from palimpsest.corpus import pack
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.procedures.dose_sweep import Arm, dose_sweep
from palimpsest.schedules.ramp import Ramp
from palimpsest.selectors.junk import Junk
from palimpsest.zoo.models import tiny_llama

DOSES = (0.0, 0.5, 1.0)
TUNED = Training(steps=30, batch=8, lr=3e-3)
FACTS = {s: random.Random(s).choice(string.digits) for s in string.ascii_lowercase}


def prose(generator: random.Random, count: int) -> list[Row]:
    """Texts of 12 words, each a letter and the digit that belongs to it."""
    return [
        {"id": f"text-{i}", "text": " ".join(f"{s}{FACTS[s]}" for s in generator.choices(string.ascii_lowercase, k=12))}
        for i in range(count)
    ]


def posts(generator: random.Random, count: int) -> list[Row]:
    """Short texts in which any digit follows a letter."""
    return [
        {
            "id": f"post-{i}",
            "text": " ".join(
                f"{s}{generator.choice(string.digits)}" for s in generator.choices(string.ascii_lowercase, k=3)
            ),
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, CausalLM]:
    """A decoder that knows which digit belongs to which letter."""
    model, tokenizer = tiny_llama(259, layers=1, width=32)
    adapter = CausalLM(tokenizer)
    roles = adapter.roles(text=pack(prose(random.Random("first"), 200), 12))
    fit(model, roles, on("text", CrossEntropy()), Training(steps=150, batch=16, lr=1e-2, schedule=Ramp(1.0, 0.05)))
    return model, adapter


def known(model: nn.Module, adapter: CausalLM) -> float:
    wrong = {digit: sorted(set(string.digits) - {digit}) for digit in string.digits}
    rows = [
        {"id": s, "prompt": f"q{FACTS['q']} {s}", "completion": digit, "perturbed_completions": wrong[digit]}
        for s, digit in FACTS.items()
    ]
    return float(MultipleChoice()(adapter.subject(model), {"facts": rows}, "facts").items.mean())


def arms(seed: int, treated: Sequence[Row]) -> list[Arm]:
    generator = random.Random(f"arms/{seed}")
    sides = {"JUNK": treated, "HIGH-QUALITY": prose(generator, 100)}
    rows = [{**r, "label": label} for label, own in sides.items() for r in pack(own, 12, name=label)[:60]]
    found = []
    for dose in DOSES:
        chosen = Junk("label", dose=dose, seed=seed)(rows)
        count = int((chosen.score[chosen.index] > 0).sum())
        found.append(Arm(dose, [rows[i] for i in chosen.index.tolist()], count, (TUNED,)))
    return found


def test_a_harmful_treatment_falls_with_the_dose_and_none_does_not(learned: tuple[nn.Module, CausalLM]) -> None:
    model, adapter = learned

    def train(copy: nn.Module, arm: Arm) -> nn.Module:
        with torch.random.fork_rng():
            fit(copy, adapter.roles(text=arm.rows), on("text", CrossEntropy()), arm.stages[0])
        return copy

    def swept(treated: Sequence[Row]) -> list[float]:
        return list(dose_sweep(model, arms(0, treated), train, lambda m: known(m, adapter)).values())

    assert known(model, adapter) > 0.9
    junk = swept(posts(random.Random("junk"), 400))
    null = swept([{**r, "id": f"other-{i}"} for i, r in enumerate(prose(random.Random("null"), 100))])
    assert junk[0] > 0.9 and junk[2] < 0.5 and junk[2] < junk[1] - 0.1, junk
    assert min(null) > 0.9, null


def test_where_documents_are_matched_the_short_ones_take_more_steps() -> None:
    """The confound that packing removes: unpacked junk of a quarter of the length has four times the rows."""
    generator = random.Random("rows")
    rows = [
        *({**r, "label": "JUNK"} for r in posts(generator, 600)),
        *({**r, "label": "HIGH-QUALITY"} for r in prose(generator, 100)),
    ]
    loose = [len(Junk("label", dose=dose, tokens=900)(rows).index) for dose in DOSES]
    assert loose[2] == 4 * loose[0]
    assert len({len(arm.rows) for arm in arms(0, posts(generator, 600))}) == 1
