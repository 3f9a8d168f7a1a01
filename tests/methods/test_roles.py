"""The one order of the data: rounds, cycling, splits over processes and micro-batches, paired answers, selections."""

from __future__ import annotations

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.roles import Answers, Roles, seeded
from palimpsest.select import Selection


def rows(n: int, start: int = 0) -> list[dict]:
    return [{"inputs": [float(start + i)], "label": i % 3} for i in range(n)]


def roles(**kwargs: object) -> Roles:
    return Roles(Classifier(3), {"forget": rows(5), "retain": rows(7, 100)}, **kwargs)  # type: ignore[arg-type]


def seen(data: Roles, role: str, steps: int, size: int, **split: int) -> list[float]:
    return [
        float(x)
        for step in range(steps)
        for batch in data.window(step, size, seed=3, **split)
        for x in batch[role]["inputs"].flatten()
    ]


def test_every_round_has_every_item_once_in_a_new_order() -> None:
    order = seen(roles(), "forget", 5, 2)
    first, second = order[:5], order[5:10]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second


def test_a_step_sees_the_same_items_however_it_is_split() -> None:
    data = roles()
    for step in range(6):
        (whole,) = data.window(step, 4, seed=3)
        for world, accumulation in ((1, 2), (2, 1), (2, 2), (4, 1)):
            parts = [
                batch["retain"]["index"].tolist()
                for rank in range(world)
                for batch in data.window(step, 4, seed=3, rank=rank, world=world, accumulation=accumulation)
            ]
            assert sorted(i for part in parts for i in part) == sorted(whole["retain"]["index"].tolist())


def test_draws_depend_on_the_item_and_the_round_alone() -> None:
    data = roles()
    draws = {}
    for step in range(10):
        (batch,) = data.window(step, 5, seed=1)
        for index, draw in zip(batch["forget"]["index"].tolist(), batch["forget"]["draw"].tolist()):
            assert draws.setdefault((step, index), draw) == draw == seeded(1, "forget", step, index)
    assert len(set(draws.values())) == 50


def test_answers_stand_beside_their_row_and_change_with_the_round() -> None:
    data = roles(answers={"wrong": Answers("forget", "label", (0, 1, 2))})
    labels = set()
    for step in range(12):
        (batch,) = data.window(step, 5, seed=0)
        assert torch.equal(batch["wrong"]["inputs"], batch["forget"]["inputs"])
        labels.add(tuple(batch["wrong"]["labels"].tolist()))
    assert len(labels) > 6


def test_a_selection_chooses_and_weighs() -> None:
    chosen = Selection(torch.tensor([4, 1]), torch.tensor([2.0, 0.5]), torch.zeros(5))
    data = roles(selections={"forget": chosen})
    (batch,) = data.window(0, 4, seed=0)
    weights = dict(zip(batch["forget"]["index"].tolist(), batch["forget"]["weight"].tolist()))
    assert weights == {4: 2.0, 1: 0.5}
    assert data.size("forget") == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Roles(Classifier(3), {"forget": []}), "'forget' has no rows"),
        (lambda: roles(answers={"wrong": Answers("nobody", "label", (1,))}), "which is not a role"),
        (lambda: Answers("forget", "label", ()), "empty list"),
        (lambda: roles().window(0, 4, seed=0, world=3), "multiple of 3"),
        (lambda: Roles(Classifier(2), {"forget": rows(3)})["forget"], "forget row 3: the label 2"),
        (lambda: Selection(torch.tensor([1, 1]), torch.ones(2), torch.zeros(2)), "names a row twice"),
        (lambda: Selection(torch.tensor([], dtype=torch.long), torch.ones(0), torch.zeros(2)), "chose no row"),
        (lambda: Selection(torch.tensor([1]), torch.tensor([-1.0]), torch.zeros(2)), "not negative"),
    ],
)
def test_errors_name_the_place(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
