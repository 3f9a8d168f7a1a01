"""What the kernels ask of their inputs, in sentences, and how the tokens that count are taken out and put back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_inputs", "gather", "scatter"]


def check_inputs(
    place: str,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    ignore_index: int,
    chunk: int | None = None,
    entries: int | None = None,
) -> None:
    """Raises ValueError where shapes do not fit or a target is none of ``entries``, which are the weight's rows."""
    if weight.dim() != 2 or hidden.dim() < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{place}: pass hidden [..., D] and weight [V, D] with one D, "
            f"not {list(hidden.shape)} and {list(weight.shape)}."
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{place}: pass one target per token, shape {list(hidden.shape[:-1])}, not {list(targets.shape)}."
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"{place}: pass targets as torch.int64, not {targets.dtype}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{place}: pass a bias of shape {list(weight.shape[:1])}, not {list(bias.shape)}.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"{place}: chunk must be at least 1 vocabulary entry, not {chunk}.")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"{place}: softcap must be above 0 or None, not {softcap}.")
    entries = weight.shape[0] if entries is None else entries
    wrong = (targets != ignore_index) & ((targets < 0) | (targets >= entries))
    if bool(wrong.any()):
        raise ValueError(
            f"{place}: target {int(targets[wrong][0])} is outside the vocabulary of {entries} entries; "
            f"mark tokens that do not count with ignore_index ({ignore_index})."
        )


def gather(values: Tensor, index: Tensor | None) -> Tensor:
    """The counted tokens' ``values``, [n] of [...]; all of them where ``index`` is None."""
    flat = values.reshape(-1)
    return flat if index is None else flat[index]


def scatter(values: Tensor, index: Tensor | None, shape: torch.Size) -> Tensor:
    """The counted tokens' ``values`` at their places among all tokens, zero elsewhere."""
    if index is None:
        return values.reshape(shape)
    whole = values.new_zeros(shape)
    whole.view(-1, *values.shape[1:])[index] = values
    return whole
