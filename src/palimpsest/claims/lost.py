"""Rebuilds each linear layer before pre-training as a low-rank path from a singular value decomposition plus a few
full input columns, to train language models with less memory and compute."""

from palimpsest.claim import Paper

PAPER = Paper(
    "LOST: Low-rank and Sparse Pre-training for Large Language Models",
    "Jiaxi Li et al.",
    2025,
    arxiv="2508.02668",
    tags=("optimize", "architecture", "pre-training", "language-model"),
    summary=(
        "Rebuilds each linear layer before pre-training as a low-rank path from a singular value decomposition plus a "
        "few full input columns, to train language models with less memory and compute."
    ),
)
PARTS: tuple[str, ...] = ()
