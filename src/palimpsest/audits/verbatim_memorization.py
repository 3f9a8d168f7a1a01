"""Whether the model goes on with a text word for word, once it is given the beginning.

    VerbMem = mean over texts of ROUGE-L F1( greedy continuation of x[:prefix], x[prefix:] )

Both sides are at most ``max_new_tokens`` tokens long: the true continuation is cut to what the model could say.

Paper: MUSE: Machine Unlearning Six-Way Evaluation for Language Models (Shi et al., 2024), arXiv 2407.06460.
Code: jaechan-repo/muse_bench (verbmem/get_rouge.py).
Tags: audit, forget, unlearning, language-model.
Needs: the column text, or prompt and completion; a subject that generates.
Differs: the beginning is counted in words, not tokens, so that it never ends inside one and is the same for every
    tokenizer; the budget of the continuation is counted in tokens, as in the paper. A row without text takes its
    prompt as the beginning and its completion as the continuation.
See: ``extraction_strength`` (how long a beginning is needed), ``knowledge_memorization``, ``rouge``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from palimpsest.audit import SHARE, Row, Scores, Subject, Unmeasurable, column, role_rows, row_ids, row_name
from palimpsest.audits.rouge import rouge_items

__all__ = ["METHOD", "VerbatimMemorization", "split_words"]


def split_words(text: str, words: int) -> tuple[str, str]:
    """The first ``words`` words and everything after them, its leading space included; together they are ``text``."""
    found = re.match(rf"\s*(?:\S+\s+){{{words - 1}}}\S+", text)
    end = len(text) if found is None else found.end()
    return text[:end], text[end:]


@dataclass(frozen=True)
class VerbatimMemorization:
    """``prefix`` is the beginning's length in words, ``max_new_tokens`` the continuation's in tokens."""

    prefix: int = 32
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if self.prefix < 1 or self.max_new_tokens < 1:
            given = f"{self.prefix} and {self.max_new_tokens}"
            raise ValueError(f"prefix and max_new_tokens must be at least 1, not {given}.")

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One F1 in [0, 1] per row."""
        rows = role_rows(data, role, "verbatim_memorization")
        starts, rests = zip(*(self._split(row, number, role) for number, row in enumerate(rows, 1)))
        outputs = subject.generate(starts, self.max_new_tokens)
        references = subject.truncate(rests, self.max_new_tokens)
        items = rouge_items(references, outputs, "f1")
        ids = row_ids(rows, role)
        return Scores("verbatim_memorization", items, ids, role=role, outputs=tuple(outputs), bounds=SHARE)

    def _split(self, row: Row, number: int, role: str) -> tuple[Row, str]:
        """What the model is given, and how the text goes on."""
        if "text" not in row:
            return row, str(column([row], "completion", role, "verbatim_memorization", number)[0])
        start, rest = split_words(str(row["text"]), self.prefix)
        if not rest.strip():
            raise Unmeasurable(
                f"verbatim_memorization: nothing follows the first {self.prefix} words of the {role} row"
                f" {row_name(row, number)}; lower prefix or leave the row out."
            )
        return {"text_prefix": start}, rest


METHOD = VerbatimMemorization
