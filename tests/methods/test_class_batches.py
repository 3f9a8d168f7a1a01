"""Batches of a few classes with several rows of each: what stands in them, how often, and in which order."""

import itertools
import random
from collections import Counter

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.recipe import RecipeError
from palimpsest.recipe_source import parse_recipe
from palimpsest.roles import Roles
from palimpsest.selectors.class_batches import ClassBatches, classes_of_batches, most_batches


def rows(sizes):
    """Rows of as many classes, mixed."""
    labels = [c for c, size in enumerate(sizes) for _ in range(size)]
    random.Random(0).shuffle(labels)
    return [{"id": f"{i}", "inputs": [float(i)], "label": c} for i, c in enumerate(labels)]


def batches_of(sizes, selector, rounds=2, seed=0):
    """The batches of so many rounds, each as (row, class) pairs."""
    data = rows(sizes)
    selection = selector(data)
    roles = Roles(Classifier(len(sizes)), {"task": data}, selections={"task": selection})
    steps = rounds * selection.length // selector.block
    found = [roles.window(step, selector.block, seed=seed)[0]["task"] for step in range(steps)]
    return [list(zip(b["index"].tolist(), b["labels"].tolist())) for b in found]


@pytest.mark.parametrize("sizes", [[6] * 8, [40, 9, 7, 6, 5, 4, 3, 3, 2, 1], [100, 100, 6, 6]])
def test_every_batch_holds_the_classes_and_rows_that_it_names(sizes):
    selector = ClassBatches(classes=3, rows_of_each=3)
    found = batches_of(sizes, selector)
    for batch in found:
        counts = Counter(label for _, label in batch)
        assert sorted(counts.values()) == [3, 3, 3], "three rows of three classes"
    half = len(found) // 2
    for first, last in ((0, half), (half, len(found))):
        shown = [row for batch in found[first:last] for row, _ in batch]
        assert len(set(shown)) == len(shown), "no row twice in a round"
    assert found[:half] != found[half:], "every round has its own order"


def test_all_rows_are_shown_where_they_come_out_even():
    found = batches_of([6] * 8, ClassBatches(classes=4, rows_of_each=3), rounds=1)
    assert sorted(row for batch in found for row, _ in batch) == list(range(48))


def test_a_class_with_too_few_rows_is_left_out_and_the_rest_of_the_others_changes():
    data = rows([7, 7, 7, 2])
    selection = ClassBatches(classes=2, rows_of_each=3)(data)
    assert [data[i]["label"] for i in selection.index.tolist()].count(3) == 0 and len(selection.index) == 21
    assert {data[i]["label"]: float(selection.score[i]) for i in range(23)} == {0: 7, 1: 7, 2: 7, 3: 2}
    shown = [set(selection.index[selection.places(torch.Generator().manual_seed(s))].tolist()) for s in range(9)]
    assert all(len(s) == selection.length == 18 for s in shown) and len(set.union(*shown)) == 21


@pytest.mark.parametrize("seed", range(20))
def test_the_number_of_batches_is_the_largest_that_can_be(seed):
    drawn = random.Random(seed)
    shares = [drawn.randint(1, 12) for _ in range(drawn.randint(3, 8))]
    classes = drawn.randint(1, len(shares))
    possible = [b for b in range(1, sum(shares) + 1) if sum(min(s, b) for s in shares) >= classes * b]
    assert most_batches(shares, classes) == max(possible)
    met = classes_of_batches(shares, classes, torch.Generator().manual_seed(seed))
    assert met.shape == (max(possible), classes)
    assert all(len(set(batch)) == classes for batch in met.tolist())
    counts = torch.bincount(met.flatten(), minlength=len(shares)).tolist()
    assert all(count <= share for count, share in zip(counts, shares))


def test_every_two_classes_meet_and_rare_ones_last_to_the_end():
    met = torch.stack(
        [classes_of_batches([8] * 6 + [2] * 2, 2, torch.Generator().manual_seed(s)) for s in range(60)]
    )  # [60, 26, 2]
    together = Counter(frozenset(pair) for round_ in met.tolist() for pair in round_)
    assert set(together) == {frozenset(pair) for pair in itertools.combinations(range(8), 2)}
    rare = (met >= 6).any(2).double()  # [60, 26]
    early, late = float(rare[:, :13].mean()), float(rare[:, 13:].mean())
    assert abs(early - late) < 0.05, (early, late)


def test_the_order_does_not_depend_on_processes_or_where_a_run_starts():
    data, selector = rows([9] * 5), ClassBatches(classes=2, rows_of_each=4)
    roles = Roles(Classifier(5), {"task": data}, selections={"task": selector(data)})
    for step in (0, 3, 7):
        whole = roles.window(step, 8, seed=1)[0]["task"]["index"].tolist()
        halves = [roles.window(step, 8, seed=1, rank=rank, world=2)[0]["task"]["index"].tolist() for rank in (0, 1)]
        fresh = Roles(Classifier(5), {"task": data}, selections={"task": selector(data)})
        assert whole == halves[0] + halves[1] == fresh.window(step, 8, seed=1)[0]["task"]["index"].tolist()


def test_another_selection_of_the_same_size_has_its_own_order():
    data = rows([6] * 4)
    roles = Roles(Classifier(4), {"task": data}, selections={"task": ClassBatches(4, 3)(data)})
    roles.window(0, 12, seed=0)
    roles.selections["task"] = ClassBatches(2, 6)(data)
    labels = roles.window(0, 12, seed=0)[0]["task"]["labels"].tolist()
    assert sorted(Counter(labels).values()) == [6, 6]
    del roles.selections["task"]
    assert sorted(roles.window(0, 24, seed=0)[0]["task"]["index"].tolist()) == list(range(24))


RECIPE = {
    "model": {"pretrained": "digits-mlp", "adapter": "classifier"},
    "roles": {"task": {"zoo": "digits"}},
    "objective": [{"on": "task", "multi_similarity": {}}],
    "select": {"task": {"class_batches": {"classes": 5, "rows_of_each": 4}}},
    "train": {"steps": 3, "batch": 20},
    "audits": {"task": ["accuracy"]},
}


def test_what_does_not_fit_is_refused():
    data = rows([3, 3, 3])
    with pytest.raises(ValueError, match="Only 3 classes have 3 rows, too few for 4 in a batch; lower"):
        ClassBatches(4, 3)(data)
    with pytest.raises(ValueError, match="rows_of_each must be at least 1"):
        ClassBatches(4, 0)
    roles = Roles(Classifier(3), {"task": data}, selections={"task": ClassBatches(3, 2)(data)})
    with pytest.raises(ValueError, match="ordered for batches of 6, and not of 4; choose a multiple"):
        roles.window(0, 4, seed=0)
    assert len(roles.window(0, 12, seed=0)[0]["task"]["labels"]) == 12
    with pytest.raises(RecipeError, match=r"train.batch: .* makes batches of 20 rows, and 24 is no multiple of it"):
        parse_recipe(RECIPE | {"train": {"steps": 3, "batch": 24}})
    parse_recipe(RECIPE | {"train": {"steps": 3, "batch": 40}})
