"""The class-balanced buffer: equal shares, no empty places, no future, nothing that returns."""

import random
from collections import Counter

import pytest

from palimpsest.selectors.class_balanced import ClassBalanced


def stream(labels):
    return [{"id": f"{i}", "label": label} for i, label in enumerate(labels)]


def held(data, size, seed=0):
    return ClassBalanced(size, seed=seed)(data).index.tolist()


def test_equal_shares_whatever_the_frequencies():
    data = stream([0] * 80 + [1] * 15 + [2] * 5)
    assert Counter(data[i]["label"] for i in held(data, 12)) == {0: 4, 1: 4, 2: 4}


def test_what_a_rare_class_leaves_goes_to_the_others():
    data = stream([0] * 80 + [1] * 15 + [2] * 2)
    found = Counter(data[i]["label"] for i in held(data, 13))
    assert found[2] == 2 and sorted((found[0], found[1])) == [5, 6]
    assert len(held(data[:6], 13)) == 6


def test_a_row_of_a_class_is_kept_with_the_same_probability():
    data, counts = stream([0] * 6 + [1] * 3), Counter()
    for seed in range(3000):
        counts.update(held(data, 4, seed))
    for i in range(6):
        assert counts[i] / 3000 == pytest.approx(2 / 6, abs=4 * (2 / 9 / 3000) ** 0.5)
    for i in range(6, 9):
        assert counts[i] / 3000 == pytest.approx(2 / 3, abs=4 * (2 / 9 / 3000) ** 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_no_future_and_nothing_returns(seed):
    labels = random.Random(seed).choices(range(4), weights=[8, 4, 2, 1], k=60)
    data, dropped = stream(labels), set()
    for n in range(1, 61):
        now = set(held(data[:n], 7, seed))
        assert len(now) == min(n, 7) and max(now) < n
        assert not now & dropped
        dropped |= set(range(n)) - now


def test_a_row_without_a_class_is_named():
    with pytest.raises(ValueError, match="'1' has no label"):
        ClassBalanced(2)([{"id": "0", "label": 1}, {"id": "1"}])
    with pytest.raises(ValueError, match="size must be at least 1"):
        ClassBalanced(0)
