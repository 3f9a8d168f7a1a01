"""Trains families of mixture-of-experts language models at fixed budgets and finds that memorized knowledge keeps
growing with the number of experts while reasoning does not."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Optimal Sparsity of Mixture-of-Experts Language Models for Reasoning Tasks",
    "Taishi Nakamura et al.",
    2025,
    arxiv="2508.18672",
    venue="ICLR 2026",
    tags=("optimize", "scaling-law", "architecture", "reasoning", "memorization", "language-model"),
    summary=(
        "Trains families of mixture-of-experts language models at fixed budgets and finds that memorized knowledge "
        "keeps growing with the number of experts while reasoning does not."
    ),
)
PARTS: tuple[str, ...] = ()
