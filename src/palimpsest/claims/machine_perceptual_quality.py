"""Feeds severely compressed pictures and sound to fixed perception models and compares task accuracy with bit rate and
similarity metrics, to tell which codec preserves what those models rely on."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Machine Perceptual Quality: Evaluating the Impact of Severe Lossy Compression on Audio and Image Models",
    "Jacobellis, Cummings, Yadwadkar",
    2024,
    arxiv="2401.07957",
    venue="DCC 2024",
    tags=("image", "audit", "benchmark", "robustness", "classifier"),
    summary=(
        "Feeds severely compressed pictures and sound to fixed perception models and compares task accuracy with bit "
        "rate and similarity metrics, to tell which codec preserves what those models rely on."
    ),
)
PARTS: tuple[str, ...] = ()
