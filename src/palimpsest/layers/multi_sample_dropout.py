"""Answers each row under several dropout masks at once: one pass through the body trains the head several times.

    h = f(x),    h_m = h * mask_m / (1 - p),    L = (1 / M) sum_m loss(g(h_m), y)

f is the body, g the head behind the dropout, and the M masks are drawn independently for every row and entry.  The
expectation is that of ordinary dropout; the variance that the masks add to the gradient falls to 1 / M of it.

Paper: Multi-Sample Dropout for Accelerated Training and Better Generalization (Inoue, 2019), arXiv 1905.09788.
Code: none released.
Tags: learn, architecture, loss, classifier.
Needs: nothing; a model whose head is a module of its own.
Differs: the losses are averaged, as in the paper, not the logits, as in many heads in circulation; that other method is
    ``aggregate="logits"``, a less noisy ensemble that regularizes less. The rows go through the head once, M times as
    many, instead of M times; dropout inside the head is drawn for each of them. Of the paper's further diversity
    (flipped and padded feature maps) nothing is here. Heads with batch normalization are refused: its statistics would
    be those of repeated rows. A loss that compares rows' answers (``dice`` over a batch, ``reweighted``) sees a row's
    samples as rows of their own; one on pairs of features, which lie before the dropout, sees each row once.
See: ``multi_sample_loss`` for the same around any head and loss in a loop of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.layers._replace import installed, output_layer, replace

__all__ = ["METHOD", "MultiSampleDropout", "MultiSampleHead", "dropped", "multi_sample_loss"]


def dropped(hidden: Tensor, samples: int, dropout: float) -> Tensor:
    """[B, ...] -> [B * samples, ...]: every row ``samples`` times in succession, each time under a mask of its own.

    For one sample it is ``F.dropout``, bit for bit.
    """
    return F.dropout(hidden.repeat_interleave(samples, 0) if samples > 1 else hidden, dropout)


def multi_sample_loss(
    head: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    hidden: Tensor,  # [B, ...]
    targets: Tensor,  # [B, ...]
    *,
    samples: int = 8,
    dropout: float = 0.5,
) -> Tensor:
    """Mean over ``samples`` masks of ``loss(head(masked), targets)``, [B]; ``loss`` gives one value a row."""
    _check(samples, dropout)
    outputs = head(dropped(hidden, samples, dropout))
    values = loss(outputs, targets.repeat_interleave(samples, 0))  # [B * samples]
    if values.shape != (len(hidden) * samples,):
        raise ValueError(f"The loss gave values of shape {tuple(values.shape)}; it must give one a row, not reduced.")
    return values.view(-1, samples).mean(1)


class MultiSampleHead(nn.Module):
    """``head`` behind ``samples`` dropouts of rate ``dropout``; in eval mode, ``head`` alone.

    In train mode [B, ...] becomes [B * samples, ...], a row's samples in succession; with ``aggregate="logits"`` their
    mean, [B, ...].  The masks come from the global generator, as those of any dropout.
    """

    def __init__(
        self,
        head: nn.Module,
        samples: int = 8,
        dropout: float = 0.5,
        aggregate: Literal["loss", "logits"] = "loss",
    ) -> None:
        super().__init__()
        _check(samples, dropout)
        if installed(head, nn.modules.batchnorm._BatchNorm):
            raise ValueError("The head has batch normalization, which would see every row several times; cut after it.")
        self.head, self.samples, self.dropout, self.aggregate = head, samples, dropout, aggregate

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, ...] -> [B * samples, ...] while training with averaged losses, else [B, ...]."""
        if not self.training:
            return _output(self.head, hidden)
        outputs = _output(self.head, dropped(hidden, self.samples, self.dropout))
        return outputs if self.aggregate == "loss" else outputs.view(-1, self.samples, *outputs.shape[1:]).mean(1)


def _output(head: nn.Module, hidden: Tensor) -> Tensor:
    outputs: Tensor = head(hidden)
    return outputs


def _check(samples: int, dropout: float) -> None:
    if samples < 1:
        raise ValueError(f"samples is the number of dropout masks of a row, at least 1, not {samples}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is the share of entries set to 0, in [0, 1), not {dropout}.")


@dataclass(frozen=True)
class MultiSampleDropout:
    """``samples`` M and ``dropout`` p; ``head`` is the path of what follows the dropout (None: the last linear layer).

    ``aggregate`` loss averages the losses of a row's samples, logits its logits.
    """

    samples: int = 8
    dropout: float = 0.5
    head: str | None = None
    aggregate: Literal["loss", "logits"] = "loss"

    def __post_init__(self) -> None:
        _check(self.samples, self.dropout)
        if self.samples > 1 and self.dropout == 0:
            raise ValueError(f"Without dropout all {self.samples} samples of a row are the same; raise dropout.")

    def install(self, model: nn.Module) -> None:
        """Puts a ``MultiSampleHead`` around the head."""
        path, head = output_layer(model, self.head)
        replace(model, path, MultiSampleHead(head, self.samples, self.dropout, self.aggregate))

    def merge(self, model: nn.Module) -> None:
        """Puts the head back by itself: at inference dropout is off."""
        for path, layer in installed(model, MultiSampleHead):
            replace(model, path, layer.head)


METHOD = MultiSampleDropout
