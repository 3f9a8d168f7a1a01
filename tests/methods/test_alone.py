"""Losses, optimizers, schedules and layers in a plain PyTorch loop: no roles, no adapter, no recipe."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from palimpsest import names
from palimpsest.layers.lost import LOST
from palimpsest.layers.multi_sample_dropout import MultiSampleDropout
from palimpsest.layers.spherical_output import FactoredOutput, SphericalOutput
from palimpsest.objective import Objective
from palimpsest.objectives.confidence_limited import DirectCoverageOptimization
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.dice import Dice
from palimpsest.objectives.general_pair_weighting import GeneralPairWeighting
from palimpsest.objectives.lse_square import LSESquare
from palimpsest.objectives.multi_similarity import MultiSimilarity
from palimpsest.objectives.reweighted import Reweighted
from palimpsest.objectives.spherical_z import SphericalZ
from palimpsest.objectives.tversky import Tversky
from palimpsest.views import LabelView

LABELS = torch.arange(24) % 3
INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)) + 1.5 * nn.functional.one_hot(LABELS, 6)


class Network(nn.Module):
    """Hidden features and logits of three classes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def view(self) -> LabelView:
        features = torch.tanh(self.body(INPUTS))
        return LabelView({"labels": LABELS}, self.head(features), features)


def learned(model: Network, objective: Objective, steps: int = 40) -> tuple[float, float]:
    """The loss at the start and at the end."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    values = []
    for _ in range(steps):
        loss = objective(model.view()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for module in model.modules():
            if isinstance(module, FactoredOutput):
                module.apply_update()
        values.append(float(loss.detach()))
    return values[0], values[-1]


@pytest.mark.parametrize(
    "objective",
    [
        Dice(),
        Dice("batch"),
        Tversky(misses=0.8),
        LSESquare(),
        SphericalZ(),
        MultiSimilarity(),
        DirectCoverageOptimization(4),
        Reweighted(CrossEntropy(), temperature=0.4),
    ],
    ids=repr,
)
def test_a_loss(objective: Objective) -> None:
    first, last = learned(Network(), objective)
    assert last < 0.8 * first, (first, last)


@pytest.mark.parametrize(
    "weighting", ["contrastive", "triplet", "lifted_structure", "binomial_deviance", "multi_similarity"]
)
def test_weights_of_pairs(weighting: str) -> None:
    """Their value is no loss, so another one tells whether they pull the right way."""
    model = Network()
    before = MultiSimilarity()(model.view()).mean()
    learned(model, GeneralPairWeighting(weighting))  # type: ignore[arg-type]
    assert float(MultiSimilarity()(model.view()).mean().detach()) < 0.8 * float(before.detach())


@pytest.mark.parametrize("layer", [LOST(targets=("body",), sparsity=0.2), MultiSampleDropout(head="head")], ids=repr)
def test_a_layer(layer: LOST | MultiSampleDropout) -> None:
    model = Network()
    layer.install(model)
    first, last = learned(model, CrossEntropy())
    layer.merge(model)
    assert last < 0.8 * first and type(model.body) is type(model.head) is nn.Linear


def test_the_output_layer_that_moves_itself() -> None:
    model = Network()
    layer = SphericalOutput(learning_rate=0.05, head="head")
    layer.install(model)
    before = model.head.dense()
    first, last = learned(model, SphericalZ())
    assert last < 0.8 * first and not torch.equal(model.head.dense(), before)


@pytest.mark.parametrize("name", sorted(names.names("schedules")))
def test_a_schedule(name: str) -> None:
    schedule = names.resolve(name, "schedules")()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = LambdaLR(optimizer, lambda step: schedule(step / 20))
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * schedule(step / 20))
        optimizer.step()
        scheduler.step()


def test_an_optimizer() -> None:
    code = """
        import sys, torch
        from palimpsest.optim import FRUGAL, BAdam, Fira, GaLore

        for make in (FRUGAL, BAdam, lambda p, lr: Fira(p, lr, rank=2), lambda p, lr: GaLore(p, lr, rank=2)):
            torch.manual_seed(0)
            model = torch.nn.ModuleDict({"attn": torch.nn.Linear(6, 8), "head": torch.nn.Linear(8, 1)})
            optimizer = make(model.named_parameters(), lr=0.01)
            x, losses = torch.randn(32, 6), []
            for _ in range(60):
                loss = (model["head"](torch.tanh(model["attn"](x))) - x[:, :1]).square().mean()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                losses.append(float(loss.detach()))
            assert losses[-1] < 0.5 * losses[0], (optimizer, losses[0], losses[-1])
        print([m for m in ("transformers", "palimpsest.recipe", "palimpsest.adapters") if m in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
