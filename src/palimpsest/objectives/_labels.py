"""A loss of labeled predictions, for rows that carry a class and for tokens alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from palimpsest.views import LabelView, TokenView

__all__ = ["checked_classes", "over_labels"]


def over_labels(view: TokenView | LabelView, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``loss`` of log-probabilities [N, C] and labels [N] as [B] for labels, as [B, T-1] for tokens, 0 where masked."""
    if isinstance(view, LabelView):
        return loss(view.log_probs, view.labels)
    mask = view.mask  # [B, T-1]
    found = loss(view.log_probs[mask], view.targets[mask])  # [N]
    return found.new_zeros(mask.shape).masked_scatter(mask, found)


def checked_classes(name: str, log_probs: Tensor, positive: int | None) -> None:
    """Refuses fewer classes than two, and a ``positive`` class that is none of them."""
    classes = log_probs.shape[-1]
    if classes < 2 or (positive or 0) >= classes:
        raise ValueError(
            f"{name} was given {classes} classes and positive {positive}; it needs two or more, numbered from 0."
        )
