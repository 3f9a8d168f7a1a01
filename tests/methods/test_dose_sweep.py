"""Nothing is trained before the arms are known to differ in the dose alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from palimpsest.loop import Training
from palimpsest.procedures.dose_sweep import Arm, check_matched, dose_sweep

STAGES = (Training(steps=4, lr=1e-3), Training(steps=2, lr=1e-4))
JUNK = [{"id": f"j{i}", "text": f"junk{i} a b c"} for i in range(4)]
CONTROL = [{"id": f"c{i}", "text": f"control{i} a b c"} for i in range(4)]


def arm(treated: int, **changed: Any) -> Arm:
    made = Arm(treated / 4, [*JUNK[:treated], *CONTROL[: 4 - treated]], treated, STAGES)
    return dataclasses.replace(made, **changed)


ARMS = [arm(0), arm(2), arm(4)]


def test_matched_arms_pass() -> None:
    check_matched(ARMS)
    check_matched(ARMS, lambda text: len(text.split()) + 3)


def test_every_copy_starts_from_the_model_which_is_left_alone() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)

    def train(copy: nn.Module, own: Arm) -> nn.Module:
        with torch.no_grad():
            copy.weight += own.dose
        return copy

    found = dose_sweep(model, ARMS, train, lambda trained: trained.weight.item())
    assert found == {0.0: 2.0, 0.5: 2.5, 1.0: 3.0} and model.weight.item() == 2.0


OTHER = (Training(steps=4, lr=2e-3), STAGES[1])
LONG = [{**row, "text": row["text"] + " and five more words than that"} for row in CONTROL]
TWICE = [{"id": f"j{i}", "text": row["text"].upper()} for i, row in enumerate(CONTROL)]
PARTS = [{**row, "documents": ["c1", row["id"]]} for row in JUNK]


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ([arm(0), arm(4, stages=OTHER)], "Dose 1 is trained with other settings than dose 0"),
        ([arm(0), arm(4, stages=STAGES[:1])], "Dose 1 is trained with other settings than dose 0"),
        ([arm(0, rows=LONG), arm(4)], "Dose 1 has 16 tokens and dose 0 has 40; cut both to the same number"),
        ([arm(0), arm(1, dose=0.75), arm(4)], "Of dose 0.75 4 of 16 tokens are treated"),
        (
            [arm(0), arm(1, rows=[JUNK[3], *CONTROL[:3]]), arm(2), arm(4)],
            "Dose 0.5 lacks the treated row 'j3' of dose 0.25",
        ),
        ([arm(0), arm(4, rows=[*JUNK[:3], CONTROL[0]])], "1 documents, such as 'c0', stand in dose 0 and in dose 1"),
        ([arm(0), arm(4, rows=TWICE)], "4 documents, such as 'c0', stand in dose 0 and in dose 1"),
        ([arm(0), arm(4, rows=PARTS)], "1 documents, such as 'c1', stand in dose 0 and in dose 1"),
        ([arm(0), arm(2)], "begins with dose 0 and ends with dose 1"),
        ([arm(4), arm(0)], "in order of the dose"),
        ([arm(0), arm(0), arm(4)], "in order of the dose"),
        ([arm(0)], "at least two arms"),
    ],
)
def test_anything_else_that_differs_is_refused_before_training(arms: list[Arm], says: str) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("it was trained")

    with pytest.raises(ValueError, match=says):
        dose_sweep(nn.Linear(1, 1), arms, never, never)


def test_documents_of_other_lengths_need_to_be_asked_for() -> None:
    short = [{"id": f"j{i}", "text": f"junk{i} a"} for i in range(8)]
    arms = [arm(0), Arm(1.0, short, 8, STAGES)]
    with pytest.raises(ValueError, match="Dose 1 has 8 rows and dose 0 has 4, so their steps differ; pack them"):
        check_matched(arms)
    check_matched(arms, packed=False)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"dose": 2.0}, r"share in \[0, 1\], not 2.0"),
        ({"rows": []}, "Of the 0 rows"),
        ({"treated": 9}, "Of the 4 rows of dose 0.5, 9 cannot be the treatment"),
        ({"stages": ()}, "Dose 0.5 has no stage"),
    ],
)
def test_an_arm_checks_itself(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(ARMS[1], **changed)
