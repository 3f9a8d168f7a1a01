"""A full copy computes what the model computes, shares nothing with it, and trains all of itself."""

from __future__ import annotations

import torch
from torch import nn

from palimpsest.procedures.full_copy import FullCopy
from palimpsest.zoo.models import tiny_llama


def test_the_same_answers_and_no_shared_memory() -> None:
    model, _ = tiny_llama()
    ids = torch.arange(2, 14).view(1, 12)
    twin = FullCopy()(model)
    assert torch.equal(twin(input_ids=ids).logits, model(input_ids=ids).logits)
    own = {p.data_ptr() for p in (*model.parameters(), *model.buffers())}
    assert not own & {p.data_ptr() for p in (*twin.parameters(), *twin.buffers())}


def test_frozen_weights_of_the_model_are_trained_in_the_copy() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    model[0].requires_grad_(False)
    twin = FullCopy()(model)
    assert all(p.requires_grad for p in twin.parameters()) and not twin.training
    assert not model[0].weight.requires_grad, "the model is left alone"
