"""With forty classes, batches that hold several rows of each class teach a pair loss what shuffled rows do not."""

import torch
from torch import nn

from palimpsest.adapters.classifier import Classifier
from palimpsest.objectives.multi_similarity import MultiSimilarity
from palimpsest.roles import Roles
from palimpsest.selectors.class_batches import ClassBatches
from palimpsest.views import LabelView

CLASSES, OF_EACH = 40, 16


def points(centers, generator):
    """Eight numbers that tell the classes apart, and sixteen larger ones that do not."""
    labels = torch.arange(len(centers)).repeat_interleave(OF_EACH)
    kind = centers[labels] + 0.3 * torch.randn(len(labels), 8, generator=generator)
    return torch.cat([kind, 2.0 * torch.randn(len(labels), 16, generator=generator)], 1), labels


def recall(features, labels):
    unit = nn.functional.normalize(features.detach(), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return float((labels[nearest] == labels).float().mean())


def learned(selector, seed):
    """Recall at 1 on twenty classes that were never seen, after 80 steps on 20 rows each."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES + 20, 8, generator=generator)
    inputs, labels = points(centers[:CLASSES], generator)
    new, theirs = points(centers[CLASSES:], generator)
    rows = [{"inputs": x, "label": int(c)} for x, c in zip(inputs, labels)]
    roles = Roles(Classifier(CLASSES), {"task": rows}, selections={"task": selector(rows)} if selector else {})
    torch.manual_seed(seed)
    model = nn.Linear(24, 8, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(80):
        batch = roles.window(step, 20, seed=seed)[0]["task"]
        features = model(batch["inputs"])
        loss = MultiSimilarity()(LabelView(batch, features, features)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return recall(model(new), theirs)


def test_several_rows_of_a_class_teach_more_than_single_ones():
    gains = [learned(ClassBatches(classes=5, rows_of_each=4), seed) - learned(None, seed) for seed in range(3)]
    assert min(gains) > 0.05, gains
