"""Tests the memory of language models as psychologists test people: after one to three exposures to a sentence, do
they recognize it, can they complete it, and for how long as training goes on."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Recognition, recall, and retention of few-shot memories in large language models",
    "Orhan",
    2023,
    arxiv="2303.17557",
    tags=("recall", "memory", "memorization", "audit", "language-model"),
    summary=(
        "Tests the memory of language models as psychologists test people: after one to three exposures to a "
        "sentence, do they recognize it, can they complete it, and for how long as training goes on."
    ),
)
PARTS: tuple[str, ...] = ()
