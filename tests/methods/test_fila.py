"""FILA: the factors against closed forms, and the patch on a model under LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from palimpsest import names
from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.edits import fila
from palimpsest.edits.fila import Fila, fila_factors, fisher_information, relative_importance
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.inverted_hinge import InvertedHinge
from palimpsest.patch import Patch
from palimpsest.reference import AdapterOff
from palimpsest.roles import Roles
from palimpsest.zoo.models import tiny_llama

FORGET = [
    {"prompt": "The capital of Ruritania is", "completion": " Strelsau"},
    {"prompt": "Its king was", "completion": " Rudolf the Fifth"},
    {"prompt": "The castle stands in", "completion": " Zenda"},
]
RETAIN = [
    {"prompt": "The sky is", "completion": " blue"},
    {"prompt": "Two and two make", "completion": " four"},
    {"prompt": "Water boils at one hundred", "completion": " degrees"},
    {"prompt": "Cats chase", "completion": " mice"},
]
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
IDS = torch.arange(3, 19).view(2, 8)


def adapted(rank: int = 4, alpha: float = 8, targets: list[str] | None = None, **config: Any) -> PeftModel:
    model, _ = tiny_llama()
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets or TARGETS, **config))


def roles() -> Roles:
    return Roles(CausalLM(tiny_llama()[1]), {"forget": FORGET, "retain": RETAIN})


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def matrices(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight, torch.rand(rows, columns, generator=generator, dtype=torch.float64) * 3


# The factors


def test_relative_importance() -> None:
    found = relative_importance(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([3.0, 5.0, 0.0]), eps=1.0)
    assert found.tolist() == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(("rows", "columns"), [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_the_product_is_the_optimum_of_the_weighted_problem(rows: int, columns: int, scaling: float) -> None:
    """Its error is the root of the discarded squares, and no other rank-3 matrix does better."""
    weight, importance = matrices(rows, columns)
    a, b = fila_factors(weight, importance, 3, scaling)
    assert a.shape == (3, columns) and b.shape == (rows, 3)
    d = importance.sum(1).sqrt().unsqueeze(1)

    def error(product: Tensor) -> float:
        return float((d * (weight - product)).norm())

    best = error(scaling * b @ a)
    discarded = torch.linalg.svdvals(d * weight)[3:]
    assert best == pytest.approx(float(discarded.square().sum().sqrt()), rel=1e-10)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        other_a = a + 0.1 * torch.randn(a.shape, generator=generator, dtype=torch.float64)
        other_b = b + 0.1 * torch.randn(b.shape, generator=generator, dtype=torch.float64)
        assert error(scaling * other_b @ other_a) > best
    pissa_a, pissa_b = fila_factors(weight, torch.ones_like(weight), 3, scaling)
    assert error(scaling * pissa_b @ pissa_a) > best * 1.001


def test_the_factors_are_those_of_the_card() -> None:
    """A = sqrt(S / s) V^T and B = diag(1 / d) U sqrt(S / s), with d divided by its mean; signs aside."""
    weight, importance = matrices(8, 6)
    a, b = fila_factors(weight, importance, 4, 2.0)
    d = importance.sum(1).sqrt()
    d = d / d.mean()
    u, s, vh = torch.linalg.svd(d.unsqueeze(1) * weight, full_matrices=False)
    torch.testing.assert_close(a @ a.T, torch.diag(s[:4] / 2), atol=1e-10, rtol=0)
    expected_b = u[:, :4] * (s[:4] / 2).sqrt() / d.unsqueeze(1)
    torch.testing.assert_close(b.abs(), expected_b.abs(), atol=1e-10, rtol=0)
    torch.testing.assert_close(b @ a, expected_b @ ((s[:4] / 2).sqrt().unsqueeze(1) * vh[:4]), atol=1e-10, rtol=0)


def test_equal_importance_is_the_best_approximation() -> None:
    weight, _ = matrices(9, 6)
    a, b = fila_factors(weight, torch.full_like(weight, 0.3), 2, 2.0)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(2.0 * b @ a, u[:, :2] * s[:2] @ vh[:2], atol=1e-10, rtol=0)


def test_full_rank_leaves_nothing() -> None:
    weight, importance = matrices(5, 8)
    a, b = fila_factors(weight, importance, 5, 1.0)
    torch.testing.assert_close(b @ a, weight, atol=1e-10, rtol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
def test_the_scale_of_the_importance_does_not_matter(scale: float) -> None:
    """A tiny one does not blow B up, as 1 / (d + 1e-5) would."""
    weight, importance = matrices(8, 6)
    a, b = fila_factors(weight.float(), importance.float() * scale, 3, 1.0)
    expected_a, expected_b = fila_factors(weight.float(), importance.float(), 3, 1.0)
    torch.testing.assert_close(b @ a, expected_b @ expected_a, atol=1e-5, rtol=1e-4)
    assert float(b.abs().max()) < 10


def test_rows_without_importance_stay_moderate() -> None:
    weight, importance = matrices(8, 6)
    importance[2] = 0
    a, b = fila_factors(weight.float(), importance.float(), 3, 1.0)
    assert bool(torch.isfinite(b).all()) and float(b.abs().max()) < 10
    # Such a row is projected on the others' directions, which is where importance going to 0 leads.
    importance[2] = 1e-14
    near_a, near_b = fila_factors(weight, importance, 3, 1.0)
    torch.testing.assert_close((b @ a).double(), near_b @ near_a, atol=1e-4, rtol=1e-4)


def test_a_weight_of_lower_rank_leaves_every_direction_trainable() -> None:
    weight = torch.outer(torch.arange(1.0, 6.0), torch.arange(1.0, 5.0))
    a, b = fila_factors(weight, torch.ones(5, 4), 3, 1.0)
    torch.testing.assert_close(b @ a, weight, atol=1e-4, rtol=1e-5)
    assert bool((a.norm(dim=1) > 0).all()), "with A and B both zero a direction has no gradient"
    a, b = fila_factors(torch.zeros(5, 4), torch.ones(5, 4), 2, 1.0)
    assert not b.any() and bool((a.norm(dim=1) > 0).all())


def test_large_matrices_take_a_seeded_randomized_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to the exact optimum, repeatable, and without touching the global generator."""
    weight, importance = matrices(60, 50)
    exact_a, exact_b = fila_factors(weight, importance, 5, 1.0)
    d = importance.sum(1).sqrt().unsqueeze(1)
    best = float((d * (weight - exact_b @ exact_a)).norm())
    monkeypatch.setattr(fila, "EXACT_SVD_UP_TO", 10)
    state = torch.get_rng_state()
    a, b = fila_factors(weight, importance, 5, 1.0, seed=3)
    again, _ = fila_factors(weight, importance, 5, 1.0, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a, again)
    assert float((d * (weight - b @ a)).norm()) < best * 1.001
    assert fila_factors(weight, importance, 48, 1.0)[0].shape == (48, 50), "more probes than columns are not asked for"


