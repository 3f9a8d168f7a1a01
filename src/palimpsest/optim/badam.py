"""Adam on one layer at a time: the others stand still and have no state.

    for T steps each:  the layer's state starts at zero,  W <- (1 - lr wd) W - lr Adam(G)

Matrices outside of attention and MLP, such as embeddings and head, are moved at every step.

Paper: BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language Models (Luo et al., 2024),
    arXiv 2404.02827.
Code: Ledzy/BAdam (BlockOptimizer).
Tags: optimize, optimizer, fine-tuning, language-model.
Needs: parameters with names, or groups that say ``project``.
Differs: gradients of layers that stand still are not skipped, so that this saves state, not time. The released code
    leaves embeddings and head out unless told otherwise; here they take full steps, as where FRUGAL compares with it.
See: ``frugal`` (moves the rest by its sign).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from palimpsest.optim._split_optimizer import MODULES, Group, Member, Parameters, SplitOptimizer, common, one_of
from palimpsest.optim._splitter import Order, blocks

__all__ = ["METHOD", "BAdam", "layers"]


def layers(names: Sequence[str]) -> list[int]:
    """The number of each name's layer: names that agree up to their first number belong together."""
    keys = [found[0] if (found := re.match(r".*?\b\d+\b", name)) else name for name in names]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


class BAdam(SplitOptimizer):
    """``update_gap`` T steps a layer; in the ``order`` random each period draws its layer by itself."""

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        update_gap: int = 100,
        order: Order = "random",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        modules: tuple[str, ...] = MODULES,
        seed: int = 0,
    ) -> None:
        one_of("order", order, get_args(Order))
        own = {"order": order, "seed": seed}
        super().__init__(params, {**common(lr, weight_decay, betas, eps, update_gap, modules), **own})

    def _step_split(self, group: Group, members: Sequence[Member]) -> None:
        names = group.get("param_names", [f"{i}" for i in range(len(group["params"]))])
        own = layers(names)
        period, within = divmod(group["steps"], group["update_gap"])
        active = blocks(max(own) + 1, 1, group["order"], period, group["seed"])
        working = [m for m in members if own[m.place] in active]
        for member in members:
            if not within or member not in working:
                member.state.clear()
        self._step_whole(group, working)


METHOD = BAdam
