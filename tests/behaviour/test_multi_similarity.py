"""Features learned on twelve classes of points find the neighbors in twelve others, whose classes differ likewise."""

import pytest
import torch
from torch import nn

from palimpsest.objectives.general_pair_weighting import GeneralPairWeighting
from palimpsest.objectives.multi_similarity import MultiSimilarity
from palimpsest.views import LabelView

SEEN, PER_CLASS = 12, 8


def points(classes, generator):
    """Eight numbers that tell the classes apart, and sixteen larger ones that do not."""
    labels = torch.arange(len(classes)).repeat_interleave(PER_CLASS)
    kind = classes[labels] + 0.3 * torch.randn(len(labels), 8, generator=generator)
    return torch.cat([kind, 2.0 * torch.randn(len(labels), 16, generator=generator)], 1), labels


def recall(features, labels):
    unit = nn.functional.normalize(features.detach(), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return float((labels[nearest] == labels).float().mean())


def learned(objective, seed):
    """Recall at 1 on classes that were never seen, before and after 60 steps."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(2 * SEEN, 8, generator=generator)
    new, labels = points(centers[SEEN:], generator)
    torch.manual_seed(seed)
    model = nn.Linear(24, 8, bias=False)
    before = recall(model(new), labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        inputs, own = points(centers[:SEEN], generator)
        features = model(inputs)
        loss = objective(LabelView({"labels": own}, features, features)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, recall(model(new), labels)


@pytest.mark.parametrize(
    "objective",
    [
        MultiSimilarity(),
        MultiSimilarity(mining_margin=None),
        *(
            GeneralPairWeighting(w, margin=m)
            for w, m in (("contrastive", 0.5), ("triplet", 0.1), ("lifted_structure", 1.0), ("binomial_deviance", 0.0))
        ),
    ],
    ids=lambda o: getattr(o, "weighting", f"mined {getattr(o, 'mining_margin', None)}"),
)
def test_neighbors_of_unseen_classes(objective):
    before, after = learned(objective, 0)
    assert before < 0.35 and after > before + 0.3, (before, after)
