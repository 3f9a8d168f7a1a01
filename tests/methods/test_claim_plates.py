"""The plates that retrieval is tested on: what they spell, what no two parts share, and what a rate is chosen by."""

import pytest
import torch
from torch import nn

from palimpsest.claims import _plates
from palimpsest.claims._plates import SCALES, Plates, Scale, chosen_rates, recall
from palimpsest.objectives.multi_similarity import MultiSimilarity
from palimpsest.zoo.digits import digits

SMALL = Scale(classes=(9, 4, 5), rows_to_learn=6, rows_to_find=3, steps=5, classes_of_batch=3, rows_of_each=2, hidden=8)


def plates(scale=SMALL, seed=0, split=0):
    return Plates(scale, seed, split, torch.device("cpu"))


def test_a_plate_spells_its_class_in_handwriting_of_its_part():
    world = plates()
    known, unknown = ({tuple(r["inputs"].tolist()): r["label"] for r in part} for part in digits(seed=0, test=0.4))
    for part, hands in (("seen", known), ("validation", unknown), ("asked", unknown)):
        idle = set()
        for row in world.rows(part):
            spelled = [hands[tuple(digit.tolist())] for digit in row["inputs"].view(4, 64)]
            assert 10 * spelled[0] + spelled[1] == row["label"]
            idle.update(spelled[2:])
        assert len(idle) > 5, "the other digits may be any"


@pytest.mark.parametrize("scale", [SMALL, *SCALES.values()])
def test_no_two_parts_share_a_number_and_another_split_has_others(scale):
    one, two = plates(scale), plates(scale, split=1)
    parts = [one.numbers(p) for p in ("seen", "validation", "asked")]
    assert [len(p) for p in parts] == list(scale.classes)
    assert len({n for p in parts for n in p}) == sum(scale.classes)
    assert one.numbers("seen") != two.numbers("seen") and one.numbers("seen") == plates(scale).numbers("seen")


def test_every_batch_holds_several_plates_of_each_number():
    batches = plates().batches
    assert len(batches) == 5
    for batch in batches:
        _, counts = batch["labels"].unique(return_counts=True)
        assert counts.tolist() == [2, 2, 2] and batch["inputs"].shape == (6, 256)


def test_rates_are_chosen_by_validation_alone(monkeypatch):
    """The rate that helps on the numbers that are asked would be the other one."""

    def embed(objective, world, rate):
        helped = world.validation if rate == 0.1 else world.asked

        class Told(nn.Module):
            def forward(self, inputs):
                same = inputs.shape == helped[0].shape and torch.equal(inputs, helped[0])
                return nn.functional.one_hot(helped[1], 100).float() if same else torch.ones(len(inputs), 2)

        return Told()

    monkeypatch.setattr(_plates, "trained", embed)
    assert chosen_rates({"loss": MultiSimilarity()}, [plates()], (0.2, 0.1)) == {"loss": 0.1}


def test_recall_at_one():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.5, 0.6]])
    assert recall(features, torch.tensor([0, 0, 1, 1, 0])) == pytest.approx(80.0)
