"""Trains a retriever on the difference of every positive and every negative score in a batch, whichever query they
belong to, for search systems that must cut results off at one common score."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Optimizing What Matters: AUC-Driven Learning for Robust Neural Retrieval",
    "Sheikholeslami et al.",
    2025,
    arxiv="2510.00137",
    tags=("recall", "retrieval", "loss", "encoder"),
    summary=(
        "Trains a retriever on the difference of every positive and every negative score in a batch, whichever query "
        "they belong to, for search systems that must cut results off at one common score."
    ),
)
PARTS: tuple[str, ...] = ()
