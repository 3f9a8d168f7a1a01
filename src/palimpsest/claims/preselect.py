"""Rates documents by whether the losses of several models on them rank those models as benchmarks do, and trains a
fast text classifier on both extremes to filter pre-training data."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Predictive Data Selection: The Data That Predicts Is the Data That Teaches",
    "Kashun Shum et al.",
    2025,
    arxiv="2503.00808",
    venue="ICML 2025",
    tags=("optimize", "data-selection", "pre-training", "language-model"),
    summary=(
        "Rates documents by whether the losses of several models on them rank those models as benchmarks do, and "
        "trains a fast text classifier on both extremes to filter pre-training data."
    ),
)
PARTS: tuple[str, ...] = ()
