"""Trains each linear layer as a low-rank product from its singular value decomposition plus a few of its full columns.

    y = gamma B A x + (1 - gamma) W_s x_I (+ bias)
    W = U diag(S) V^T,    B = U_r diag(S_r)^(1/2),    A = diag(S_r)^(1/2) V_r^T
    I = the columns j with the largest || sum_{r < i <= r+q} S_i u_i v_ij ||,    W_s = W[:, I]

W is the freshly initialized weight, r the rank, and I the share ``sparsity`` of its input columns for which the part
that the low-rank product leaves out is largest.  A, B, W_s and the bias are trained from the first step by any
optimizer; W itself is gone, and nothing is decomposed again.  For pre-training from scratch.

Paper: LOST: Low-rank and Sparse Pre-training for Large Language Models (Jiaxi Li et al., 2025), arXiv 2508.02668.
Code: JiaxiLi1/Lora-init (run_c4.py, HybridSparseLinear), later code of the first author; the paper's own repository
    could not be read.
Tags: optimize, architecture, pre-training, language-model, classifier.
Needs: nothing; a model with fresh weights and linear layers whose paths contain one of ``targets``.
Differs: the columns are always scored by the complement; the later code scores those of W itself unless q is given, and
    its start from the decomposition fails on layers that are not square. A recipe ends with dense layers, so what
    ``layers: lost`` installs has no activation between A and B (the default there too); ``LowRankSparseLinear`` takes
    ``silu`` in a model of your own. The decomposition runs on the device on which the model lies.
See: ``rescale_init`` for a start at full scale: with gamma 1/2 the paper's layer starts at half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.layers._replace import installed, linear_of, linears, replace

__all__ = ["LOST", "METHOD", "LowRankSparseLinear", "low_rank_and_columns"]

Activation = Literal["identity", "silu"]


def low_rank_and_columns(
    weight: Tensor,  # [out, in]
    rank: int,
    sparsity: float,
    scored: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """B [out, r], A [r, in] and the sorted columns I [K], K = max(1, int(sparsity * in)), in float32 or float64.

    ``scored`` is q, the number of singular values after the first r whose columns are compared (None: all).  Raises
    ``ValueError`` for a rank above the smaller side, a sparsity outside (0, 1], and scored below 1.
    """
    smaller = min(weight.shape)
    if not 1 <= rank <= smaller:
        raise ValueError(f"rank must lie in 1..{smaller} for a weight of {tuple(weight.shape)}, not {rank}.")
    if not 0 < sparsity <= 1:
        raise ValueError(f"sparsity is the share of columns kept, in (0, 1], not {sparsity}.")
    if scored is not None and scored < 1:
        raise ValueError(f"scored must be at least 1 singular value, or None for all, not {scored}.")
    exact = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    left, values, right = torch.linalg.svd(exact, full_matrices=False)
    root = values[:rank].sqrt()
    last = smaller if scored is None else min(rank + scored, smaller)
    # U has orthonormal columns, so the norm of a column of the complement is that of its coordinates.
    norms = (values[rank:last, None] * right[rank:last]).norm(dim=0)  # [in]
    count = max(1, int(sparsity * weight.shape[1]))
    columns = norms.topk(count).indices.sort().values
    return left[:, :rank] * root, root[:, None] * right[:rank], columns


class LowRankSparseLinear(nn.Module):
    """A linear layer from its parts: ``left`` B, ``right`` A, the ``columns`` I of the input that ``sparse`` W_s sees.

    ``gamma`` in [0, 1] weighs the low-rank product, 1 - gamma the columns.
    """

    columns: Tensor

    def __init__(
        self,
        left: Tensor,  # [out, r]
        right: Tensor,  # [r, in]
        columns: Tensor,  # [K] int64
        sparse: Tensor,  # [out, K]
        bias: Tensor | None = None,  # [out]
        *,
        gamma: float = 0.5,
        activation: Activation = "identity",
    ) -> None:
        super().__init__()
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], not {gamma}.")
        # A decomposition's factors lie in memory by columns; optimizers that resume expect rows.
        plain = torch.contiguous_format
        self.left, self.right, self.sparse = (
            nn.Parameter(t.detach().clone(memory_format=plain)) for t in (left, right, sparse)
        )
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("columns", columns.clone())
        self.gamma, self.activation = gamma, activation

    @staticmethod
    def of(
        linear: nn.Linear,
        rank: int,
        sparsity: float = 0.05,
        gamma: float = 0.5,
        *,
        scored: int | None = None,
        activation: Activation = "identity",
        rescale_init: bool = False,
    ) -> LowRankSparseLinear:
        """The layer that LOST starts from ``linear``; ``rescale_init`` undoes gamma and 1 - gamma at the start."""
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"LOST takes the place of a linear layer, not of a {type(linear).__name__}.")
        left, right, columns = low_rank_and_columns(linear.weight, rank, sparsity, scored)
        sparse = linear.weight.detach()[:, columns]
        if rescale_init and 0 < gamma < 1:
            left, right, sparse = left / gamma**0.5, right / gamma**0.5, sparse / (1 - gamma)
        left, right = left.to(linear.weight.dtype), right.to(linear.weight.dtype)
        return LowRankSparseLinear(left, right, columns, sparse, linear.bias, gamma=gamma, activation=activation)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        inner = F.linear(hidden, self.right)  # [..., r]
        if self.activation == "silu":
            inner = F.silu(inner)
        low = F.linear(inner, self.left)
        kept = F.linear(hidden.index_select(-1, self.columns), self.sparse)
        out = self.gamma * low + (1 - self.gamma) * kept
        return out if self.bias is None else out + self.bias

    def dense(self) -> nn.Linear:
        """The linear layer that computes the same.  Raises ``ValueError`` where there is none."""
        if self.activation != "identity":
            raise ValueError("A layer with an activation between its factors is no linear layer; keep it as it is.")
        wide = torch.float64 if self.left.dtype == torch.float64 else torch.float32
        with torch.no_grad():
            weight = self.gamma * (self.left.to(wide) @ self.right.to(wide))  # [out, in]
            weight.index_add_(1, self.columns, self.sparse.to(wide), alpha=1 - self.gamma)
        return linear_of(weight.to(self.left.dtype), self.bias)


@dataclass(frozen=True)
class LOST:
    """``rank`` r (None: a quarter of the smaller side of each layer), ``sparsity`` the share of columns kept.

    ``gamma`` weighs the low-rank product; ``scored`` is how many singular values choose the columns (None: all that
    are left); ``targets`` are words of which one must stand in a layer's path.
    """

    rank: int | None = None
    sparsity: float = 0.05
    gamma: float = 0.5
    scored: int | None = None
    rescale_init: bool = False
    targets: tuple[str, ...] = ("attn", "mlp")

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"rank must be at least 1, or None for a quarter of each layer, not {self.rank}.")
        if not 0 < self.sparsity <= 1:
            raise ValueError(f"sparsity is the share of columns kept, in (0, 1], not {self.sparsity}.")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], not {self.gamma}.")
        if self.scored is not None and self.scored < 1:
            raise ValueError(f"scored must be at least 1 singular value, or None for all, not {self.scored}.")
        if not self.targets:
            raise ValueError("targets names the layers by a word of their path, such as mlp; give at least one.")

    def install(self, model: nn.Module) -> None:
        """Puts a ``LowRankSparseLinear`` in the place of every linear layer that ``targets`` names."""
        wanted = f"with {' or '.join(map(repr, self.targets))} in its path"
        chosen = linears(model, lambda name: any(word in name for word in self.targets), wanted)
        for name, linear in chosen:
            smaller = min(linear.weight.shape)
            rank = max(1, smaller // 4) if self.rank is None else self.rank
            if rank > smaller:
                raise ValueError(f"rank {rank} is above {smaller}, the smaller side of {name}; lower it.")
        for name, linear in chosen:
            rank = max(1, min(linear.weight.shape) // 4) if self.rank is None else self.rank
            layer = LowRankSparseLinear.of(
                linear, rank, self.sparsity, self.gamma, scored=self.scored, rescale_init=self.rescale_init
            )
            replace(model, name, layer)

    def merge(self, model: nn.Module) -> None:
        """Puts the dense linear layers back."""
        for name, layer in installed(model, LowRankSparseLinear):
            replace(model, name, layer.dense())


METHOD = LOST
