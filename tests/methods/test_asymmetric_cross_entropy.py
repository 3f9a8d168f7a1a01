"""ER-ACE's loss on new rows: classes that are not in the batch are neither raised nor lowered."""

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.asymmetric_cross_entropy import AsymmetricCrossEntropy, asymmetric_cross_entropy
from palimpsest.roles import Roles


def test_a_softmax_over_the_classes_of_the_batch():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([4, 1, 4, 1, 1])
    loss = asymmetric_cross_entropy(logits, labels)
    by_hand = torch.nn.functional.cross_entropy(logits[:, [1, 4]], (labels == 4).long(), reduction="none")
    torch.testing.assert_close(loss, by_hand)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(slope).all() and not slope[:, [0, 2, 3, 5]].any()


def test_every_class_present_is_plain_cross_entropy():
    logits, labels = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        asymmetric_cross_entropy(logits, labels), torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    )


def test_one_class_alone_is_zero_without_a_gradient():
    logits = torch.randn(2, 4, requires_grad=True)
    loss = asymmetric_cross_entropy(logits, torch.tensor([3, 3]))
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any()


def test_micro_batches_are_refused():
    roles = Roles(Classifier(2), {"task": [{"inputs": [float(i)], "label": i % 2} for i in range(4)]})
    with pytest.raises(ValueError, match=r"set train\.accumulation to 1"):
        fit(
            torch.nn.Linear(1, 2), roles, on("task", AsymmetricCrossEntropy()),
            Training(steps=1, batch=4, accumulation=2),
        )  # fmt: skip
