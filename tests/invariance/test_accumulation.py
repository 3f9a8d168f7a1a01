"""The split of a batch over micro-batches does not change the weights: 8 x 1, 4 x 2 and 2 x 4 rows agree."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Result, Training, fit
from palimpsest.mask import Mask
from palimpsest.objective import Objective, Total, evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.npo import NPO
from palimpsest.reference import Copy
from palimpsest.roles import Answers, Roles
from palimpsest.schedules.ramp import Ramp
from palimpsest.views import ParameterView, TokenView, Unit
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama

STEPS = 4


@dataclass(frozen=True)
class Prefer(Objective):
    """Pairs: the second role's answer above the first one's."""

    unit: ClassVar[Unit] = "pair"
    arity: ClassVar[int] = 2

    def __call__(self, view: tuple[TokenView, TokenView], state: nn.Module | None = None) -> Tensor:
        return F.softplus(0.1 * (view[0].seq_logp - view[1].seq_logp))  # [B]


@dataclass(frozen=True)
class StayNear(Objective):
    """Parameters: half the squared distance to where training started."""

    unit: ClassVar[Unit] = "parameter"

    def prepare(self, model: nn.Module, roles: Roles, role: str, previous: object = None) -> nn.Module:
        return nn.ParameterList([p.detach().clone().requires_grad_(False) for p in model.parameters()])

    def __call__(self, view: ParameterView, state: nn.Module | None = None) -> Tensor:
        pairs = zip(view.parameters.values(), state.parameters())  # type: ignore[union-attr]
        return torch.stack([(own - start).square().sum() for own, start in pairs]).sum() / 2


def gpt2() -> nn.Module:
    """GPT-2 computes in the precision of its weights throughout, float64 too; Llama's norms are always float32."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 256}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).double()


@pytest.fixture(scope="module")
def roles() -> Roles:
    """Rows from 10 to 120 tokens, so that a micro-batch's share of tokens is far from its share of rows."""
    rows = [
        {"prompt": r["text"][:20], "completion": r["text"][20 : 30 + 17 * i]}
        for i, r in enumerate(articles(20, seed=0))
    ]
    answers = {
        "refusal": Answers("forget", "completion", (" I do not know.", " That is not something that I can tell you."))
    }
    return Roles(CausalLM(tiny_llama()[1]), {"forget": rows[::2], "retain": rows[1::2]}, answers=answers)


def objective() -> Total:
    """All units, and weights that change during training."""
    return (
        Ramp(1.0, 0.2) * on("forget", NPO(beta=0.5))
        + on("retain", CrossEntropy())
        + Ramp(0.0, 2.0) * on(("forget", "refusal"), Prefer())
        + Ramp(0.1, 0.3) * on("weights", StayNear())
    )


def train(roles: Roles, accumulation: int) -> tuple[Tensor, Result]:
    """The weights after a few steps, as one vector."""
    model = gpt2()
    training = Training(steps=STEPS, batch=8, accumulation=accumulation, lr=0.05, clip=None, optimizer="sgd")
    result = fit(model, roles, objective(), training, reference=Copy(model))
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach(), result


@pytest.fixture(scope="module")
def whole(roles: Roles) -> tuple[Tensor, Result]:
    return train(roles, 1)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_weights_curves_and_tokens_do_not_depend_on_the_split(
    roles: Roles, whole: tuple[Tensor, Result], accumulation: int
) -> None:
    weights, result = train(roles, accumulation)
    torch.testing.assert_close(weights, whole[0], rtol=1e-12, atol=1e-12)
    assert result.tokens == whole[1].tokens
    for name, points in whole[1].curves.items():
        assert [v for _, v in result.curves[name]] == pytest.approx([v for _, v in points], rel=1e-11, abs=1e-12)
    assert set(result.curves) == {"forget/npo", "retain/cross_entropy", *(t.name for t in objective().terms[2:])}


def test_every_term_matters(roles: Roles, whole: tuple[Tensor, Result]) -> None:
    """An agreement of terms that are zero would prove nothing."""
    for name, points in whole[1].curves.items():
        assert abs(points[-1][1]) > 1e-4, name