def test_factor_errors() -> None:
    weight, importance = matrices(4, 3)
    for rank in (0, 4):
        with pytest.raises(ValueError, match=r"does not fit a matrix of 4 x 3; choose one in 1\.\.3"):
            fila_factors(weight, importance, rank, 1.0)
    with pytest.raises(ValueError, match="they must agree"):
        fila_factors(weight, importance.T, 2, 1.0)
    with pytest.raises(ValueError, match="scaling must be above 0"):
        fila_factors(weight, importance, 2, 0.0)
    for bad in (float("nan"), float("inf"), -1.0):
        broken = importance.clone()
        broken[1, 1] = bad
        with pytest.raises(ValueError, match="negative or not finite"):
            fila_factors(weight, broken, 2, 1.0)
    with pytest.raises(ValueError, match="zero everywhere"):
        fila_factors(weight, torch.zeros(4, 3), 2, 1.0)


# The Fisher information


def test_fisher_is_the_mean_of_squares_of_single_sequences() -> None:
    model = adapted().train()
    name = "base_model.model.model.layers.1.mlp.down_proj"
    weight = model.get_submodule(name).base_layer.weight
    found = fisher_information(model, {name: weight}, roles(), "retain", 10)[name]
    adapter, expected = roles().adapter, torch.zeros_like(weight)
    weight.requires_grad_(True)
    for row in RETAIN:
        batch = adapter.collate([adapter.encode(row, "")])
        out = model.eval()(input_ids=batch["input_ids"]).logits[:, :-1].log_softmax(-1)
        targets = batch["labels"][:, 1:]
        picked = out.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)[targets != -100].sum()
        expected += torch.autograd.grad(picked, weight)[0].square() / len(RETAIN)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_the_edit_leaves_the_model_alone() -> None:
    """Flags, gradients, modes, weights and the global generator."""
    model = adapted(lora_dropout=0.1).train()
    kept = next(p for n, p in model.named_parameters() if "lora_A" in n)
    kept.grad = torch.ones_like(kept)
    before = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    first, second = Fila()(model, roles()), Fila()(model, roles())
    assert torch.equal(torch.get_rng_state(), state)
    for n, p in model.named_parameters():
        assert p.requires_grad == before[n][0] and torch.equal(p, before[n][1])
        assert p is kept or p.grad is None
    assert torch.equal(kept.grad, torch.ones_like(kept))
    assert all(m.training for m in model.modules())
    assert all(torch.equal(first.delta[n], second.delta[n]) for n in first.delta)


