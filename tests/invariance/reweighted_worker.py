"""One process of the test of ``Reweighted``: rank, world, a file to meet at, and a file to write the weights to."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.reweighted import Reweighted

TRAINING = Training(steps=4, batch=8, lr=0.5, optimizer="sgd")


def trained(strategy, ddp=False):
    """A classifier on 24 points that differ much in how hard they are, and the values of its loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    points = torch.randn(24, 3, dtype=torch.float64) * torch.linspace(0.1, 4, 24, dtype=torch.float64)[:, None]
    rows = [{"inputs": point, "label": i % 3} for i, point in enumerate(points)]
    objective = CrossEntropy() if strategy == "none" else Reweighted(CrossEntropy(), strategy, 0.2, burn_in=1)
    whole = nn.parallel.DistributedDataParallel(model) if ddp else model
    result = fit(whole, Classifier(3).roles(task=rows), on("task", objective), TRAINING)
    (curve,) = result.curves.values()
    return torch.cat([*(p.detach().flatten() for p in model.parameters()), torch.tensor([v for _, v in curve])])


def answers(ddp=False):
    """By strategy, weights and curve."""
    return {strategy: trained(strategy, ddp) for strategy in ("none", "linupper", "quadratic", "extremes")}


if __name__ == "__main__":
    rank, world, meet, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    torch.save({"plain": answers(), "ddp": answers(ddp=True)}, out)
    dist.destroy_process_group()
