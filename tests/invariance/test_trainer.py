"""The Trainer equals the plain loop, and ways that should not matter do not: references, padding, packing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.adapters.classifier import Classifier
from palimpsest.combine import Combine, OneSidedProjection
from palimpsest.hf import fit_with_trainer
from palimpsest.loop import Progress, Result, Training, fit
from palimpsest.mask import Mask
from palimpsest.objective import Total, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.kl_to_reference import KLToReference
from palimpsest.objectives.npo import NPO
from palimpsest.reference import AdapterOff, Copy, Reference, SlowAverage, cache
from palimpsest.roles import Roles
from palimpsest.schedules.cosine import Cosine
from palimpsest.views import Batch, Example
from palimpsest.zoo.authors import articles
from palimpsest.zoo.models import tiny_llama

Fit = Callable[..., Result]
ROWS = [{"text": r["text"][: 30 + 9 * i]} for i, r in enumerate(articles(20, seed=0))]


def objective() -> Total:
    return on("forget", NPO(beta=0.5)) + Cosine() * on("retain", CrossEntropy()) + 0.5 * on("retain", KLToReference())


def with_dropout() -> nn.Module:
    """A tiny Llama that draws random numbers in its forward."""
    model = tiny_llama(width=32)[0]
    for block in model.model.layers:
        block.self_attn.attention_dropout = 0.2
    return model


def roles_of(adapter: CausalLM) -> Roles:
    return adapter.roles(forget=ROWS[::2], retain=ROWS[1::2])


@pytest.fixture(scope="module")
def roles() -> Roles:
    return roles_of(CausalLM(tiny_llama()[1]))


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(
    how: Fit,
    roles: Roles,
    training: Training,
    model: nn.Module | None = None,
    reference: Reference | None = None,
    combine: Combine | None = None,
    mask: Mask | None = None,
    total: Total | None = None,
) -> tuple[Tensor, Result]:
    """The weights at the end as one vector, and the result."""
    model = with_dropout() if model is None else model
    companion = Copy(model) if reference is None else reference
    result = how(model, roles, total or objective(), training, seed=5, reference=companion, combine=combine, mask=mask)
    assert not model.training
    return vector(model), result


def same(first: tuple[Tensor, Result], second: tuple[Tensor, Result]) -> None:
    """Bit for bit, curves and token counts included."""
    assert torch.equal(first[0], second[0])
    assert first[1].curves == second[1].curves and first[1].tokens == second[1].tokens > 0
    assert first[1].steps == second[1].steps


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trainer_equals_plain_loop_bit_for_bit(roles: Roles, accumulation: int, optimizer: str) -> None:
    """With dropout, clipping, warmup and a schedule: both draw and round alike."""
    training = Training(
        steps=4,
        batch=8,
        accumulation=accumulation,
        lr=1e-2,
        clip=0.3,
        warmup=0.5,
        schedule=Cosine(),
        optimizer=optimizer,
        weight_decay=0.1,
    )
    plain = train(fit, roles, training)
    same(plain, train(fit_with_trainer, roles, training))
    assert float((plain[0] - vector(with_dropout())).abs().max()) > 1e-3


def test_trainer_does_not_depend_on_the_split(roles: Roles) -> None:
    ends = [
        train(
            fit_with_trainer,
            roles,
            Training(steps=4, batch=8, accumulation=n, lr=1e-2, optimizer="sgd"),
            tiny_llama()[0],
        )
        for n in (1, 2, 4)
    ]
    for weights, result in ends[1:]:
        torch.testing.assert_close(weights, ends[0][0], rtol=0, atol=2e-7)
        assert result.tokens == ends[0][1].tokens
        for name, points in ends[0][1].curves.items():
            assert [v for _, v in result.curves[name]] == pytest.approx([v for _, v in points], rel=1e-5, abs=1e-6)


def test_trainer_takes_masks_projections_and_slow_averages(roles: Roles) -> None:
    start = with_dropout()
    moves = {
        n: torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) < 0.5 for n, p in start.named_parameters()
    }
    for n in list(moves)[::3]:
        del moves[n]  # frozen as a whole

    def run(how: Fit) -> tuple[Tensor, Result]:
        model = copy.deepcopy(start)
        found = train(
            how,
            roles,
            Training(steps=4, batch=4, accumulation=2, lr=1e-2, weight_decay=0.1),
            model,
            SlowAverage(model, 0.5),
            OneSidedProjection("retain"),
            Mask(moves),
        )
        for n, p in model.named_parameters():
            before = start.get_parameter(n)
            assert torch.equal(p, before) if n not in moves else torch.equal(p[~moves[n]], before[~moves[n]])
        return found

    same(run(fit), run(fit_with_trainer))


def test_trainer_runs_models_that_are_not_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [{"inputs": torch.randn(5, generator=generator), "label": i % 3} for i in range(12)]
    roles = Classifier(classes=3).roles(task=rows)
    start = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    ends = []
    for how in (fit, fit_with_trainer):
        model = copy.deepcopy(start)
        result = how(model, roles, on("task", CrossEntropy()), Training(epochs=2, batch=4, lr=1e-2))
        ends.append((torch.cat([vector(model), *(b.flatten() for b in model.buffers())]), result))
    same(*ends)
    assert ends[0][1].tokens == 24


def test_trainer_reports_progress_and_leaves_the_model_as_it_found_it(roles: Roles) -> None:
    model, seen = with_dropout(), list[Progress]()
    result = fit_with_trainer(
        model, roles, on("retain", CrossEntropy()), Training(steps=3, batch=4, lr=1e-3), on_step=seen.append
    )
    assert [(p.step, p.steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [p.parts["retain/cross_entropy"] for p in seen] == [v for _, v in result.curves["retain/cross_entropy"]]
    assert model.config.use_cache is True


def test_trainer_hands_curves_and_rates_to_trackers(
    roles: Roles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker is a Trainer callback; one that only collects shows what all of them are given."""
    from transformers import TrainerCallback

    seen: list[dict[str, float]] = []

    class Collect(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: object, state: object, control: object, logs: dict[str, float], **_: object) -> None:
            seen.append(dict(logs))

    monkeypatch.setattr(
        "transformers.trainer.get_reporting_integration_callbacks", lambda names: [Collect] if names else []
    )
    training = Training(steps=3, batch=8, accumulation=4, lr=1e-2, warmup=1.0, clip=None)
    model = with_dropout()
    result = fit_with_trainer(model, roles, objective(), training, reference=Copy(model), report_to=("collect",))
    steps = [logs for logs in seen if "loss" in logs]
    assert [logs["learning_rate"] for logs in steps] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    for name, points in result.curves.items():
        assert [logs[name] for logs in steps] == [v for _, v in points]
    weights = [Cosine()(i / 3) for i in range(3)]
    for i, logs in enumerate(steps):
        kl, ce, npo = (
            result.curves[f"{n}"][i][1] for n in ("retain/kl_to_reference", "retain/cross_entropy", "forget/npo")
        )
        assert logs["loss"] == pytest.approx(npo + weights[i] * ce + 0.5 * kl, rel=1e-4)
        assert logs["grad_norm"] > 0


