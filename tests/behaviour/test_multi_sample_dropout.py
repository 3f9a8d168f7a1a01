"""Under strong dropout, sixteen samples a row teach a classifier in sixty steps more than one sample does."""

import pytest
import torch
import torch.nn.functional as F

from palimpsest.adapters.classifier import Classifier
from palimpsest.layers.multi_sample_dropout import MultiSampleDropout
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.zoo.classifiers import digits_mlp
from palimpsest.zoo.digits import digits


@pytest.mark.parametrize("seed", [0, 1])
def test_more_samples_learn_in_fewer_steps(seed):
    train, test = digits()
    inputs, labels = torch.stack([r["inputs"] for r in test]), torch.tensor([r["label"] for r in test])
    roles, loss = Classifier(10, "3").roles(task=train), {}
    for samples in (1, 16):
        model, layer = digits_mlp(seed=seed), MultiSampleDropout(samples, 0.8)
        layer.install(model)
        fit(model, roles, on("task", CrossEntropy()), Training(steps=60, batch=32, lr=3e-3), seed=seed)
        layer.merge(model)
        with torch.no_grad():
            loss[samples] = float(F.cross_entropy(model(inputs), labels))
    assert loss[16] < 0.75 * loss[1] < 0.75 * 2.3, loss  # 2.3 is what a guess costs
