"""What a model is still good for, in one figure that any single failure pulls down.

    U = harmonic mean of nine numbers:
        { probability, ROUGE-L recall, max(0, 1 - truth ratio) } x { retain, real authors, world facts }

The items are those nine numbers, so that the report shows which of them fell.  U is 0 when one of them is 0.

Paper: TOFU: A Task of Fictitious Unlearning for LLMs (Maini et al., 2024), arXiv 2401.06121.
Code: locuslab/tofu (utils.py, get_model_utility; aggregate_eval_stat.py).
Tags: audit, retain, unlearning, language-model.
Needs: the roles retain (the role it is asked for), real_authors and world_facts, with prompt, completion and
    perturbed_completions; retain also with paraphrased_completion.
Differs: the released files disagree about the mean in the truth ratio; see ``truth_ratio``. An interval over nine
    components says how uneven they are, not how sure each is; audit the roles one by one for that.
See: ``probability``, ``rouge``, ``truth_ratio``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palimpsest.audit import SHARE, Audit, Row, Scores, Subject, Unmeasurable, column, role_rows
from palimpsest.audits.probability import Probability
from palimpsest.audits.rouge import Rouge
from palimpsest.audits.truth_ratio import Mean, TruthRatio

__all__ = ["METHOD", "ModelUtility"]


@dataclass(frozen=True)
class ModelUtility:
    """``real_authors`` and ``world_facts`` name the roles with facts that training should not have touched."""

    real_authors: str = "real_authors"
    world_facts: str = "world_facts"
    mean: Mean = "geometric"
    max_new_tokens: int = 128

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """Nine values in [0, 1], with ids ``role/audit``."""
        roles = (role, self.real_authors, self.world_facts)
        if len(set(roles)) < 3:
            raise Unmeasurable(f"model_utility needs three different roles, not {', '.join(roles)}.")
        for name in roles:  # all of them before the first question: the last may lack a column
            special = "paraphrased_completion" if name == role else "perturbed_completions"
            for wanted in ("prompt", "completion", special):
                column(role_rows(data, name, "model_utility"), wanted, name, "model_utility")
        values: dict[str, float] = {}
        for name in roles:
            own = name == role
            audits: tuple[Audit, ...] = (
                Probability(relative=not own),
                Rouge(max_new_tokens=self.max_new_tokens),
                TruthRatio(self.mean, "utility", "paraphrased_completion" if own else "completion", "higher"),
            )
            for audit in audits:
                scores = audit(subject, data, name)
                values[f"{name}/{scores.name}"] = float(scores.items.double().mean())
        items = torch.tensor(list(values.values()), dtype=torch.float64)
        return Scores("model_utility", items, tuple(values), role=role, statistic="harmonic_mean", bounds=SHARE)


METHOD = ModelUtility
