"""Repeats a small part of the training text many times and measures the damage, as model size lost in effect and in
circuits that copy, for people who must decide how hard to deduplicate."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Scaling Laws and Interpretability of Learning from Repeated Data",
    "Danny Hernandez et al.",
    2022,
    arxiv="2205.10487",
    tags=("optimize", "scaling-law", "data-selection", "memorization", "training-dynamics", "language-model"),
    summary=(
        "Repeats a small part of the training text many times and measures the damage, as model size lost in effect "
        "and in circuits that copy, for people who must decide how hard to deduplicate."
    ),
)
PARTS: tuple[str, ...] = ()
