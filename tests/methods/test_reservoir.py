"""The replay buffer: equal probabilities, no future, nothing that returns."""

import pytest
import torch

from palimpsest.adapters.classifier import Classifier
from palimpsest.loop import Training, fit
from palimpsest.objective import on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.roles import Roles
from palimpsest.selectors.reservoir import Reservoir, buffer_keys, smallest


def stream(n):
    return [{"id": f"{i}", "inputs": [float(i)], "label": i % 3} for i in range(n)]


def test_every_row_is_kept_with_the_same_probability():
    """m / N within three standard deviations over 10,000 seeds; the largest of 12 rows within four."""
    n, size, trials = 12, 5, 10_000
    data, counts = stream(n), torch.zeros(n)
    for seed in range(trials):
        counts[smallest(buffer_keys(data, seed), size)] += 1
    share, sigma = size / n, (size / n * (1 - size / n) / trials) ** 0.5
    off = (counts / trials - share).abs() / sigma
    assert float(off.max()) < 4 and float(off.square().mean()) < 3


def test_a_buffer_never_holds_the_future_and_nothing_returns():
    data = stream(60)
    dropped = set()
    for n in range(1, 61):
        held = set(Reservoir(7, seed=3)(data[:n]).index.tolist())
        assert len(held) == min(n, 7) and max(held) < n
        assert not held & dropped
        dropped |= set(range(n)) - held


def test_the_order_of_the_stream_does_not_matter_and_the_seed_does():
    data = stream(30)
    kept = {data[i]["id"] for i in Reservoir(10)(data).index}
    assert kept == {data[::-1][i]["id"] for i in Reservoir(10)(data[::-1]).index}
    assert kept != {data[i]["id"] for i in Reservoir(10, seed=1)(data).index}


def test_equal_rows_are_kept_one_by_one():
    data = [{"inputs": [0.0], "label": 0}] * 6
    assert len(Reservoir(4)(data).index) == 4
    assert len(set(buffer_keys(data, 0).tolist())) == 6


def test_a_role_under_a_buffer_hands_out_the_buffer_alone():
    data = stream(20)
    roles = Roles(Classifier(3), {"task": data, "replay": data}, selections={"replay": Reservoir(4)(data)})
    held = set(Reservoir(4)(data).index.tolist())
    seen = {int(i) for step in range(5) for i in roles.window(step, 4, seed=0)[0]["replay"]["index"]}
    assert seen == held
    model = torch.nn.Linear(1, 3)
    fit(model, roles, on("task", CrossEntropy()) + on("replay", CrossEntropy()), Training(steps=2, batch=4))


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_buffer_is_refused(size):
    with pytest.raises(ValueError, match="size must be at least 1"):
        Reservoir(size)
