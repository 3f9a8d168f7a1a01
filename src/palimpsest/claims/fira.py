"""Keeps Adam's moments in a small projection of each gradient yet still applies what lies outside it, rescaled by what
Adam did inside, for training when full optimizer state does not fit in memory."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?",
    "Xi Chen et al.",
    2024,
    arxiv="2410.01623",
    venue="NeurIPS 2025",
    tags=("optimize", "optimizer", "pre-training", "fine-tuning", "language-model"),
    summary=(
        "Keeps Adam's moments in a small projection of each gradient yet still applies what lies outside it, rescaled "
        "by what Adam did inside, for training when full optimizer state does not fit in memory."
    ),
)
PARTS: tuple[str, ...] = ()
