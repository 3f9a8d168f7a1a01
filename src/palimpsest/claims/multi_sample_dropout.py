"""Draws several dropout masks for the cheap last layers of a network in one pass and averages their losses, so that
classifiers train in fewer steps at little extra cost."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Multi-Sample Dropout for Accelerated Training and Better Generalization",
    "Inoue",
    2019,
    arxiv="1905.09788",
    tags=("learn", "architecture", "loss", "classifier"),
    summary=(
        "Draws several dropout masks for the cheap last layers of a network in one pass and averages their losses, so "
        "that classifiers train in fewer steps at little extra cost."
    ),
)
PARTS: tuple[str, ...] = ()
