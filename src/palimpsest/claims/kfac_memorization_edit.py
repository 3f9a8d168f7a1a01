"""Stops a network from reciting training data, with no training and no list of what to remove, by cutting the parts of
its weight matrices that hardly add to the loss curvature of ordinary data."""

from palimpsest.claim import Paper

PAPER = Paper(
    "From Memorization to Reasoning in the Spectrum of Loss Curvature",
    "Merullo et al.",
    2025,
    arxiv="2510.24256",
    tags=("forget", "unlearning", "memorization", "weight-edit", "language-model", "classifier"),
    summary=(
        "Stops a network from reciting training data, with no training and no list of what to remove, by cutting the "
        "parts of its weight matrices that hardly add to the loss curvature of ordinary data."
    ),
)
PARTS: tuple[str, ...] = ()
