"""Weights every sequence of a pre-training batch by a simple function of its current loss, so that easy and redundant
text counts for less and language models make better use of their data."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
    "Daouda Sow et al.",
    2025,
    arxiv="2502.06733",
    venue="ICLR 2025",
    tags=("optimize", "loss", "data-selection", "pre-training", "language-model"),
    summary=(
        "Weights every sequence of a pre-training batch by a simple function of its current loss, so that easy and "
        "redundant text counts for less and language models make better use of their data."
    ),
)
PARTS: tuple[str, ...] = ()
