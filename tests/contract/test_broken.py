"""The contract has teeth: each broken objective fails the check that is there to catch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import objective_checks as contract
import pytest
import torch

from palimpsest.objective import Objective
from palimpsest.objectives.flat import FLAT
from palimpsest.objectives.npo import npo


@dataclass(frozen=True)
class Constant(Objective):
    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return 0.0 * view.seq_logp + 1.0


@dataclass(frozen=True)
class Detached(Objective):
    def __call__(self, view, state=None):
        return -view.logp.detach()


@dataclass(frozen=True)
class OwnReference(Objective):
    """NPO whose reference is the model in training: the weights move, the loss stays (2 / beta) ln 2."""

    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return npo(view.seq_logp, view.seq_logp.detach(), 0.1)


@dataclass(frozen=True)
class PaddingCounted(Objective):
    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return -view.logp.mean(1)


@dataclass(frozen=True)
class PaddingTokenScored(Objective):
    """Scores every column as if it were text."""

    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return view.log_probs[..., 7].sum(1)


@dataclass(frozen=True)
class AbsolutePosition(Objective):
    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        columns = torch.arange(view.logp.shape[1], dtype=torch.float32)
        return -(view.logp * columns).sum(1)


@dataclass(frozen=True)
class RowNumber(Objective):
    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return -view.seq_logp * (1.0 + torch.arange(view.size))


@dataclass(frozen=True)
class OverTheBatch(Objective):
    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return view.seq_logp.mean().square().expand(view.size)


@dataclass(frozen=True)
class Reduced(Objective):
    def __call__(self, view, state=None):
        return -view.logp.sum() / view.mask.sum()


@dataclass(frozen=True)
class UnknownUnit(Objective):
    unit: ClassVar = "word"

    def __call__(self, view, state=None):
        return -view.seq_logp


@dataclass(frozen=True)
class NotFinite(Objective):
    """The logarithm of a probability that is 0 at the padding."""

    def __call__(self, view, state=None):
        return (view.logp.exp() - 1).log()


@dataclass(frozen=True)
class GlobalRandom(Objective):
    def __call__(self, view, state=None):
        return -view.logp * torch.rand(view.logp.shape)


@dataclass(frozen=True)
class InPlace(Objective):
    def __call__(self, view, state=None):
        view.batch["draw"].zero_()
        return -view.logp


@dataclass
class Thawed(Objective):
    def __call__(self, view, state=None):
        return -view.logp


BROKEN = [
    (Constant(), "moves_weights"),
    (Detached(), "moves_weights"),
    (OwnReference(), "follows_weights"),
    (PaddingCounted(), "ignores_right_padding"),
    (PaddingTokenScored(), "ignores_right_padding"),
    (PaddingTokenScored(), "ignores_left_padding"),
    (AbsolutePosition(), "ignores_left_padding"),
    (RowNumber(), "ignores_order_of_rows"),
    (OverTheBatch(), "ignores_batch_split"),
    (FLAT(legacy_reduction=True), "ignores_right_padding"),
    (Reduced(), "states_its_unit"),
    (UnknownUnit(), "states_its_unit"),
    (NotFinite(), "is_finite"),
    (GlobalRandom(), "is_deterministic"),
    (InPlace(), "leaves_the_batch_alone"),
    (Thawed(), "is_frozen"),
]


@pytest.mark.parametrize(("objective", "check"), BROKEN, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_a_broken_objective_fails(objective, check):
    with pytest.raises(AssertionError):
        contract.CHECKS[check][0](contract.setting(objective, "language-model"))


def test_every_check_is_shown_to_catch_something():
    assert {check for _, check in BROKEN} == set(contract.CHECKS)


@dataclass(frozen=True)
class Sound(Objective):
    """The repaired form of several of the above."""

    unit: ClassVar = "sequence"

    def __call__(self, view, state=None):
        return -view.logp.sum(1) / view.mask.sum(1)


@pytest.mark.parametrize("check", contract.CHECKS)
def test_a_sound_objective_passes(check):
    contract.CHECKS[check][0](contract.setting(Sound(), "language-model"))