def by_hand(roles: Roles, accumulation: int, naive: bool) -> Tensor:
    """One plain SGD step along a window's gradient; ``naive`` averages micro-batches, each divided by its own items."""
    model = gpt2()
    reference, total = Copy(model), objective()
    states = {t.name: t.objective.prepare(model, roles, t.role[0]) for t in total.terms}
    batches = roles.window(0, 8, seed=0, accumulation=accumulation, roles=total.roles)
    tokens = sum(roles.adapter.count(b["retain"], "token") for b in batches)
    counts = {("forget", "sequence"): 8, ("retain", "token"): tokens, ("forget", "pair"): 8}
    for batch in batches:
        given = None if naive else counts
        share = 1 / accumulation
        found = evaluate(
            total,
            model,
            batch,
            reference=reference,
            counts=given,
            states=states,
            share=1.0 if naive else share,
            progress=0.5,
        )
        (found.total * (share if naive else 1.0)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_mean_of_micro_batch_means_is_wrong_by_more_than_a_thousandth(roles: Roles) -> None:
    exact = by_hand(roles, 1, naive=False)
    torch.testing.assert_close(by_hand(roles, 4, naive=False), exact, rtol=1e-12, atol=1e-12)
    off = float((by_hand(roles, 4, naive=True) - exact).norm() / exact.norm())
    assert off > 1e-3


def test_a_batch_that_cannot_be_split_evenly_is_refused(roles: Roles) -> None:
    with pytest.raises(ValueError, match="cannot be split into 3 equal micro-batches"):
        Training(steps=1, batch=8, accumulation=3)
    with pytest.raises(ValueError, match="choose a multiple of 6"):
        roles.window(0, 8, seed=0, world=3, accumulation=2)


@pytest.mark.parametrize("loop", [fit, fit_with_trainer])
def test_statistics_of_a_batch_are_not_taken_of_its_parts(loop: Callable[..., Result]) -> None:
    """Unless the layer is held still, and so takes none."""
    rows = [{"inputs": [float(i % 5), float(i % 3)], "label": i % 2} for i in range(16)]
    roles, term = Classifier(2).roles(task=rows), on("task", CrossEntropy())
    training = Training(steps=2, batch=8, accumulation=2, lr=0.1, optimizer="sgd")
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    start = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError,
        match=r"The module '1' \(BatchNorm1d\) normalizes over the rows .* take apart; set train\.accumulation to 1\.",
    ):
        loop(model, roles, term, training)
    assert all(torch.equal(v, start[n]) for n, v in model.state_dict().items())
    moves = {n: torch.full(p.shape, not n.startswith("1")) for n, p in model.named_parameters()}
    mask, ends = Mask(moves, still=frozenset({"1"})), []
    for accumulation in (1, 2):
        own = copy.deepcopy(model)
        loop(own, roles, term, dataclasses.replace(training, accumulation=accumulation), mask=mask)
        ends.append(torch.nn.utils.parameters_to_vector(own.parameters()).detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ends[0], torch.nn.utils.parameters_to_vector(model.parameters()).detach())


def test_which_items_a_step_sees_depends_on_neither_split_nor_processes(roles: Roles) -> None:
    def seen(world: int, accumulation: int, pick: Callable[[Tensor], list[int]] = Tensor.tolist) -> list[int]:
        windows = [roles.window(3, 8, seed=1, rank=r, world=world, accumulation=accumulation) for r in range(world)]
        return sorted(i for w in windows for b in w for i in pick(b["forget"]["index"]))

    assert seen(1, 1) == seen(1, 4) == seen(2, 1) == seen(2, 2) == seen(4, 2)


def test_an_objective_keeps_nothing_between_runs(roles: Roles) -> None:
    """Objectives hold no state of their own: two runs with one objective agree."""
    total, model = objective(), gpt2()
    ends = []
    for start in (model, copy.deepcopy(model)):
        fit(start, roles, total, Training(steps=2, batch=4, lr=0.05, optimizer="sgd"), reference=Copy(start))
        ends.append(torch.nn.utils.parameters_to_vector(start.parameters()))
    assert torch.equal(*ends)
