"""FLAT against the figures of its card: values, slopes, conjugates found numerically, the average probability."""

import copy
import math

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objective import evaluate, on
from palimpsest.objectives.flat import DIVERGENCES, FLAT, answer_probability, flat
from palimpsest.roles import Answers, RoleBatch, Roles
from palimpsest.views import TokenOutputs, TokenView
from palimpsest.zoo.models import tiny_llama

EXACT = [name for name in DIVERGENCES if name != "jeffrey"]
F = {  # f(u) of each f-divergence sum q f(p / q)
    "total_variation": lambda u: (u - 1).abs() / 2,
    "kl": lambda u: u * u.log(),
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "pearson": lambda u: (u - 1) ** 2,
    "reverse_kl": lambda u: -u.log(),
    "squared_hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "neyman": lambda u: (1 - u) ** 2 / u,
    "jeffrey": lambda u: (u - 1) * u.log(),
}


def double(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize(
    ("divergence", "loss", "template_slope", "forget_slope"),
    [
        ("total_variation", 0.233331, -0.480521, 0.279528),
        ("kl", 0.618731, -1.0, 0.818731),
        ("jensen_shannon", 0.382945, -0.450166, 0.689974),
        ("pearson", 0.760000, -1.0, 1.4),
        ("reverse_kl", 0.8 - 1 + math.exp(-0.2), -math.exp(-0.2), 1.0),
        ("squared_hellinger", math.exp(0.8) - 2 + math.exp(-0.2), -math.exp(-0.2), math.exp(0.8)),
        ("neyman", 1 - 2 * math.exp(-0.4) + math.exp(-0.2), -math.exp(-0.2), math.exp(-0.4)),
        ("jeffrey", 0.8 + 0.16 + 0.032 - 0.2, -1.0, 1 + 0.4 + 0.12),
    ],
)
def test_values_and_slopes(divergence, loss, template_slope, forget_slope):
    forget, template = double(0.8, grad=True), double(0.2, grad=True)
    found = flat(forget, template, divergence)
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert template.grad.item() == pytest.approx(template_slope, abs=1e-6)
    assert forget.grad.item() == pytest.approx(forget_slope, abs=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_pulls_the_template_up_and_the_forget_answer_down_everywhere(divergence):
    steps = torch.linspace(0, 1, 41, dtype=torch.float64)
    forget, template = (t.clone().requires_grad_() for t in torch.meshgrid(steps, steps, indexing="ij"))
    flat(forget, template, divergence).sum().backward()
    assert float(template.grad.max()) < 0 < float(forget.grad.min())
    assert float(forget.grad.max()) < 3, "the slope stays bounded, so no loss can run away"


@pytest.mark.parametrize("divergence", EXACT)
def test_conjugates_are_those_of_the_divergence(divergence):
    activation, conjugate = DIVERGENCES[divergence]
    u = torch.cat([torch.logspace(-6, 3, 200_001, dtype=torch.float64), double(1.0)])  # total variation bends at 1
    v = torch.arange(0.05, 1.0, 0.05, dtype=torch.float64)
    for value in v:
        supremum = (u * activation(value) - F[divergence](u)).max()
        assert conjugate(value).item() == pytest.approx(supremum.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("divergence", "value"),
    [("total_variation", 0.302184), ("kl", 0.740818), ("jensen_shannon", 0.410039), ("pearson", 0.8225)],
)
def test_conjugates_at_seven_tenths(divergence, value):
    assert DIVERGENCES[divergence][1](double(0.7)).item() == pytest.approx(value, abs=1e-6)


def test_jeffrey_is_as_near_as_its_card_says():
    u = torch.logspace(-3, 2, 400_001, dtype=torch.float64)
    off = []
    for value in torch.linspace(0.05, 1, 20, dtype=torch.float64):
        exact = (u * value - F["jeffrey"](u)).max()
        off.append(float(exact - DIVERGENCES["jeffrey"][1](value)))
    assert min(off) > -1e-6 and off == sorted(off) and 0.0175 < off[-1] < 0.018


def test_equal_probabilities_give_nothing_under_total_variation():
    p = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(flat(p, p), torch.zeros_like(p))


def test_mean_of_probabilities_not_their_geometric_mean():
    logp = double(0.9, 0.5, 0.1).log().unsqueeze(0)
    assert answer_probability(logp, torch.tensor([[True, True, False]])).item() == pytest.approx(0.7, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_uniform_model_says_one_over_the_vocabulary(dtype):
    labels = torch.tensor([[-100, -100, 3, -100, -100], [-100, 1, 2, 3, 4]])
    batch = {"input_ids": labels.clamp_min(0), "labels": labels, "attention_mask": torch.ones_like(labels)}
    view = TokenView(batch, TokenOutputs(logits=torch.zeros(2, 5, 8, dtype=dtype)))
    torch.testing.assert_close(
        answer_probability(view.logp, view.mask).double(), double(1 / 8, 1 / 8), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradient_through_softmax_gather_and_g(divergence):
    labels = torch.tensor([[-100, 1, 2, -100], [-100, -100, 0, 3]])
    batch = {"input_ids": labels.clamp_min(0), "labels": labels, "attention_mask": torch.ones_like(labels)}

    def loss(forget, template):
        views = tuple(TokenView(batch, TokenOutputs(logits=x)) for x in (forget, template))
        return FLAT(divergence)(views)

    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(loss, logits)


def test_pairs_on_a_model_against_a_naive_loop():
    model, tokenizer = tiny_llama(300, 2, 32)
    rows = [{"prompt": f"who is {i}", "completion": " a" * (i + 1)} for i in range(3)]
    refusals = (" no", " I do not know", " pass on that")
    adapter = CausalLM(tokenizer)
    roles = Roles(adapter, {"forget": rows}, answers={"refusal": Answers("forget", "completion", refusals)})
    (batch,) = roles.window(0, 3, seed=1)
    found = evaluate(on(("forget", "refusal"), FLAT("kl")), model, batch).total
    by_hand = 0.0
    for i in range(3):
        mean = {}
        for role in ("forget", "refusal"):
            ids, labels = batch[role]["input_ids"][i], batch[role]["labels"][i]
            ids = ids[batch[role]["attention_mask"][i].bool()]
            p = model(ids[None]).logits[0].softmax(-1)
            scored = [float(p[t - 1, ids[t]].detach()) for t in range(1, len(ids)) if labels[t] != -100]
            mean[role] = sum(scored) / len(scored)
        by_hand += (math.exp(mean["forget"] - 1) - mean["refusal"]) / 3
    assert found.item() == pytest.approx(by_hand, abs=1e-5)


# What is refused


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="There is no divergence 'renyi'; there are: total_variation, kl"):
        FLAT("renyi")
    with pytest.raises(ValueError, match=r"objective\.0\.flat\.divergence"):
        build({"flat": {"divergence": "renyi"}}, "objectives", place="objective.0")


def test_an_empty_template_list_is_refused():
    with pytest.raises(ValueError, match="The answers to 'forget' are an empty list"):
        Answers("forget", "completion", ())


def test_answers_and_templates_must_be_pairs():
    model, tokenizer = tiny_llama(300, 2, 32)
    adapter = CausalLM(tokenizer)
    roles = adapter.roles(
        forget=[{"prompt": "a", "completion": " b"}] * 4, refusal=[{"prompt": "a", "completion": " c"}] * 4
    )
    two, three = roles.window(0, 2, seed=0)[0], roles.window(0, 3, seed=0)[0]
    uneven = RoleBatch({"forget": two["forget"], "refusal": three["refusal"]}, adapter)
    with pytest.raises(ValueError, match="there are 2 and 3"):
        evaluate(on(("forget", "refusal"), FLAT()), copy.deepcopy(model), uneven)
