"""I-LoRA's consistency term: values, gradients, sides, padding."""

import copy

import pytest
import torch

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.names import build
from palimpsest.objective import evaluate, on
from palimpsest.objectives.embedding_consistency import EmbeddingConsistency, consistency
from palimpsest.reference import Copy
from palimpsest.zoo.models import tiny_llama

ROWS = [{"prompt": "who", "completion": " me"}, {"prompt": "where to", "completion": " over there, by the sea"}]


def random(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    fast, slow = torch.tensor([1.0, -1.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    assert float(consistency(fast, slow)) == pytest.approx(5 / 3)
    assert float(consistency(fast, slow, "below")) == pytest.approx(4 / 3)


@pytest.mark.parametrize("sides", ["both", "below"])
def test_gradients(sides):
    fast, slow = random(0, 4, 5).requires_grad_(), random(1, 4, 5)
    assert torch.autograd.gradcheck(lambda x: consistency(x, slow, sides), fast)
    consistency(fast, slow, sides).sum().backward()
    above = fast.detach() > slow
    assert above.any() and bool(fast.grad[above].any()) == (sides == "both")
    assert bool((fast.grad[~above] < 0).all())


@pytest.fixture(scope="module")
def language():
    model, tokenizer = tiny_llama(300, 2, 32)
    return model, CausalLM(tokenizer)


def test_every_row_is_the_mean_over_its_own_tokens(language):
    model, adapter = language
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(50)
    (batch,) = adapter.roles(replay=ROWS).window(0, 2, seed=0)
    term = on("replay", EmbeddingConsistency())
    found = float(evaluate(term, other, batch, reference=Copy(model)).total.detach())
    rows = []
    for ids, mask in zip(batch["replay"]["input_ids"], batch["replay"]["attention_mask"]):
        alone = {"input_ids": ids[mask.bool()][None]}
        tapped = []
        for m in (other, model):
            states = []
            handles = [b.register_forward_hook(lambda _, __, out, s=states: s.append(out)) for b in m.model.layers]
            with torch.no_grad():
                m(**alone)
            for handle in handles:
                handle.remove()
            tapped.append(torch.stack([s[0] if isinstance(s, tuple) else s for s in states]))
        rows.append(float((tapped[0] - tapped[1]).square().mean()))
    assert found == pytest.approx(sum(rows) / 2, rel=1e-4) and found > 1e-4
    assert float(evaluate(term, model, batch, reference=Copy(model)).total.detach()) < 1e-9


def test_what_is_refused(language):
    model, adapter = language
    (batch,) = adapter.roles(replay=ROWS).window(0, 2, seed=0)
    with pytest.raises(ValueError, match="needs a reference model"):
        evaluate(on("replay", EmbeddingConsistency()), model, batch)
    with pytest.raises(ValueError, match=r"embedding_consistency\.sides"):
        build({"embedding_consistency": {"sides": "above"}}, "objectives")
