"""NPO against the figures of its card: start, slope, limits, DPO, padding, cached references, refusals."""

import copy
import math

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objective import evaluate, on
from palimpsest.objectives.gradient_ascent import GradientAscent
from palimpsest.objectives.npo import NPO, npo
from palimpsest.objectives.preference import preference
from palimpsest.reference import AdapterOff, Copy, cache
from palimpsest.step import NotFinite, Step
from palimpsest.zoo.models import tiny_llama

ROWS = [
    {"prompt": "who", "completion": " me"},
    {"prompt": "where to", "completion": " over there"},
    {"prompt": "why", "completion": " because of that"},
]
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    return model, CausalLM(tokenizer)


@pytest.fixture
def batch(language):
    return language[1].roles(forget=ROWS).window(0, 3, seed=0)[0]


def gradients(loss, model):
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def moved(model, size=0.05):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator))
    return other


# 1. At the reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_start_value(dtype):
    logp = torch.tensor([-3.0, -40.0], dtype=dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    expected = torch.full((2,), 13.862943611198906, dtype=dtype)
    torch.testing.assert_close(npo(logp, logp, 0.1), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 5.0])
def test_start_gradient_is_gradient_ascent_on_sequences(language, batch, beta):
    model, _ = language
    loss = evaluate(on("forget", NPO(beta)), model, batch, reference=Copy(model)).total
    assert float(loss.detach()) == pytest.approx(2 / beta * math.log(2), rel=1e-6)
    # Gradient ascent divides by tokens, NPO by sequences: the same direction, apart from the token count.
    tokens = int((batch["forget"]["labels"][:, 1:] != -100).sum())
    ascent = evaluate(on("forget", GradientAscent()), model, batch).total * (tokens / 3)
    for a, b in zip(gradients(loss, model), gradients(ascent, model)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# 2. and 3. By hand, and the limit of small beta


def test_value_and_slope():
    logp = torch.tensor(-12.0, dtype=DOUBLE, requires_grad=True)
    loss = npo(logp, torch.tensor(-10.0, dtype=DOUBLE), 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(11.962777, abs=1e-6)
    assert logp.grad.item() == pytest.approx(0.900332, abs=1e-6)  # by -logp, as the card writes it: -0.900332


@pytest.mark.parametrize(("beta", "expected"), [(0.1, -1.900166), (0.001, -1.999000)])
def test_limit_of_small_beta_is_gradient_ascent(beta, expected):
    loss = npo(torch.tensor(-12.0, dtype=DOUBLE), torch.tensor(-10.0, dtype=DOUBLE), beta) - 2 / beta * math.log(2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert loss.item() == pytest.approx(-2 + beta * 4 / 4, abs=beta**3 * 16)


# 4. Bounded, and the gradient fades


def test_bounded_and_fading():
    ref = torch.zeros(5, dtype=DOUBLE)
    logp = torch.tensor([10.0, 0.0, -10.0, -100.0, -1e5], dtype=DOUBLE, requires_grad=True)
    loss = npo(logp, ref, 0.5)
    loss.sum().backward()
    assert (loss >= 0).all() and (loss.diff() <= 0).all()
    assert loss[-1].item() == 0 and logp.grad[-1].item() == 0
    weight = 2 * torch.sigmoid(0.5 * logp.detach())  # W = 2 p^beta / (p^beta + p_ref^beta)
    torch.testing.assert_close(logp.grad, weight)
    assert logp.grad[0].item() > 1.9 and logp.grad[3].item() < 1e-20


def test_finite_at_extremes_in_single_precision():
    logp = torch.tensor([-1e8, 1e8, -math.inf], requires_grad=True)
    loss = npo(logp, torch.zeros(3), 10.0)
    assert not loss.isnan().any() and loss[0] == 0 and loss[2] == 0


# 5. The rejected half of DPO


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_is_dpo_without_the_chosen_half(beta):
    logp, ref = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 5
    by_hand = -torch.nn.functional.logsigmoid(beta * (0 - (logp - ref)))
    torch.testing.assert_close(npo(logp, ref, beta), 2 / beta * by_hand, rtol=1e-12, atol=0)
    same = torch.full_like(logp, -3.0)
    torch.testing.assert_close(
        preference(same, same, logp, ref, beta), beta / 2 * npo(logp, ref, beta), rtol=1e-12, atol=0
    )


# 6. What is not scored does not count


def test_prompt_labels_and_reductions(language, batch):
    model, _ = language
    other, reference = moved(model), Copy(model)
    view = batch.adapter.views(other, batch, ["forget"])["forget"]
    ref = reference.views(other, batch, ["forget"])["forget"]
    view.companions["ref"] = ref
    by_hand = []
    for i in range(3):  # a naive loop over rows and positions
        own = ref_sum = 0.0
        for t in range(view.targets.shape[1]):
            if view.targets[i, t] != -100:
                own += float(view.logits[i, t].log_softmax(-1)[view.targets[i, t]].detach())
                ref_sum += float(ref.logits[i, t].log_softmax(-1)[view.targets[i, t]])
        by_hand.append(-2 / 0.3 * math.log(1 / (1 + math.exp(0.3 * (own - ref_sum)))))
    torch.testing.assert_close(NPO(0.3)(view).detach(), torch.tensor(by_hand), rtol=1e-4, atol=1e-4)
    lengths = view.mask.sum(1)
    mean = npo(view.seq_logp / lengths, ref.seq_logp / lengths, 0.3)
    torch.testing.assert_close(NPO(0.3, "mean")(view), mean)
    assert (NPO(0.3, "mean")(view) - NPO(0.3)(view)).abs().max() > 1e-3


# 7. Three ways to keep a reference


def test_cached_reference_equals_a_live_one(language):
    model, adapter = language
    roles = adapter.roles(forget=ROWS)
    stored, live, other = cache(roles, model, ("forget",)), Copy(model), moved(model)
    (batch,) = roles.window(0, 3, seed=4)
    losses = [evaluate(on("forget", NPO()), other, batch, reference=r).total for r in (stored, live)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    assert abs(float(losses[0].detach()) - 20 * math.log(2)) > 1e-3


def test_adapter_off_equals_a_copy(language):
    from peft import LoraConfig, get_peft_model

    base, adapter = language
    model = get_peft_model(
        copy.deepcopy(base), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    off, kept = AdapterOff(model), Copy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    model.eval()
    (batch,) = adapter.roles(forget=ROWS).window(0, 3, seed=0)
    losses = [evaluate(on("forget", NPO()), model, batch, reference=r).total for r in (off, kept)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    assert abs(float(losses[0].detach()) - 20 * math.log(2)) > 1e-3


def test_the_reference_stays_while_the_model_moves(language, batch):
    model = copy.deepcopy(language[0])
    reference = Copy(model)
    before = copy.deepcopy(reference.module.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = evaluate(on("forget", NPO()), model, batch, reference=reference).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0] - 1e-3
    assert all(torch.equal(v, before[k]) for k, v in reference.module.state_dict().items())


# 8. What is refused


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta must be above 0"):
        NPO(beta)
    with pytest.raises(ValueError, match=r"objective\.0\.npo: beta must be above 0"):
        build({"npo": {"beta": beta}}, "objectives", place="objective.0")


def test_a_row_without_an_answer_is_refused(language):
    with pytest.raises(ValueError, match=r"forget row \d: the completion is empty"):
        language[1].roles(forget=[ROWS[0], {"prompt": "who", "completion": " "}]).window(0, 2, seed=0)


def test_a_missing_role_is_named(language):
    model, adapter = language
    (batch,) = adapter.roles(retain=ROWS).window(0, 2, seed=0)
    with pytest.raises(ValueError, match="uses the role 'forget', but the batch has: retain"):
        evaluate(on("forget", NPO()), model, batch, reference=Copy(model))


def test_nan_in_the_model_stops_the_step(language, batch):
    model = copy.deepcopy(language[0])
    reference = Copy(model)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    step = Step(on("forget", NPO()), model, reference)
    step.backward(batch, step.count([batch]), 0.0)
    with pytest.raises(NotFinite, match="forget/npo became nan"):
        step.gradients()
