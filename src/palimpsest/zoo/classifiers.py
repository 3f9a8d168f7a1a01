"""Small classifiers with seeded random weights, for recipes that teach them first."""

from __future__ import annotations

import difflib

import torch
from torch import nn

__all__ = ["CLASSIFIERS", "classifiers", "digits_mlp"]

CLASSIFIERS = ("digits-mlp",)


def digits_mlp(*, seed: int = 0) -> nn.Sequential:
    """64 pixels -> 128 -> 64 -> 10 digits, untrained; the same weights for the same ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def classifiers(name: str) -> tuple[nn.Module, int, str]:
    """(module, number of classes, path of the module whose output is the features)."""
    if name != "digits-mlp":
        close = difflib.get_close_matches(name, CLASSIFIERS, 1, 0.4)
        hint = (
            f"did you mean {close[0]}?"
            if close
            else f"there are: {', '.join(CLASSIFIERS)}; or name package.module:factory."
        )
        raise LookupError(f"The zoo has no classifier {name!r}; {hint}")
    return digits_mlp(), 10, "3"
