"""Who's Harry Potter: which logits are lowered, and the attached model in generation and scoring."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.interventions.logit_difference import LogitDifference
from palimpsest.interventions.whos_harry_potter import WhosHarryPotter, lowered_logits
from palimpsest.procedures.full_copy import FullCopy
from palimpsest.zoo.models import tiny_llama

IDS = [5, 17, 33, 90, 201, 7]
ROWS = [{"prompt": "The capital of Ruritania is", "completion": " Strelsau"}]


def pair() -> tuple[nn.Module, nn.Module]:
    """A target with clear preferences and a twin with others."""
    model, _ = tiny_llama(seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
        twin = FullCopy()(model)
        for parameter in twin.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model, twin


def plain(model: nn.Module, ids: list[int]) -> Tensor:
    """[T, V] logits of one row, without padding and cache."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def test_by_hand() -> None:
    """v_t = (1, 2), v_r = (3, 1): only the first token is raised by the twin, and lowered by as much."""
    found = lowered_logits(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]), 1.0)
    assert found.tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_against_a_loop(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    target, reinforced = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).to(dtype)
    found = lowered_logits(target, reinforced, 2.0)
    for t, r, z in zip(target.flatten().tolist(), reinforced.flatten().tolist(), found.flatten().tolist()):
        assert z == pytest.approx(t - 2 * (r - t) if r > t else t, rel=2**-7 if dtype == torch.bfloat16 else 1e-6)


def test_where_the_twin_is_not_above_nothing_changes() -> None:
    target = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    lower = target - torch.rand(5, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(lowered_logits(target, lower, 16.0), target)
    assert torch.equal(lowered_logits(target, target + 1, 0.0), target)


def test_the_attached_model_scores_as_its_parts_say() -> None:
    model, twin = pair()
    own, other = plain(model, IDS), plain(twin, IDS)
    for alpha in (0.0, 1.0, 4.0):
        with WhosHarryPotter(alpha).attach(model, {"reinforced": twin}):
            found = plain(model, IDS)
        assert torch.equal(found, own - alpha * (other - own).clamp_min(0))
        assert torch.equal(found, own) == (alpha == 0)
    assert torch.equal(plain(model, IDS), own)


@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_with_caches_equals_full_forwards(use_cache: bool) -> None:
    """What it says next is what it scores highest, token by token."""
    model, twin = pair()
    settings = {"do_sample": False, "min_new_tokens": 8, "max_new_tokens": 8, "pad_token_id": 0}
    before = model.generate(input_ids=torch.tensor([IDS]), **settings)
    with WhosHarryPotter(2.0).attach(model, {"reinforced": twin}):
        found = model.generate(input_ids=torch.tensor([IDS]), use_cache=use_cache, **settings)
        expected = list(IDS)
        for _ in range(8):
            logits = plain(model, expected)[-1]
            logits[model.generation_config.eos_token_id or model.config.eos_token_id] = -math.inf
            expected.append(int(logits.argmax()))
    assert found[0].tolist() == expected
    assert not torch.equal(found, before)


def test_beside_an_assistant() -> None:
    """Two interventions with a companion each: the second answers with the first's answer."""
    model, twin = pair()
    own, other = plain(model, IDS), plain(twin, IDS)
    companions = {"assistant": twin, "reinforced": twin}
    with (
        WhosHarryPotter(1.0).attach(model, companions),
        LogitDifference(0.5, 0.0).attach(model, companions),
    ):
        found = plain(model, IDS)
    expected = (lowered_logits(own, other, 1.0) - 0.5 * other).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_errors_name_the_method_and_the_companion() -> None:
    model, twin = pair()
    with (
        pytest.raises(ValueError, match=r"no companion 'reinforced' \(there are: assistant\)"),
        WhosHarryPotter().attach(model, {"assistant": twin}),
    ):
        pass
    with (
        pytest.raises(ValueError, match="companion 'twin' is the model itself"),
        WhosHarryPotter(companion="twin").attach(model, {"twin": model}),
    ):
        pass
    with WhosHarryPotter().attach(model, {"reinforced": twin}):
        with pytest.raises(ValueError, match="While WhosHarryPotter is attached"):
            model(input_ids=torch.tensor([IDS]), labels=torch.tensor([IDS]))
        with pytest.raises(ValueError, match="An intervention is attached to the model, and a copy would keep"):
            FullCopy()(model)


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_values_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="drop the sign"):
        WhosHarryPotter(alpha)


def test_the_subject_sees_it() -> None:
    model, twin = pair()
    subject = CausalLM(tiny_llama()[1]).subject(model)
    (before,) = subject.logp(ROWS)
    with WhosHarryPotter(4.0).attach(model, {"reinforced": twin}):
        (during,) = subject.logp(ROWS)
    assert float((before - during).abs().max()) > 0.1 and torch.equal(before, subject.logp(ROWS)[0])
