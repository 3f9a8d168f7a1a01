"""A small interpolated n-gram language model over words, with Kneser-Ney counts.

    p_k(w | h) = max(c(h w) - D, 0) / c(h) + D * types(h) / c(h) * p_{k-1}(w | h without its first word)

c counts occurrences for the longest n-grams and distinct words to the left for shorter ones; p_0 is uniform over the
vocabulary and one unknown word (Kneser and Ney 1995; Chen and Goodman 1999).  A context that was never seen leaves the
shorter one to answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["NGram", "words_of"]

_WORDS = re.compile(r"\w+|[^\w\s]")
_START = ""

Words = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Words and punctuation marks."""
    return _WORDS.findall(text)


class NGram:
    """Trained once on documents of words; ``order`` 1 is a unigram model, ``discount`` D lies in [0, 1)."""

    def __init__(self, documents: Iterable[Sequence[str]], order: int = 3, discount: float = 0.75) -> None:
        self.order, self.discount = order, discount
        counts: Counter[Words] = Counter()
        for words in documents:
            padded = [_START] * (order - 1) + list(words)
            counts.update(tuple(padded[i : i + order]) for i in range(len(words)))
        if not counts:
            raise ValueError("The reference text holds no word; give a text.")
        self._counts: list[Counter[Words]] = []
        while True:
            self._counts.insert(0, counts)
            if len(next(iter(counts))) == 1:
                break
            counts = Counter(gram[1:] for gram in counts)
        self._contexts = [_contexts(counts) for counts in self._counts]
        self.vocabulary = len(self._counts[0])

    def probability(self, context: Sequence[str], word: str) -> float:
        """p(word | context), of whose end ``order`` - 1 words count."""
        found = 1.0 / (self.vocabulary + 1)
        for length, (counts, contexts) in enumerate(zip(self._counts, self._contexts)):
            history = tuple(context[len(context) - length :])
            total, types = contexts.get(history, (0, 0))
            if not total:
                break
            seen = max(counts.get((*history, word), 0) - self.discount, 0.0)
            found = (seen + self.discount * types * found) / total
        return found

    def perplexity(self, words: Sequence[str]) -> float:
        """exp of the mean negative log-probability of a word; infinite for no word or an impossible one."""
        padded = [_START] * (self.order - 1) + list(words)
        total = 0.0
        for place in range(self.order - 1, len(padded)):
            likely = self.probability(padded[place - self.order + 1 : place], padded[place])
            if likely == 0:
                return math.inf
            total -= math.log(likely)
        return math.exp(total / len(words)) if words else math.inf


def _contexts(counts: Counter[Words]) -> dict[Words, tuple[int, int]]:
    """History -> (occurrences, distinct words that follow)."""
    found: dict[Words, tuple[int, int]] = {}
    for gram, count in counts.items():
        total, types = found.get(gram[:-1], (0, 0))
        found[gram[:-1]] = (total + count, types + 1)
    return found
