"""Objectives evaluated on given logits: what a golden file stores is logits and labels, not a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objective import Losses, Term, Total, evaluate
from palimpsest.roles import RoleBatch
from palimpsest.views import Batch, TokenOutputs, TokenView, Unit

Given = Mapping[str, tuple[Tensor, Any]]
"""Role -> (logits [B, T, V], labels [B, T])."""


class _Ready:
    """An adapter and a reference in one: its views are made from the logits it holds."""

    def __init__(self, logits: Mapping[str, Tensor]) -> None:
        self.logits = logits

    def views(self, model: Any, batch: Mapping[str, Batch], roles: Any, needs: Any = None) -> dict[str, TokenView]:
        return {r: TokenView(batch[r], TokenOutputs(logits=self.logits[r])) for r in roles}

    def count(self, batch: Batch, unit: Unit) -> int:
        return CausalLM.count(None, batch, unit)  # type: ignore[arg-type]


@pytest.fixture
def from_logits() -> Callable[..., Losses]:
    """``from_logits(total, {role: (logits, labels)}, ref={role: logits})`` through ``evaluate``."""

    def run(total: Total | Term, given: Given, ref: Mapping[str, Tensor] | None = None) -> Losses:
        batches = {}
        for role, (logits, labels) in given.items():
            labels = torch.as_tensor(labels)
            assert logits.shape[:2] == labels.shape
            batches[role] = {
                "input_ids": labels.clamp_min(0),
                "labels": labels,
                "attention_mask": torch.ones_like(labels),
            }
        batch = RoleBatch(batches, _Ready({r: logits for r, (logits, _) in given.items()}))
        reference = None if ref is None else _Ready(ref)
        return evaluate(total, nn.Identity(), batch, reference=reference)  # type: ignore[arg-type]

    return run
