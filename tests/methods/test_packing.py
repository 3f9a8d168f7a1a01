"""Packed rows hold every token of a batch once, and are no wider than its longest row."""

from __future__ import annotations

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.packing import packing
from palimpsest.zoo.models import tiny_llama

WORDS = [*"abcdefghijklmnopq"]


def mask_of(lengths: list[int], *, left: bool = False) -> torch.Tensor:
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return mask.flip(1) if left else mask


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("lengths", "rows"),
    [([5, 5, 5], 3), ([5, 2, 3, 1], 3), ([7, 1, 1, 1, 1, 1, 1, 1], 2), ([4], 1), ([6, 4, 2, 2, 4], 3)],
)
def test_every_token_has_one_place_and_finds_back(lengths: list[int], rows: int, left: bool) -> None:
    mask = mask_of(lengths, left=left)
    found = packing(mask)
    assert found.positions.shape == (rows, max(lengths)) and len(set(zip(*map(tuple, found.packed)))) == sum(lengths)
    ids = torch.arange(1, mask.numel() + 1).reshape(mask.shape) * mask
    packed = found.pack(ids)
    assert torch.equal(found.unpack(packed[..., None].float())[..., 0].long(), ids)
    begins = found.positions == 0
    for row in ids:
        own = row[row > 0]
        (r, c) = (packed == own[0]).nonzero()[0].tolist()
        assert torch.equal(packed[r, c : c + len(own)], own) and begins[r, c]  # in one piece, from a border on
        assert torch.equal(found.positions[r, c : c + len(own)], torch.arange(len(own)))
    ends = torch.cat([begins[:, 1:], torch.ones(rows, 1, dtype=torch.bool)], 1)
    assert int(begins.sum()) == int(ends.sum()) == len(lengths) + int((packed == 0).any(1).sum())  # and what is left


def test_attention_that_knows_the_borders_gets_one_row() -> None:
    mask = mask_of([3, 1, 2])
    found = packing(mask, one_row=True)
    assert found.positions.tolist() == [[0, 1, 2, 0, 1, 0]]
    ids = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    assert found.pack(ids).tolist() == [[1, 2, 3, 5, 6, 4]]


def test_the_model_sees_no_more_than_with_padding_and_learns_the_same() -> None:
    model, tokenizer = tiny_llama()
    rows = [{"text": " ".join(WORDS[:n])} for n in (17, 2, 3, 12, 2, 4)]
    gradients, shapes = [], []
    handle = model.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    for packed in (False, True):
        adapter = CausalLM(tokenizer, packed=packed)
        model.zero_grad()
        view = adapter.views(model, {"": adapter.collate([adapter.encode(row) for row in rows])}, [""])[""]
        (view.logp * view.mask).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    handle.remove()
    (padded, width), (less, same) = shapes[0], shapes[-1]
    assert padded == 6 and less == 3 and same == width
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
