"""Rates each weight by how much it matters for forgetting once its use for retaining is discounted, and lets any
unlearning loss move only the best-rated weights of a language model."""

from palimpsest.claim import Paper

PAPER = Paper(
    "WAGLE: Strategic Weight Attribution for Effective and Modular Unlearning in Large Language Models",
    "Jia et al.",
    2024,
    arxiv="2410.17509",
    tags=("forget", "unlearning", "mask", "language-model"),
    summary=(
        "Rates each weight by how much it matters for forgetting once its use for retaining is discounted, and lets "
        "any unlearning loss move only the best-rated weights of a language model."
    ),
)
PARTS: tuple[str, ...] = ()
