"""Terms and their evaluation where no single method shows it: wrong roles are refused, idle forwards are not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from palimpsest.adapters.causal_lm import CausalLM
from palimpsest.objective import Objective, evaluate, on
from palimpsest.objectives.cross_entropy import CrossEntropy
from palimpsest.objectives.preference import Preference
from palimpsest.schedules.ramp import Ramp
from palimpsest.views import ParameterView, Unit
from palimpsest.zoo.models import tiny_llama


@dataclass(frozen=True)
class SquaredNorm(Objective):
    """Half the squared norm of the parameters."""

    unit: ClassVar[Unit] = "parameter"

    def __call__(self, view: ParameterView, state: nn.Module | None = None) -> Tensor:
        return torch.stack([p.square().sum() for p in view.parameters.values()]).sum() / 2


@pytest.mark.parametrize(
    ("role", "objective", "said"),
    [
        (("forget", "retain"), CrossEntropy(), "CrossEntropy looks at one role, not at 2"),
        ("forget", Preference(), "Preference looks at 2 roles, paired row by row, not at 1"),
    ],
)
def test_a_term_on_the_wrong_number_of_roles_is_refused(role: object, objective: Objective, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        on(role, objective)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [CrossEntropy(), CrossEntropy, Ramp, "0.5", None])
def test_a_term_is_weighed_by_a_number_or_a_function_of_progress(weight: object) -> None:
    """An objective can be called too, and so can the class of a schedule."""
    for term in (on("task", CrossEntropy()), on("task", CrossEntropy()) + on("task", CrossEntropy())):
        with pytest.raises(TypeError, match="multiplied by a number or by a function of progress, not by"):
            term * weight  # type: ignore[operator]


def test_terms_are_added_up_by_sum() -> None:
    terms = [on(role, CrossEntropy()) for role in ("one", "two", "three")]
    assert sum(terms) == terms[0] + terms[1] + terms[2] == sum([terms[0] + terms[1], terms[2]])
    with pytest.raises(TypeError, match="A term can be added to a term, not to 1"):
        sum(terms, 1)


def test_an_objective_of_the_parameters_alone_runs_no_forward() -> None:
    model, tokenizer = tiny_llama(300, 1, 16)
    (batch,) = CausalLM(tokenizer).roles(retain=[{"prompt": "who", "completion": " me"}]).window(0, 1, seed=0)

    def refuse(module: nn.Module, inputs: object) -> None:
        raise AssertionError("a forward was run")

    model.register_forward_pre_hook(refuse)
    found = evaluate(2.0 * on("weights", SquaredNorm()), model, batch).total
    expected = sum(p.detach().double().square().sum() for p in model.parameters())
    torch.testing.assert_close(found.detach().double(), expected, rtol=1e-5, atol=0)


def test_data_without_a_scored_token_is_named_and_not_divided_by() -> None:
    """Rows of the adapter always have one; labels that a caller masked may not."""
    model, tokenizer = tiny_llama(300, 1, 16)
    roles = CausalLM(tokenizer).roles(retain=[{"prompt": "who", "completion": " me"}])
    (batch,) = roles.window(0, 2, seed=0)
    batch["retain"]["labels"].fill_(-100)
    with pytest.raises(ValueError, match=r"retain/cross_entropy has no token to score .*; check the labels"):
        evaluate(on("retain", CrossEntropy()), model, batch)
