"""Keeps the small part of a corpus that reads most like a text of known quality, to be trained on for several rounds.

    score(x) = exp(-(1 / |x|) sum_t log p(x_t | x_<t)),  p an n-gram model of the reference text

The documents with the lowest score, perplexity per word, are taken until the next one would exceed the budget.

Paper: Efficient Continual Pre-training by Mitigating the Stability Gap (Guo et al., 2024), arXiv 2406.14833, strategy
    II, section 4.
Code: none released.
Tags: retain, data-selection, continual-learning, pre-training, language-model.
Needs: rows with a text, and a reference text.
Differs: the paper takes KenLM over subwords, an n-gram model of words with Kneser-Ney counts stands here. Documents
    below ``minimum`` words and repetitions of one text are left out, since the lowest perplexities are otherwise
    boilerplate. A document is taken whole, so the subset ends up to one document short of the budget (the first is
    taken in any case). Words, not tokens, are counted.
See: ``drift`` and ``curves.gap`` for the gap itself; training for E rounds on the subset is ``train.epochs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from palimpsest.audit import Row
from palimpsest.data import load_rows
from palimpsest.select import Selection
from palimpsest.selectors._ngram import NGram, words_of

__all__ = ["METHOD", "QualitySubset", "lowest"]


def lowest(scores: Sequence[float], sizes: Sequence[int], budget: int) -> list[int]:
    """The places of the lowest scores whose ``sizes`` fit the budget together, in ascending order of place.

    It ends at the first that does not fit, so that nothing outside scores lower than anything inside; ties go to the
    earlier place, and the lowest is taken even alone.
    """
    taken: list[int] = []
    total = 0
    for place in sorted(range(len(scores)), key=lambda i: (scores[i], i)):
        if taken and total + sizes[place] > budget:
            break
        taken.append(place)
        total += sizes[place]
    return sorted(taken)


@dataclass(frozen=True)
class QualitySubset:
    """``words`` is the budget, a tenth of the corpus by default; ``reference`` a file of rows, or the texts themselves.

    Without a reference the corpus is its own, and what is taken is what is most typical of it.
    """

    words: int | None = None
    reference: str | tuple[str, ...] | None = None
    order: int = 3
    minimum: int = 5

    def __post_init__(self) -> None:
        for name, value in {"words": self.words, "order": self.order, "minimum": self.minimum}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        if isinstance(self.reference, tuple) and not self.reference:
            raise ValueError("The reference is an empty list of texts; give at least one, or leave it out.")

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """``score`` is the perplexity per word of every row; all weights are 1."""
        documents = [words_of(_text(row, i)) for i, row in enumerate(data, 1)]
        if not any(documents):
            raise ValueError("There is no text to choose from; give the role rows with a text.")
        model_of_quality = NGram(self._reference() or documents, self.order)
        scores = [model_of_quality.perplexity(words) for words in documents]
        first = {tuple(words): i for i, words in reversed(list(enumerate(documents)))}
        usable = sorted(i for words, i in first.items() if len(words) >= self.minimum)
        if not usable:
            raise ValueError(f"No document has {self.minimum} words; lower minimum.")
        available = sum(len(documents[i]) for i in usable)
        budget = max(1, available // 10) if self.words is None else self.words
        if budget > available:
            raise ValueError(f"{budget} words are more than the {available} of the corpus; lower words.")
        chosen = lowest([scores[i] for i in usable], [len(documents[i]) for i in usable], budget)
        index = torch.tensor([usable[i] for i in chosen])
        return Selection(index, torch.ones(len(index)), torch.tensor(scores, dtype=torch.float64))

    def _reference(self) -> list[list[str]] | None:
        if self.reference is None:
            return None
        if isinstance(self.reference, tuple):
            return [words_of(text) for text in self.reference]
        return [words_of(_text(row, i)) for i, row in enumerate(load_rows(self.reference), 1)]


def _text(row: Row, number: int) -> str:
    """What a language model reads of a row."""
    if "text" in row:
        return str(row["text"])
    if "completion" in row:
        return f"{row.get('prompt', '')} {row['completion']}"
    raise ValueError(f"quality_subset: row {number} has no text or completion; give rows of text.")


METHOD = QualitySubset
