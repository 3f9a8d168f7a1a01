"""Saliency masks against brute force, and their errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.masks.salun import SalUn, top_fraction
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.random_label import RandomLabel
from palimpsest.roles import Answers, Roles
from palimpsest.zoo.models import tiny_llama


def brute_force(gradients: dict[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """A stable sort of all |g|, largest first."""
    flat = torch.cat([g.double().abs().flatten() for g in gradients.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.sort(descending=True, stable=True).indices[: int(fraction * len(flat))]] = True
    parts = chosen.split([g.numel() for g in gradients.values()])
    return {n: part.view(g.shape) for (n, g), part in zip(gradients.items(), parts)}


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 5, generator=generator)
    return [{"inputs": x, "label": i % 4} for i, x in enumerate(inputs)]


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(5, 4)


def test_the_card_s_example() -> None:
    gradients = {"a": torch.tensor([0.3, -0.7]), "b": torch.tensor([[0.1], [0.5]])}
    moves = top_fraction(gradients, 0.5)
    assert moves["a"].tolist() == [False, True]
    assert moves["b"].tolist() == [[False], [True]]


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.integers(-4, 4), min_size=1, max_size=40),
    fraction=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_equals_a_stable_sort_with_many_ties(values: list[int], fraction: float, dtype: torch.dtype) -> None:
    flat = torch.tensor(values, dtype=dtype) / 4
    gradients = {"a": flat[: len(flat) // 2], "b": flat[len(flat) // 2 :].view(1, -1)}
    moves = top_fraction(gradients, fraction)
    expected = brute_force(gradients, fraction)
    assert sum(int(m.sum()) for m in moves.values()) == int(fraction * len(values))
    assert all(torch.equal(moves[n], expected[n]) for n in gradients)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9, 1.0])
def test_a_large_model_is_ranked_exactly_from_a_sample(fraction: float) -> None:
    """Above a million weights only a bracket is sorted: also with scales per tensor and with mostly zeros."""
    generator = torch.Generator().manual_seed(0)
    scaled = {f"p{i}": torch.randn(1500, 200, generator=generator) * 10.0**-i for i in range(5)}
    mostly_zero = {f"p{i}": torch.randn(1500, 400, generator=generator).clamp_min(1.5) - 1.5 for i in range(4)}
    for gradients in (scaled, mostly_zero):
        moves, expected = top_fraction(gradients, fraction), brute_force(gradients, fraction)
        assert all(torch.equal(moves[n], expected[n]) for n in gradients)


def test_a_misleading_sample_still_gives_the_exact_answer() -> None:
    """Every second entry is what the sample sees, and the sample sees only zeros."""
    flat = torch.zeros(1 << 22)
    flat[1::2] = torch.rand(1 << 21, generator=torch.Generator().manual_seed(0)) + 1
    moves = top_fraction({"w": flat}, 0.25)["w"]
    assert torch.equal(moves, brute_force({"w": flat}, 0.25)["w"])


def test_the_mask_of_a_linear_model_is_the_analytic_one() -> None:
    model, data = linear(), rows(10)
    inputs = torch.stack([r["inputs"] for r in data])
    error = model(inputs).softmax(-1) - nn.functional.one_hot(torch.tensor([r["label"] for r in data]), 4)  # [N, C]
    gradients = {"weight": error.T @ inputs, "bias": error.sum(0)}
    for fraction in (0.1, 0.3, 0.5, 0.9):
        mask = SalUn(fraction)(model, Roles(Classifier(4), {"forget": data}))
        expected = brute_force({n: g.detach() for n, g in gradients.items()}, fraction)
        assert all(torch.equal(mask.moves[n], expected[n]) for n in expected)
        assert sum(int(m.sum()) for m in mask.moves.values()) == int(fraction * 24)


def test_the_sign_of_the_loss_does_not_matter() -> None:
    """The released code takes the gradient of -cross-entropy: the mask is the same."""
    generator = torch.Generator().manual_seed(0)
    gradients = {"a": torch.randn(3, 5, generator=generator), "b": torch.randn(7, generator=generator)}
    for fraction in (0.1, 0.5, 0.8):
        moves, negative = (
            top_fraction(gradients, fraction),
            top_fraction({n: -g for n, g in gradients.items()}, fraction),
        )
        assert all(torch.equal(moves[n], negative[n]) for n in moves)


def test_the_batch_split_does_not_matter() -> None:
    """Seven rows in batches of 3 leave a short last batch; a sum of batch means would weigh its row three times."""
    model, data = linear(1), rows(7, seed=3)
    roles = Roles(Classifier(4), {"forget": data})
    masks = [SalUn(0.5, batch=size)(model, roles) for size in (1, 3, 7, 32)]
    for mask in masks[1:]:
        assert all(torch.equal(mask.moves[n], masks[0].moves[n]) for n in mask.moves)


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    model[0].bias.requires_grad_(False)
    model[2].weight.grad = torch.ones(4, 8)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    roles = Roles(Classifier(4), {"forget": rows(6)})
    first, second = SalUn(0.5)(model, roles), SalUn(0.5)(model, roles)
    assert model.training and model[1].training
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]
    assert torch.equal(model[2].weight.grad, torch.ones(4, 8))
    assert model[0].weight.grad is None
    assert set(first.moves) == {"0.weight", "2.weight", "2.bias"}
    assert all(torch.equal(first.moves[n], second.moves[n]) for n in first.moves), "dropout must be off"


def test_a_language_model() -> None:
    """Tied embeddings and a chunked loss: the mask equals that of the plain cross-entropy."""
    model, tokenizer = tiny_llama()
    data = [{"prompt": "The sky is", "completion": " blue"}, {"prompt": "Two and two", "completion": " make four"}]
    adapter = CausalLM(tokenizer)
    mask = SalUn(0.2)(model, Roles(adapter, {"forget": data}))
    batch = adapter.collate([adapter.encode(r) for r in data])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
    found = dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters()))))
    expected = brute_force(found, 0.2)
    assert sum(int(m.sum()) for m in mask.moves.values()) == int(0.2 * sum(g.numel() for g in found.values()))
    differ = sum(int((mask.moves[n] != expected[n]).sum()) for n in expected)
    assert differ <= 4, "only neighbors of the threshold may change places by rounding"


def test_fractions_zero_and_one() -> None:
    """0 leaves the model as it is, 1 is training without a mask, bit for bit."""
    data = {"forget": rows(8), "retain": rows(8, seed=1)}
    objective = on("forget", RandomLabel()) + on("retain", CrossEntropy())
    training = Training(steps=5, batch=4, lr=0.05, optimizer="sgd", weight_decay=5e-4)

    def run(fraction: float | None) -> nn.Linear:
        model, roles = linear(), Roles(Classifier(4), data)
        mask = None if fraction is None else SalUn(fraction)(model, roles)
        fit(model, roles, objective, training, mask=mask)
        return model

    assert torch.equal(run(0.0).weight, linear().weight) and torch.equal(run(0.0).bias, linear().bias)
    assert torch.equal(run(1.0).weight, run(None).weight) and torch.equal(run(1.0).bias, run(None).bias)
    assert not torch.equal(run(0.5).weight, run(None).weight)


def test_errors_say_what_to_do() -> None:
    model = linear()
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
            SalUn(fraction)
        with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
            top_fraction({"w": torch.ones(2)}, fraction)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        SalUn(batch=0)
    with pytest.raises(ValueError, match="roles with rows are: retain"):
        SalUn()(model, Roles(Classifier(4), {"retain": rows(2)}))
    drawn = Roles(Classifier(4), {"retain": rows(2)}, answers={"forget": Answers("retain", "label", (1, 2))})
    with pytest.raises(ValueError, match="roles with rows are: retain"):
        SalUn()(model, drawn)
    with pytest.raises(ValueError, match="has no rows"):
        Roles(Classifier(4), {"forget": []})
    with pytest.raises(ValueError, match=r"lies outside 0\.\.3"):
        SalUn()(model, Roles(Classifier(4), {"forget": [{"inputs": [0.0] * 5, "label": 4}]}))
    with pytest.raises(ValueError, match="The gradient of w is not finite"):
        top_fraction({"w": torch.tensor([1.0, float("nan")])}, 0.5)
    with pytest.raises(ValueError, match="no trainable parameter"):
        SalUn()(linear().requires_grad_(False), Roles(Classifier(4), {"forget": rows(2)}))


def test_a_forget_set_without_gradient_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 1), nn.Flatten(0), nn.Unflatten(0, (-1, 1)))
    with pytest.raises(ValueError, match="Every gradient on the role 'forget' is zero"):
        SalUn()(model, Roles(Classifier(1), {"forget": [{"inputs": [0.0] * 5, "label": 0}]}))


def test_a_recipe_finds_it() -> None:
    assert names.build({"salun": {"fraction": 0.1}}, "masks") == SalUn(0.1)
    assert names.build(names.dump(SalUn(0.25, "task")), "masks") == SalUn(0.25, "task")
