"""The bench on which the claims about schedules and replay are tested: what its runs share, and what they must not."""

from __future__ import annotations

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.audit import Scores
from palimpsest.claims import wsd_s
from palimpsest.claims._pretraining import NEW, OLD, SCALES, Bench, Scale, averaged
from palimpsest.schedules.rewarm import Rewarm
from palimpsest.zoo.models import tiny_llama

SMALL = Scale(layers=1, width=16, characters=24, batch=4, upstream=6, downstream=4, held_out=8)


@pytest.fixture(scope="module")
def own() -> Bench:
    model, tokenizer = tiny_llama(259, layers=1, width=16)
    return Bench(SMALL, 0, CausalLM(tokenizer), model)


def test_no_passage_is_trained_on_twice_or_measured_too(own: Bench) -> None:
    first, second = own.rows("docstrings", 6), own.rows("docstrings", 4, after=6)
    held_out = own.loss(own.untrained, "docstrings").ids
    ids = [*(row["id"] for row in first), *(row["id"] for row in second), *held_out]
    assert (len(first), len(second), len(held_out)) == (24, 16, 8) and len(set(ids)) == len(ids)


def test_a_run_leaves_its_start_alone_and_sees_every_step(own: Bench) -> None:
    before = {name: value.clone() for name, value in own.untrained.state_dict().items()}
    steps = []
    model = own.trained(
        own.untrained, own.rows("code", 4), Rewarm(0.0), watch=lambda progress, model: steps.append(progress.step)
    )
    assert steps == [1, 2, 3, 4]
    assert all(torch.equal(value, before[name]) for name, value in own.untrained.state_dict().items())
    assert float(own.loss(model, "code").items.mean()) < float(own.loss(own.untrained, "code").items.mean())
    middle = own.halfway(own.untrained, model).state_dict()["model.norm.weight"]
    ends = [m.state_dict()["model.norm.weight"] for m in (own.untrained, model)]
    assert torch.allclose(middle, sum(ends) / 2)


def test_measuring_changes_nothing(own: Bench) -> None:
    rows = own.rows("code", 4)
    seen = own.trained(own.untrained, rows, None, watch=lambda progress, model: own.loss(model, "docstrings"))  # type: ignore[arg-type,func-returns-value]
    plain = own.trained(own.untrained, rows, None)
    assert all(torch.equal(a, b) for a, b in zip(seen.parameters(), plain.parameters()))


def test_both_kinds_of_data_count_the_same() -> None:
    """The mean of losses 2 and 3 is 2.5, whatever the passages are called."""
    old, new = (
        Scores("perplexity", torch.full((4,), value), tuple(f"{name}{i}" for i in range(4)), "lower")
        for name, value in (("o", 2.0), ("n", 3.0))
    )
    assert averaged([old], [new])[0].items.tolist() == [2.5] * 4


def test_replay_adds_no_passage(own: Bench) -> None:
    for share, old in ((0.0, 0), (0.25, 4)):
        stream = own.stream(share)
        assert len(stream) == 16 and sum(row["id"].startswith("code") for row in stream) == old


def test_wsd_takes_as_many_steps_with_its_branches_as_one_run() -> None:
    assert wsd_s.UNIT % 10 == 0 and len(set(wsd_s.PLACES)) == 7
    branches = (wsd_s.UNIT + 2 * wsd_s.UNIT) // 10
    assert (4 * wsd_s.UNIT - branches) + 0.1 * wsd_s.UNIT + 0.1 * 2 * wsd_s.UNIT == 4 * wsd_s.UNIT


@pytest.mark.parametrize("scale", SCALES.values())
def test_every_scale_has_the_passages_it_needs(scale: Scale) -> None:
    from palimpsest.zoo.text import _texts

    there = {p: sum(len(text) // scale.characters for _, text in _texts(p)) for p in (OLD, NEW)}
    assert there[NEW] >= scale.held_out + scale.batch * scale.downstream
    assert there[OLD] >= scale.held_out + scale.batch * max(scale.upstream + scale.downstream, 4 * wsd_s.UNIT)
