"""Shortens the early dip in accuracy when a language model moves into a new domain by several passes over a small
subset of good text, mixed in the proportions of the original pre-training data."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Efficient Continual Pre-training by Mitigating the Stability Gap",
    "Yiduo Guo et al.",
    2024,
    arxiv="2406.14833",
    venue="ACL 2025",
    tags=("retain", "continual-learning", "data-selection", "pre-training", "language-model"),
    summary=(
        "Shortens the early dip in accuracy when a language model moves into a new domain by several passes over a "
        "small subset of good text, mixed in the proportions of the original pre-training data."
    ),
)
PARTS: tuple[str, ...] = ()
