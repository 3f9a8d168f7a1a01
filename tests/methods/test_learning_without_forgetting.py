"""LwF: old classes alone, zero where nothing was forgotten, its gradient, refusals."""

import pytest
import torch

from palimpsest.objectives.learning_without_forgetting import LearningWithoutForgetting, learning_without_forgetting
from palimpsest.views import LabelView

DOUBLE = torch.float64


def logits(seed, rows=6, classes=5):
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def view(own, ref):
    made = LabelView({"labels": torch.zeros(len(own), dtype=torch.int64)}, own)
    made.companions["ref"] = LabelView(made.batch, ref)
    return made


def test_zero_at_the_reference_and_above_elsewhere():
    own, ref = logits(0), logits(1)
    assert float(learning_without_forgetting(own, own, 2.0).abs().max()) < 1e-15
    assert (learning_without_forgetting(own, ref, 2.0) > 0).all()
    torch.testing.assert_close(
        learning_without_forgetting(own + 7, ref - 3, 2.0), learning_without_forgetting(own, ref, 2.0)
    )


def test_new_classes_have_no_part_in_either_softmax():
    own, ref = logits(0).requires_grad_(), logits(1)
    method = LearningWithoutForgetting((0, 3), 2.0)
    loss = method(view(own, ref))
    by_hand = torch.stack(
        [
            torch.nn.functional.kl_div(
                (own[i, [0, 3]] / 2).log_softmax(-1), (ref[i, [0, 3]] / 2).softmax(-1), reduction="sum"
            )
            for i in range(6)
        ]
    )
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=1e-14)
    (slope,) = torch.autograd.grad(loss.sum(), own)
    assert not slope[:, [1, 2, 4]].any() and slope[:, [0, 3]].all()
    other, another = own.detach().clone(), ref.clone()
    other[:, 1] += 20
    another[:, 4] += 20
    torch.testing.assert_close(method(view(other, another)), loss)


def test_gradient_is_that_of_the_cross_entropy_with_soft_targets():
    own, ref = logits(0).requires_grad_(), logits(1)
    soft = torch.nn.functional.cross_entropy(own / 2, (ref / 2).softmax(-1), reduction="none")
    ours = learning_without_forgetting(own, ref, 2.0)
    for a, b in zip(torch.autograd.grad(ours.sum(), own), torch.autograd.grad(soft.sum(), own)):
        torch.testing.assert_close(a, b)


def test_no_class_named_means_all():
    own, ref = logits(0), logits(1)
    torch.testing.assert_close(LearningWithoutForgetting()(view(own, ref)), learning_without_forgetting(own, ref, 2.0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"classes": (1, 1)}, "each old class once"),
        ({"classes": (-1, 2)}, "each old class once"),
        ({"classes": (1,)}, "names one class"),
    ],
)
def test_refusals(fields, said):
    with pytest.raises(ValueError, match=said):
        LearningWithoutForgetting(**fields)


def test_a_class_the_model_lacks():
    with pytest.raises(ValueError, match="classes names 9, but the model tells 5 apart"):
        LearningWithoutForgetting((0, 9))(view(logits(0), logits(1)))
