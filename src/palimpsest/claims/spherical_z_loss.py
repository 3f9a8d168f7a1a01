"""Scores the target class by its standardized output, so that loss and exact weight updates cost the same however many
classes there are, for output layers with very many classes or words."""

from palimpsest.claim import Paper

PAPER = Paper(
    "The Z-loss: a shift and scale invariant classification loss belonging to the Spherical Family",
    "de Brebisson & Vincent",
    2016,
    arxiv="1604.08859",
    tags=("learn", "loss", "architecture", "classifier", "language-model"),
    summary=(
        "Scores the target class by its standardized output, so that loss and exact weight updates cost the same "
        "however many classes there are, for output layers with very many classes or words."
    ),
)
PARTS: tuple[str, ...] = ()
