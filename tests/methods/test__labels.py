"""A loss of labels looks at scored tokens only, in their places, and at as many classes as there are."""

from types import SimpleNamespace

import pytest
import torch

from palimpsest.objectives._labels import checked_classes, over_labels


def test_masked_tokens_are_not_seen_and_count_0():
    mask = torch.tensor([[True, False, True], [False, False, True]])
    log_probs = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    log_probs[~mask] = torch.nan
    targets = torch.tensor([[1, 9, 3], [9, 9, 0]])
    view = SimpleNamespace(mask=mask, log_probs=log_probs, targets=targets)
    found = over_labels(view, lambda logs, labels: -logs[torch.arange(len(labels)), labels])  # type: ignore[arg-type]
    expected = [[-log_probs[0, 0, 1], 0.0, -log_probs[0, 2, 3]], [0.0, 0.0, -log_probs[1, 2, 0]]]
    assert found.tolist() == [[pytest.approx(float(x)) for x in row] for row in expected]


@pytest.mark.parametrize(
    ("classes", "positive", "fine"), [(2, 1, True), (3, None, True), (1, None, False), (2, 2, False)]
)
def test_classes(classes, positive, fine):
    if fine:
        checked_classes("Dice", torch.zeros(5, classes), positive)
        return
    with pytest.raises(ValueError, match=rf"Dice was given {classes} classes and positive {positive}; it needs two"):
        checked_classes("Dice", torch.zeros(5, classes), positive)
