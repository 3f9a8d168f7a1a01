"""Whether the model finds in a long context what the end of the prompt asks for.

    item = share of the sought words or phrases that stand in the output (1 or 0 where one is sought)

The context is part of the prompt.  Where rows say at which ``depth`` of it the needle lies (0 the beginning, 1 the
end), the figures of the three thirds are given beside the mean.

Paper: RULER: What's the Real Context Size of Your Long-Context Language Models? (Hsieh et al., 2024), arXiv 2404.06654.
Code: NVIDIA/RULER (scripts/eval/synthetic/constants.py, string_match_all).
Tags: audit, retain, learn, memory, language-model.
Needs: the columns prompt and answer (text, or a list of several); a subject that generates.
Differs: RULER looks for the characters, so that 12 is found in 312; here words must agree (``exact_match``).
See: ``exact_match`` (one answer, without a context), ``zoo.probes.needles`` (rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palimpsest.audit import SHARE, Row, Scores, Subject, column, role_rows, row_ids
from palimpsest.audits.exact_match import matches_answer

__all__ = ["METHOD", "NeedleRetrieval", "found_share"]

THIRDS = ("beginning", "middle", "end")


def found_share(output: str, answer: str | Sequence[str]) -> float:
    """The share of the answers that stand in ``output`` word by word."""
    wanted = [answer] if isinstance(answer, str) else list(answer)
    return sum(matches_answer(output, str(one)) for one in wanted) / len(wanted)


@dataclass(frozen=True)
class NeedleRetrieval:
    """``max_new_tokens`` is the length of the longest answer."""

    max_new_tokens: int = 32

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One share in [0, 1] per row."""
        rows = role_rows(data, role, "needle_retrieval")
        column(rows, "prompt", role, "needle_retrieval")
        answers = column(rows, "answer", role, "needle_retrieval")
        outputs = subject.generate(rows, self.max_new_tokens)
        shares = [found_share(output, answer) for output, answer in zip(outputs, answers, strict=True)]
        items = torch.tensor(shares, dtype=torch.float64)
        ids = row_ids(rows, role)
        extra = _by_depth(items, rows)
        return Scores("needle_retrieval", items, ids, role=role, outputs=tuple(outputs), extra=extra, bounds=SHARE)


def _by_depth(items: Tensor, rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each third of the context that holds a needle; nothing where a row does not say its depth."""
    if not all("depth" in row for row in rows):
        return {}
    third = torch.tensor([min(2, int(3 * float(row["depth"]))) for row in rows])
    return {f"at the {name}": float(items[third == i].mean()) for i, name in enumerate(THIRDS) if (third == i).any()}


METHOD = NeedleRetrieval
