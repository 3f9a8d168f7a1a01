"""The one order of the data: rounds, cycling, splits over processes and micro-batches, paired answers, selections."""

from __future__ import annotations

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.augment import Augment
from palimpsest.roles import Answers, Derived, Roles, seeded
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
        (lambda: roles(answers={"wrong": Answers("nobody", "label", (1,))}), "which is no role"),
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


# Roles that are derived from another


def pictures() -> list[dict]:
    return [{"inputs": torch.arange(9.0) + 10 * i + 1, "label": i % 3} for i in range(5)]


def test_a_derived_role_is_a_function_of_the_row_and_the_draw() -> None:
    change = Augment(shift=1, noise=0.1)
    data = Roles(
        Classifier(3), {"task": pictures()}, answers={"a": Derived("task", change), "b": Derived("task", change)}
    )
    assert list(data) == ["task", "a", "b"] and data.size("a") == 5 and data.source("a") == "task"
    for step in range(3):
        (batch,) = data.window(step, 5, seed=7)
        for role in ("a", "b"):
            assert batch[role]["index"].tolist() == batch["task"]["index"].tolist()
            for i, index in enumerate(batch[role]["index"].tolist()):
                expected = change(pictures()[index], seeded(7, role, step, index))["inputs"]
                assert torch.equal(batch[role]["inputs"][i], expected)
        assert not torch.equal(batch["a"]["inputs"], batch["b"]["inputs"]), "the two views are drawn apart"
        assert torch.equal(batch["a"]["labels"], batch["task"]["labels"])


def test_a_picture_is_shifted_whole_and_leaves_its_row_alone() -> None:
    (row,) = pictures()[:1]
    found = {tuple(Augment(shift=1)(row, draw)["inputs"].view(3, 3).flatten().tolist()) for draw in range(200)}
    expected = set()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            grid = torch.zeros(5, 5)
            grid[1:4, 1:4] = row["inputs"].view(3, 3)
            expected.add(tuple(grid[1 + down : 4 + down, 1 + right : 4 + right].flatten().tolist()))
    assert found == expected
    assert torch.equal(row["inputs"], torch.arange(9.0) + 1)
    assert Augment()(row, 3)["inputs"] is row["inputs"]
    noise = torch.stack([Augment(noise=0.5)(row, d)["inputs"] - row["inputs"] for d in range(400)])
    assert float(noise.std()) == pytest.approx(0.5, rel=0.05) and abs(float(noise.mean())) < 0.03


def test_what_cannot_be_changed_is_refused() -> None:
    with pytest.raises(ValueError, match="shift and noise must not be negative"):
        Augment(shift=-1)
    with pytest.raises(ValueError, match="no square picture"):
        Augment(shift=1)({"inputs": [1.0, 2.0]}, 0)
    with pytest.raises(ValueError, match="is no picture"):
        Augment(shift=1)({"text": "a"}, 0)
    with pytest.raises(ValueError, match="'view' is made from 'nobody', which is no role"):
        Roles(Classifier(3), {"task": rows(2)}, answers={"view": Derived("nobody", Augment())})


def test_another_selection_gives_another_order_at_once() -> None:
    """A later stage may select other rows of the same role under the same seed."""
    data = roles()
    seen(data, "forget", 3, 2)
    for index in ([4, 1], [0, 3], [0, 1, 2]):
        data.selections["forget"] = Selection(torch.tensor(index), torch.ones(len(index)), torch.zeros(5))
        (batch,) = data.window(0, 2 * len(index), seed=3)
        assert sorted(batch["forget"]["index"].tolist()) == sorted(2 * index)
    del data.selections["forget"]
    (batch,) = data.window(0, 5, seed=3)
    assert sorted(batch["forget"]["index"].tolist()) == [0, 1, 2, 3, 4]


def test_a_derived_role_follows_the_selection_of_its_rows() -> None:
    chosen = Selection(torch.tensor([2, 4]), torch.tensor([2.0, 0.5]), torch.zeros(5))
    data = Roles(
        Classifier(3),
        {"task": pictures()},
        answers={"view": Derived("task", Augment(noise=0.1))},
        selections={"task": chosen},
    )
    (batch,) = data.window(0, 2, seed=0)
    assert dict(zip(batch["view"]["index"].tolist(), batch["view"]["weight"].tolist())) == {2: 2.0, 4: 0.5}
