"""Teaches a model to prefer one answer over another, judged against where it started.

    L_i = -log sigmoid(beta (log p(y_c)/p_ref(y_c) - log p(y_r)/p_ref(y_r)))

y_c is the chosen and y_r the rejected answer to the same prompt; log p(y) sums over an answer's tokens.  A file with
the columns prompt, chosen and rejected is two roles, row by row:

    roles: {chosen: {file: pairs.jsonl, columns: {completion: chosen}},
            rejected: {file: pairs.jsonl, columns: {completion: rejected}}}
    objective: [{on: [chosen, rejected], preference: {beta: 0.1}}]

For unlearning the chosen answer is a refusal: ``on(("refusal", "forget"), Preference(beta=0.1))``.

Paper: Direct Preference Optimization: Your Language Model is Secretly a Reward Model (Rafailov et al., 2023), arXiv
    2305.18290, equation 7; as an unlearning baseline in TOFU (Maini et al., 2024), arXiv 2401.06121.
Code: eric-mitchell/direct-preference-optimization; for unlearning locuslab/tofu (loss type dpo).
Tags: forget, learn, unlearning, loss, language-model.
Needs: ref.
Differs: nothing known. The loss is not scaled by 2 / beta as ``npo`` is: with the chosen answer's ratio held at 1 it
    is beta / 2 times NPO, so learning rates do not carry over from one to the other.
See: ``npo`` (its rejected half), ``flat`` (the same pair without a reference), ``multiple_choice`` (the audit: in how
    many pairs the chosen answer is the likelier one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import TokenView, Unit

__all__ = ["METHOD", "Preference", "preference"]


def preference(chosen: Tensor, ref_chosen: Tensor, rejected: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    """Equation 7 on log-probabilities of whole answers in nats, [B] each -> [B], at least 0.

    log 2 where the model equals its reference.
    """
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


@dataclass(frozen=True)
class Preference(Objective):
    """``beta`` > 0 is the inverse temperature; the first role is chosen, the second rejected."""

    beta: float = 0.1

    unit: ClassVar[Unit] = "pair"
    needs: ClassVar[frozenset[str]] = frozenset({"ref"})
    arity: ClassVar[int] = 2
    forgets: ClassVar[int | None] = 1

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be above 0, not {self.beta}.")

    def __call__(self, view: tuple[TokenView, TokenView], state: nn.Module | None = None) -> Tensor:
        """[B], one value per pair of (chosen answer, rejected answer)."""
        chosen, rejected = view
        if chosen.size != rejected.size:
            raise ValueError(
                f"Preference pairs every chosen answer with a rejected one, but there are {chosen.size} and "
                f"{rejected.size}; make one role with Answers(to=<the other>, …)."
            )
        return preference(chosen.seq_logp, chosen.ref.seq_logp, rejected.seq_logp, rejected.ref.seq_logp, self.beta)


METHOD = Preference