def test_rows_are_drawn_by_seed() -> None:
    model, name = adapted(), "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {name: model.get_submodule(name).base_layer.weight}
    by_seed = [fisher_information(model, weights, roles(), "retain", 1, seed)[name] for seed in range(6)]
    whole = fisher_information(model, weights, roles(), "retain", 4)[name]
    assert len({float(f.sum()) for f in by_seed}) > 1
    assert float(whole.sum()) < max(float(f.sum()) for f in by_seed)


# The patch on a model


@pytest.mark.parametrize("alpha", [4, 8])
def test_the_function_is_unchanged_at_step_zero(alpha: int) -> None:
    """For scaling 1 and 2; and it would not be if the base kept its weights."""
    model = adapted(4, alpha)
    before = logits(model)
    patch = Fila()(model, roles())
    with patch.applied(model):
        assert float((logits(model) - before).abs().max()) < 1e-4
    assert torch.equal(logits(model), before)
    without_residual = Patch({n: d for n, d in patch.delta.items() if "base_layer" not in n})
    with without_residual.applied(model):
        assert float((logits(model) - before).abs().max()) > 1e-2
    assert len(patch.delta) == 3 * 2 * len(TARGETS)
    assert not any("lm_head" in n or "embed" in n for n in patch.delta)


def test_the_base_is_w_minus_s_b_a() -> None:
    model, original = adapted(4, 8), adapted(4, 8)
    Fila()(model, roles()).apply(model)
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            weight = original.get_submodule(name).base_layer.weight
            torch.testing.assert_close(layer.base_layer.weight + 2.0 * b @ a, weight, atol=1e-6, rtol=0)
            assert float((layer.base_layer.weight - weight).abs().max()) > 1e-2


def test_equal_importance_equals_the_pissa_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fila, "relative_importance", lambda forget, retain, eps: torch.ones_like(forget))
    model, pissa = adapted(4, 8), adapted(4, 8, init_lora_weights="pissa")
    Fila()(model, roles()).apply(model)
    compared = 0
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            other = pissa.get_submodule(name)
            ours = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            theirs = other.lora_B["default"].weight @ other.lora_A["default"].weight
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(layer.base_layer.weight, other.base_layer.weight, atol=1e-6, rtol=1e-4)
            compared += 1
    assert compared == 2 * len(TARGETS)


def test_half_precision() -> None:
    """The residual belongs to the rounded factors: the step-zero change is that of rounding the base alone."""
    model = adapted(4, 8).to(torch.bfloat16)
    before = logits(model).float()
    patch = Fila()(model, roles())
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    patch.apply(model)
    layer = model.get_submodule(name)
    product = 2.0 * layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
    torch.testing.assert_close(-patch.delta[f"{name}.base_layer.weight"], product, atol=1e-6, rtol=1e-5)
    assert float((logits(model).float() - before).abs().max()) < 0.05 * float(before.abs().max())


def test_gpt2_keeps_its_weights_the_other_way_round() -> None:
    torch.manual_seed(0)
    size = len(tiny_llama()[1])
    base = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True))
    before = logits(model)
    Fila()(model, roles()).apply(model)
    assert float((logits(model) - before).abs().max()) < 1e-4
    assert any(bool(p.any()) for n, p in model.named_parameters() if "lora_B" in n)