def test_cached_reference_equals_a_live_copy(roles: Roles) -> None:
    """To rounding: rows stand in other batches when they are stored."""
    training = Training(steps=4, batch=8, lr=1e-2, optimizer="sgd")
    live = train(fit, roles, training, tiny_llama()[0])
    model = tiny_llama()[0]
    stored = train(fit, roles, training, model, cache(roles, model, ("forget", "retain"), full=True))
    torch.testing.assert_close(stored[0], live[0], rtol=0, atol=1e-6)
    total = on("forget", NPO(beta=0.5)) + on("retain", CrossEntropy())
    live = train(fit, roles, training, tiny_llama()[0], total=total)
    model = tiny_llama()[0]
    stored = train(fit, roles, training, model, cache(roles, model, ("forget",)), total=total)
    torch.testing.assert_close(stored[0], live[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", [fit, fit_with_trainer])
def test_reference_with_the_adapter_off_equals_a_copy(roles: Roles, how: Fit) -> None:
    from peft import LoraConfig, get_peft_model

    def adapted() -> nn.Module:
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], lora_dropout=0.1)
        return get_peft_model(tiny_llama(width=32)[0], config)

    ends = []
    for companion in (AdapterOff, Copy):
        model = adapted()
        reference = companion(model)
        result = how(model, roles, objective(), Training(steps=3, batch=8, lr=1e-2), reference=reference)
        ends.append((vector(model), result))
    same(*ends)
    assert not torch.equal(ends[0][0], vector(adapted()))


@dataclass(frozen=True, eq=False)
class LeftPadded(CausalLM):
    """The same rows with the padding before them."""

    def collate(self, examples: Sequence[Example]) -> Batch:
        batch = dict(super().collate(examples))
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            for name in ("input_ids", "labels", "attention_mask"):
                batch[name][row] = batch[name][row].roll(batch[name].shape[1] - length)
        return batch


@pytest.mark.parametrize("other", [lambda t: CausalLM(t, packed=True), LeftPadded], ids=["packed", "left-padded"])
def test_padding_does_not_matter(roles: Roles, other: Callable[[object], CausalLM]) -> None:
    total = on("forget", NPO(beta=0.5)) + on("retain", CrossEntropy()) + 0.5 * on("retain", KLToReference())
    training = Training(steps=4, batch=8, accumulation=2, lr=1e-2, optimizer="sgd")
    right = train(fit, roles, training, tiny_llama()[0], total=total)
    arranged = roles_of(other(tiny_llama()[1]))
    found = train(fit, arranged, training, tiny_llama()[0], total=total)
    torch.testing.assert_close(found[0], right[0], rtol=0, atol=1e-6)
    assert float((found[0] - vector(tiny_llama()[0])).abs().max()) > 1e-3
    assert found[1].tokens == right[1].tokens


def test_bfloat16_forward_is_the_same_in_both(roles: Roles) -> None:
    training = Training(steps=2, batch=4, lr=1e-3, precision="bfloat16")
    same(train(fit, roles, training), train(fit_with_trainer, roles, training))
