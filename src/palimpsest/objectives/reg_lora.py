"""Keeps a new task's low-rank update small at the positions where earlier tasks' updates were large.

    Delta_l = B_l A_l                                            the update of the linear layer l, without alpha / r
    K_l = union over earlier tasks of the top M of |Delta_l|     positions, each task's own update ranked by itself
    L = mean over l of mean over (i, j) in K_l of |(B_l A_l)_ij|

Each stage trains a fresh adapter, which is merged at its end: ``on("weights", RegLoRA()) * 2500``.

Paper: SEFE: Superficial and Essential Forgetting Eliminator for Multimodal Continual Instruction Tuning (Chen et al.,
    2025), arXiv 2505.02486 (RegLoRA).
Code: jinpeng0528/SEFE (key_elements_identification.py, modeling_llama.py).
Tags: retain, continual-learning, loss, adapter.
Needs: a LoRA adapter that is fresh in every stage.
Differs: the mean over layers is taken over those that have positions; the released code divides by 224, the number of
    them in its model, and is NaN for a matrix so small that no entry makes the share. Positions are a set; the code
    lists those of several tasks one after the other, so that a position chosen twice weighs double (``multiset``). The
    entries of B A are gathered as dot products, in blocks, where the code makes the whole product. The penalty is
    computed once a step, not once a forward pass. Ranking happens when the next stage begins, from the factors that the
    stage before left, not after merging, when there is nothing left to rank.
See: ``answer_styles`` (the paper's other half), ``embedding_consistency`` (on activations in place of weights).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palimpsest.objective import Objective
from palimpsest.roles import Roles
from palimpsest.views import ParameterView, Unit

__all__ = ["METHOD", "LoraState", "RegLoRA", "join_positions", "lora_pairs", "product_at", "top_positions"]

_BLOCK = 2**22
"""Entries of gathered factors in memory at a time."""


def top_positions(product: Tensor, fraction: float) -> Tensor:
    """Flat positions [K] of the int(fraction * entries) largest |entries|, ranked in float32; none of zeros."""
    size = product.detach().float().abs().flatten()
    count = int(fraction * size.numel())
    return size.topk(count).indices if count and bool(size.any()) else size.new_zeros(0, dtype=torch.int64)


def join_positions(new: Tensor, earlier: Tensor, multiset: bool = False) -> Tensor:
    """The union of two sets of positions; a ``multiset`` keeps those that are in both twice."""
    joined = torch.cat([new, earlier])
    return joined if multiset else torch.unique(joined)


def product_at(b: Tensor, a: Tensor, positions: Tensor) -> Tensor:
    """(B A) at flat ``positions`` [K], from ``b`` [out, r] and ``a`` [r, in], without the product itself."""

    def block(b: Tensor, a: Tensor, positions: Tensor) -> Tensor:
        rows, columns = positions // a.shape[1], positions % a.shape[1]
        return (b[rows] * a.T[columns]).sum(1)  # [K]

    parts = torch.split(positions, max(1, _BLOCK // b.shape[1]))
    if len(parts) == 1:
        return block(b, a, positions)
    return torch.cat([checkpoint(block, b, a, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def lora_pairs(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Linear layer -> the names of its factors (A, B) among the names of parameters."""
    known = set(names)
    pairs = {n.partition(".lora_A.")[0]: (n, n.replace(".lora_A.", ".lora_B.")) for n in known if ".lora_A." in n}
    return {layer: pair for layer, pair in sorted(pairs.items()) if pair[1] in known}


class LoraState(nn.Module):
    """``positions`` of earlier tasks by layer, and the factors that this stage trains.

    The factors are the model's own parameters, so that the state left at the end of the stage holds them as trained.
    """

    def __init__(self, factors: Mapping[str, nn.Parameter], positions: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, factor in factors.items():
            self.register_parameter(f"factor/{name.replace('.', '/')}", factor)
        for layer, where in positions.items():
            self.register_buffer(f"positions/{layer.replace('.', '/')}", where)

    @property
    def positions(self) -> dict[str, Tensor]:
        """Layer -> flat positions [K]."""
        return _named("positions", dict(self.named_buffers()))


def _named(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one kind in a state, by their names in the model."""
    prefix = f"{kind}/"
    return {n.removeprefix(prefix).replace("/", "."): t for n, t in tensors.items() if n.startswith(prefix)}


def _key_positions(previous: Mapping[str, Tensor], fraction: float, multiset: bool) -> dict[str, Tensor]:
    """The positions up to and including the stage that left ``previous``."""
    found, factors = _named("positions", previous), _named("factor", previous)
    for layer, (a, b) in lora_pairs(factors).items():
        new = top_positions(factors[b].float() @ factors[a].float(), fraction)
        found[layer] = join_positions(new, found.get(layer, new[:0]), multiset)
    return {layer: where for layer, where in found.items() if len(where)}


@dataclass(frozen=True)
class RegLoRA(Objective):
    """``fraction`` M of each layer's entries becomes key positions after a task; ``multiset`` counts repeats."""

    fraction: float = 0.02
    multiset: bool = False

    unit: ClassVar[Unit] = "parameter"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction is a share of a layer's entries in [0, 1], not {self.fraction}.")

    def prepare(
        self, model: nn.Module, roles: Roles, role: str, previous: Mapping[str, Tensor] | None = None
    ) -> LoraState:
        """The key positions of all stages before this one."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        pairs = lora_pairs(trained)
        if not pairs:
            raise ValueError("RegLoRA penalizes a LoRA adapter, and the model trains none; give the stage lora.")
        used = [b for _, b in pairs.values() if bool(trained[b].detach().any())]
        if previous is not None and used:
            raise ValueError(
                f"RegLoRA needs a fresh adapter in every stage, but {used[0]} is not zero: its penalty would erase what"
                " the adapter learned before; merge the adapter and attach a new one."
            )
        positions = _key_positions(previous or {}, self.fraction, self.multiset)
        for layer in positions.keys() & pairs.keys():
            a, b = (trained[name] for name in pairs[layer])
            if int(positions[layer].max()) >= b.shape[0] * a.shape[1]:
                raise ValueError(f"The key positions of {layer} belong to a larger layer; go on with the same model.")
            positions[layer] = positions[layer].to(a.device)
        return LoraState({name: trained[name] for pair in pairs.values() for name in pair}, positions)

    def __call__(self, view: ParameterView, state: nn.Module | None = None) -> Tensor:
        """[1], the penalty; 0 in the first stage, whose set of positions is empty."""
        if not isinstance(state, LoraState):
            raise ValueError("The key positions are missing; hand over what `prepare` returned, as fit() does.")
        pairs, positions = lora_pairs(view.parameters), state.positions
        means = [
            product_at(view.parameters[b], view.parameters[a], positions[layer]).abs().mean()
            for layer, (a, b) in pairs.items()
            if layer in positions
        ]
        if not means:  # 0, and still a function of the weights
            return next(iter(view.parameters.values())).flatten()[:0].sum().view(1)
        return torch.stack(means).mean().view(1)


METHOD = RegLoRA
