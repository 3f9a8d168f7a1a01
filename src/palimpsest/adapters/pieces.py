"""Long texts as pieces that a model can see: one after the other they are the text again, to the character."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

__all__ = ["cut"]


def cut(text: str, starts: Sequence[int], length: Callable[[str], int], limit: int) -> list[str]:
    """``text`` in pieces of at most ``limit`` tokens, as ``length`` counts them, of about the same size.

    ``starts`` are the places in ``text`` where its tokens begin, in order.  A cut falls before a word where one begins
    in the second half of the piece, else between two tokens.  Raises ``ValueError`` where no piece is short enough.
    """
    room = limit - (length(text) - len(starts))  # what stands around every piece is not of the text
    if room < 1:
        raise ValueError(f"no text fits into {limit} tokens")
    places, first = [0], 0
    while first < len(starts):
        left = len(starts) - first
        last = first + math.ceil(left / math.ceil(left / room))
        while True:
            last = _before_a_word(text, starts, first, last)
            end = starts[last] if last < len(starts) else len(text)
            over = length(text[places[-1] : end]) - limit  # a piece alone may have other tokens than in the text
            if over <= 0:
                break
            if last - over <= first:
                raise ValueError(f"no piece from character {places[-1] + 1} on fits into {limit} tokens")
            last -= over
        places.append(end)
        first = last
    found = [text[start:end] for start, end in itertools.pairwise(places)]
    return [piece for piece in found if piece]  # two tokens may begin at one character


def _before_a_word(text: str, starts: Sequence[int], first: int, last: int) -> int:
    """The last token up to ``last`` that begins a word, of those in the second half of the piece; else ``last``."""
    if last >= len(starts):
        return last
    for token in range(last, first + (last - first) // 2, -1):
        at = starts[token]
        if text[at].isspace() or text[at - 1].isspace():
            return token
    return last
