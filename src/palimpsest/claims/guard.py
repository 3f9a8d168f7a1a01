"""Screens prompts for forbidden topics and steers beam search away from the wording and the meaning of the answers to
be withheld, for language models whose weights cannot or should not change."""

from palimpsest.claim import Paper

PAPER = Paper(
    "GUARD: Generation-time LLM Unlearning via Adaptive Restriction and Detection",
    "Deng et al.",
    2025,
    arxiv="2505.13312",
    tags=("forget", "unlearning", "inference-time", "language-model"),
    summary=(
        "Screens prompts for forbidden topics and steers beam search away from the wording and the meaning of the "
        "answers to be withheld, for language models whose weights cannot or should not change."
    ),
)
PARTS: tuple[str, ...] = ()
