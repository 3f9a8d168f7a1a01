"""The penalty holds the softmax's denominator near 1, costs a classifier little, and teaches it nothing."""

import torch
import torch.nn.functional as F

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.lse_square import LSESquare
from palimpsest.zoo.classifiers import digits_mlp
from palimpsest.zoo.digits import digits


def test_holds_the_denominator():
    train, test = digits()
    inputs, labels = torch.stack([r["inputs"] for r in test]), torch.tensor([r["label"] for r in test])
    roles, task = Classifier(10, "3").roles(task=train), on("task", CrossEntropy())
    found = {}
    for name, objective in (("without", task), ("with", task + 0.1 * on("task", LSESquare()))):
        model = digits_mlp()
        fit(model, roles, objective, Training(steps=100, batch=32, lr=3e-3), seed=0)
        with torch.no_grad():
            logits = model(inputs)
            found[name] = float(logits.logsumexp(1).abs().mean()), float(F.cross_entropy(logits, labels))
    (drift, plain), (held, loss) = found["without"], found["with"]
    assert held < drift / 4 and drift > 3, found
    assert loss < plain + 0.2 < 1, found


def test_teaches_nothing_about_the_classes():
    """Alone it pulls the denominator to 1 and leaves the same weights whatever the labels say.

    A penalty that also looks at the target's logit would not: with both at 0 the target has all the probability.
    """
    train, test = digits()
    inputs = torch.stack([r["inputs"] for r in test])
    found = []
    for shift in (0, 3):
        rows = [{**r, "label": (r["label"] + shift) % 10} for r in train]
        model = digits_mlp()
        roles, penalty = Classifier(10, "3").roles(task=rows), on("task", LSESquare())
        fit(model, roles, penalty, Training(steps=60, batch=32, lr=3e-3), seed=0)
        with torch.no_grad():
            assert float(model(inputs).logsumexp(1).abs().mean()) < 0.1
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
