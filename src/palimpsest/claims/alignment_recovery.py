"""Brings back the refusals that a chat model lost in fine-tuning by restoring a small, gradient-chosen set of its
original weights, and undoes those restorations that cost the new task too much."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Alleviating the Fear of Losing Alignment in LLM Fine-tuning",
    "Yang, Tao, Chen, Xu",
    2025,
    arxiv="2504.09757",
    venue="IEEE S&P 2025",
    tags=("forget", "safety", "weight-edit", "fine-tuning", "language-model"),
    summary=(
        "Brings back the refusals that a chat model lost in fine-tuning by restoring a small, gradient-chosen set of "
        "its original weights, and undoes those restorations that cost the new task too much."
    ),
)
PARTS: tuple[str, ...] = ()
