"""Every selector chooses existing rows by itself, the same ones each time, and builds from its own dump."""

from __future__ import annotations

import copy
import dataclasses
import inspect

import pytest
import torch

from palimpsest import names
from palimpsest.card import docstring_of, parse_card
from palimpsest.select import Selection

NAMES = sorted(names.names("selectors"))
TEXT = "the cat sat on a mat and looked at some birds far away in old trees near water"


def rows(number: int = 20):
    """Rows with the columns of all kinds of models, and no two alike."""
    words, found = TEXT.split(), []
    for i in range(number):
        text = " ".join(words[(i * 5 + j * (i + 1)) % len(words)] for j in range(120 if i < 2 else 6 + i)) + "."
        half = len(text) // 2
        found.append(
            {
                "id": f"row-{i}",
                "text": text,
                "prompt": text[:half],
                "completion": text[half:],
                "inputs": torch.randn(5, generator=torch.Generator().manual_seed(i)),
                "label": i % 4,
                "likes": 100 * i,
            }
        )
    return found


@pytest.fixture(params=NAMES)
def selector(request):
    return names.build(request.param, "selectors")


def handed_out(selection: Selection) -> torch.Tensor:
    """The chosen rows in the order of one round."""
    return selection.index[selection.places(torch.Generator().manual_seed(0))]


def same(first: Selection, second: Selection) -> bool:
    pairs = [(first.index, second.index), (first.weight, second.weight), (first.score, second.score)]
    return all(torch.equal(a, b) for a, b in [*pairs, (handed_out(first), handed_out(second))])


def test_chooses_existing_rows_and_scores_all(selector):
    data = rows()
    selection = selector(data)
    assert isinstance(selection, Selection)  # which checks weights and doubles itself
    assert selection.index.dtype == torch.int64
    assert int(selection.index.min()) >= 0 and int(selection.index.max()) < len(data)
    assert selection.score.shape == (len(data),)
    round_ = handed_out(selection).tolist()
    assert len(round_) == selection.length and len(set(round_)) == len(round_)
    assert selection.order is None or selection.length % selection.order.block == 0


def test_the_same_rows_give_the_same_selection(selector):
    first = selector(rows())
    torch.manual_seed(1)
    assert same(first, selector(rows())), "it depends on the global random state"


def test_leaves_the_rows_alone(selector):
    data = rows()
    before = copy.deepcopy(data)
    selector(data)
    for row, was in zip(data, before, strict=True):
        assert row.keys() == was.keys()
        assert all(torch.equal(row[k], was[k]) if isinstance(row[k], torch.Tensor) else row[k] == was[k] for k in row)


def test_no_rows_are_refused_with_a_sentence(selector):
    with pytest.raises(ValueError, match=r"\.$"):
        selector([])


def test_is_called_with_rows_and_a_model(selector):
    parameters = inspect.signature(type(selector).__call__).parameters
    assert list(parameters) == ["self", "data", "model"] and parameters["model"].default is None


def test_frozen_and_built_from_its_own_dump(selector):
    assert dataclasses.is_dataclass(selector) and type(selector).__dataclass_params__.frozen
    assert hash(selector) == hash(copy.deepcopy(selector))
    assert names.build(names.dump(selector), "selectors") == selector


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    card = parse_card(docstring_of(names.names("selectors")[name]))
    for field in ("summary", "equation", "paper", "code", "tags", "needs", "differs", "see"):
        assert getattr(card, field), f"the card of {name} has no {field}"
    assert card.summary.endswith(".") and "data-selection" in card.tags


def test_every_selector_is_found():
    assert {"reservoir", "class_balanced"} <= set(NAMES)