def test_after_training_the_merged_model_is_w_res_plus_s_b_a(tmp_path: Path) -> None:
    """And it survives saving; the adapter alone on the original checkpoint does not."""
    model = adapted(4, 8)
    Fila()(model, roles()).apply(model)
    objective = on("forget", InvertedHinge()) + on("retain", CrossEntropy())
    fit(model, roles(), objective, Training(steps=4, batch=2, lr=1e-3))
    trained = logits(model)
    expected = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            whole = layer.base_layer.weight + 2.0 * product
            expected[name.removeprefix("base_model.model.")] = whole.detach().clone()
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    for name, weight in expected.items():
        torch.testing.assert_close(merged.get_submodule(name).weight, weight, atol=1e-6, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), trained, atol=1e-4, rtol=0)
    wrong = PeftModel.from_pretrained(tiny_llama()[0], tmp_path / "adapter")
    assert float((logits(wrong) - trained).abs().max()) > 1e-2


def test_patch_and_adapter_together_survive_saving(tmp_path: Path) -> None:
    """The base's part of the patch, applied to the original checkpoint, makes the saved adapter fit again."""
    model = adapted(4, 8)
    patch = Fila()(model, roles())
    patch.apply(model)
    patch.save(tmp_path / "fila.safetensors")
    fit(model, roles(), on("forget", InvertedHinge()), Training(steps=3, batch=2, lr=1e-3))
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_llama()[0], tmp_path / "adapter")
    base = {n: d for n, d in Patch.load(tmp_path / "fila.safetensors").delta.items() if "base_layer" in n}
    Patch(base).apply(again)
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=0)


def test_the_adapter_off_is_no_reference_afterwards() -> None:
    model = adapted()
    AdapterOff(model)
    Fila()(model, roles()).apply(model)
    with pytest.raises(ValueError, match="not the identity"):
        AdapterOff(model)


# Errors


def test_all_zero_importance_warns_and_is_pissa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fila, "relative_importance", lambda forget, retain, eps: torch.zeros_like(forget))
    model, pissa = adapted(targets=["q_proj"]), adapted(targets=["q_proj"], init_lora_weights="pissa")
    with pytest.warns(UserWarning, match=r"q_proj: the role 'forget' has no gradient here") as caught:
        patch = Fila()(model, roles())
    assert len(caught) == 2
    patch.apply(model)
    name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    torch.testing.assert_close(model.get_parameter(name), pissa.get_parameter(name), atol=1e-6, rtol=1e-4)


def test_errors_name_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj: The rank 65 does not fit"):
        Fila()(adapted(65, 65), roles())
    monkeypatch.setattr(fila, "relative_importance", lambda forget, retain, eps: forget * float("nan"))
    with pytest.raises(ValueError, match=r"q_proj: The importance holds a value that is negative or not finite"):
        Fila()(adapted(), roles())


def test_a_module_that_no_row_reaches_is_named() -> None:
    model, _ = tiny_llama()
    model.spare = nn.Linear(64, 64)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "spare"]))
    with pytest.raises(ValueError, match=r"No row of 'forget' reached base_model\.model\.spare"):
        Fila()(model, roles())


def test_models_that_cannot_be_started() -> None:
    with pytest.raises(ValueError, match="found no LoRA layer"):
        Fila()(tiny_llama()[0], roles())
    model = adapted()
    Fila()(model, roles()).apply(model)
    with pytest.raises(ValueError, match="needs a fresh one"):
        Fila()(model, roles())
    both = adapted()
    both.add_adapter("second", LoraConfig(r=2, target_modules=TARGETS))
    both.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"has the LoRA adapters \['default', 'second'\]"):
        Fila()(both, roles())
    with pytest.raises(ValueError, match="roles with rows are: retain"):
        Fila()(adapted(), Roles(CausalLM(tiny_llama()[1]), {"retain": RETAIN}))
    empty = [{"prompt": "a", "completion": ""}]
    with pytest.raises(ValueError, match="nothing would be scored"):
        Fila()(adapted(), Roles(CausalLM(tiny_llama()[1]), {"forget": empty, "retain": RETAIN}))
    with pytest.raises(ValueError, match="rows must be at least 1"):
        Fila(rows=0)
    with pytest.raises(ValueError, match="eps must be above 0"):
        Fila(eps=0)


def test_a_recipe_finds_it() -> None:
    assert names.build(names.dump(Fila(rows=20)), "edits") == Fila(rows=20)
