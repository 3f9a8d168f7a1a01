"""A subject whose every answer is written down, so that the value of an audit can be worked out by hand.

It also makes what several test files share importable, which pytest's importlib mode does not.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from palimpsest.audit import Row

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not find what lies beside the tests


class Scripted:
    """Answers from dictionaries keyed by what is asked: a completion, a text, a prompt. A token is a word."""

    def __init__(
        self,
        *,
        logp: Mapping[str, Sequence[float]] | None = None,
        matches: Mapping[str, Sequence[bool]] | None = None,
        answers: Mapping[str, str] | None = None,
        classes: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._logp, self._matches, self._answers, self._classes = (
            logp or {},
            matches or {},
            answers or {},
            classes or {},
        )
        self.calls: list[tuple[str, int]] = []

    @staticmethod
    def _scored(row: Row) -> str:
        return str(row.get("completion", row.get("text")))

    def logp(self, rows: Sequence[Row]) -> list[Tensor]:
        self.calls.append(("logp", len(rows)))
        return [torch.tensor(self._logp[self._scored(row)]) for row in rows]

    def matches(self, rows: Sequence[Row]) -> list[Tensor]:
        self.calls.append(("matches", len(rows)))
        return [torch.tensor(self._matches[self._scored(row)]) for row in rows]

    def embed(self, rows: Sequence[Row]) -> Tensor:
        raise NotImplementedError

    def generate(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        self.calls.append(("generate", len(rows)))
        found = [self._answers[str(row.get("text_prefix", row.get("prompt")))] for row in rows]
        return [" ".join(text.split(" ")[:max_new_tokens]) for text in found]

    def truncate(self, texts: Sequence[str], tokens: int) -> list[str]:
        return [" ".join(text.split()[:tokens]) for text in texts]

    def predict(self, rows: Sequence[Row]) -> Tensor:
        self.calls.append(("predict", len(rows)))
        return torch.tensor([self._classes[row["id"]] for row in rows]).log()


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted
