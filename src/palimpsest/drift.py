"""How far weights and features have moved: what explains a stability gap beside the accuracies that show it.

    start = snapshot(model)                        # before training
    bottom, top = end_layers(model, 5)
    update_ratio(start, model, bottom, top)        # above 1: the first layers move more than the last ones

Paper: Efficient Continual Pre-training by Mitigating the Stability Gap (Guo et al., 2024), arXiv 2406.14833 (relative
    update of layer groups); Continual evaluation for lifelong learning (De Lange et al., 2023), arXiv 2205.13452
    (feature drift).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from torch import Tensor, nn

__all__ = ["end_layers", "feature_drift", "relative_update", "snapshot", "update_ratio"]

_NUMBERED = re.compile(r"^(?P<stack>.*?)\.?(?P<layer>\d+)\.")
"""The first number in a parameter's name is that of its layer: model.layers.3.mlp.weight."""


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def relative_update(start: Mapping[str, Tensor], model: nn.Module, names: Collection[str]) -> float | None:
    """The mean over the weights of the named parameters of |w_t - w_0| / |w_0|.

    Weights that were 0 are left out; None where all were.
    """
    total, count = 0.0, 0
    for name in names:
        first, now = start[name], model.get_parameter(name).detach()
        moved = first != 0
        total += float(((now - first).abs()[moved] / first.abs()[moved]).double().sum())
        count += int(moved.sum())
    return total / count if count else None


def end_layers(model: nn.Module, layers: int) -> tuple[list[str], list[str]]:
    """Names of the parameters of the first and of the last ``layers`` layers of the model's longest numbered stack."""
    stacks: dict[str, dict[int, list[str]]] = {}
    for name, _ in model.named_parameters():
        found = _NUMBERED.match(name)
        if found is not None:
            stacks.setdefault(found["stack"], {}).setdefault(int(found["layer"]), []).append(name)
    longest = max(stacks.values(), key=len, default={})
    if layers < 1 or len(longest) < 2 * layers:
        raise ValueError(f"The model has {len(longest)} numbered layers with weights; ask for at most half of them.")
    order = sorted(longest)
    return [n for i in order[:layers] for n in longest[i]], [n for i in order[-layers:] for n in longest[i]]


def update_ratio(
    start: Mapping[str, Tensor], model: nn.Module, bottom: Collection[str], top: Collection[str]
) -> float | None:
    """Relative update of the bottom layers over that of the top layers, None where it is undefined."""
    below, above = relative_update(start, model, bottom), relative_update(start, model, top)
    return below / above if below is not None and above else None


def feature_drift(before: Tensor, after: Tensor) -> Tensor:
    """The mean over rows of the squared distance between two features [N, D] of each."""
    if before.shape != after.shape or before.ndim != 2 or not math.prod(before.shape):
        raise ValueError(f"Features of shapes {tuple(before.shape)} and {tuple(after.shape)} are not those of one set.")
    return (after - before).square().sum(1).mean()
