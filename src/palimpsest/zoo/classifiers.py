"""Small classifiers with seeded random weights, for recipes that teach them first."""

from __future__ import annotations

import difflib
from collections import OrderedDict

import torch
from torch import nn

__all__ = ["CLASSIFIERS", "classifiers", "digits_cnn", "digits_mlp"]

CLASSIFIERS = ("digits-mlp", "digits-cnn")


def digits_mlp(*, seed: int = 0) -> nn.Sequential:
    """64 pixels -> 128 -> 64 -> 10 digits, untrained; the same weights for the same ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def digits_cnn(*, seed: int = 0) -> nn.Sequential:
    """64 pixels as a picture -> two convolutions with batch normalization -> 64 -> 10 digits, untrained.

    Its layers have names: conv1, norm1, conv2, norm2, hidden and head; ``features`` is what enters the head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {
            "picture": nn.Unflatten(1, (1, 8, 8)),
            "conv1": nn.Conv2d(1, 16, 3, padding=1),
            "norm1": nn.BatchNorm2d(16),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(16, 32, 3, stride=2, padding=1),
            "norm2": nn.BatchNorm2d(32),
            "relu2": nn.ReLU(),
            "pool": nn.AvgPool2d(2),
            "flat": nn.Flatten(),
            "hidden": nn.Linear(128, 64),
            "features": nn.ReLU(),
            "head": nn.Linear(64, 10),
        }
        return nn.Sequential(OrderedDict(layers))


def classifiers(name: str) -> tuple[nn.Module, int, str]:
    """(module, number of classes, path of the module whose output is the features)."""
    if name == "digits-mlp":
        return digits_mlp(), 10, "3"
    if name == "digits-cnn":
        return digits_cnn(), 10, "features"
    close = difflib.get_close_matches(name, CLASSIFIERS, 1, 0.4)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"there are: {', '.join(CLASSIFIERS)}; or name package.module:factory."
    )
    raise LookupError(f"The zoo has no classifier {name!r}; {hint}")
