"""Update rules against loops over single numbers, over several steps and for targets that are weights or zeros."""

import pytest
import torch

from palimpsest.optim._rules import adam, adam_plain_eps, lion, momentum

GROUP = {"betas": (0.8, 0.9), "eps": 0.1}
RATE = 0.3


def by_hand(rule, gradients):
    """How far one number has moved after these gradients, each move with its factor."""
    m = v = place = 0.0
    b1, b2 = GROUP["betas"]
    for t, g in enumerate(gradients, 1):
        if rule is lion:
            mixed = b1 * m + (1 - b1) * g
            place, m = place - RATE * ((mixed > 0) - (mixed < 0)), b2 * m + (1 - b2) * g
        elif rule is momentum:
            m = b1 * m + g
            place -= RATE * m
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            growth, first = (1 - b2**t) ** 0.5, 1 - b1**t
            root = v**0.5 / growth + GROUP["eps"] if rule is adam else (v**0.5 + GROUP["eps"]) / growth
            place -= RATE * m / first / root
    return place


@pytest.mark.parametrize("rule", [adam, adam_plain_eps, lion, momentum], ids=lambda r: r.__name__)
@pytest.mark.parametrize("strided", [False, True])
def test_a_rule_is_its_formula(rule, strided):
    """Strided targets take the way without torch's kernel."""
    torch.manual_seed(0)
    steps = torch.randn(4, 3, 5, dtype=torch.float64)
    target = torch.zeros(5, 3, dtype=torch.float64).T if strided else torch.zeros(3, 5, dtype=torch.float64)
    state = {}
    for gradient in steps:
        rule([target], [state], [gradient.clone()], GROUP, RATE)
    for row in range(3):
        for column in range(5):
            assert float(target[row, column]) == pytest.approx(by_hand(rule, steps[:, row, column].tolist()), rel=1e-9)


def test_states_after_unequal_steps_are_corrected_each_by_its_own():
    gradients = torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    targets, states = [torch.zeros(1, dtype=torch.float64) for _ in range(2)], [{}, {}]
    adam([targets[0]], [states[0]], [gradients[0].clone()], GROUP, RATE)
    adam(targets, states, [gradients[1].clone(), gradients[1].clone()], GROUP, RATE)
    assert float(targets[0]) == pytest.approx(by_hand(adam, [0.5, -2.0])) != float(targets[1])
    assert float(targets[1]) == pytest.approx(by_hand(adam, [-2.0]))
