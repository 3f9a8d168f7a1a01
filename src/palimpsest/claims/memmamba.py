"""Gives a Mamba network small pools of summary vectors that later tokens and layers read when its state has faded, for
very long inputs, and adds two measures of how much of them is still remembered."""

from palimpsest.claim import Paper

PAPER = Paper(
    "MemMamba: Rethinking Memory Patterns in State Space Model",
    "Wang et al.",
    2025,
    arxiv="2510.03279",
    tags=("recall", "memory", "architecture", "audit", "language-model"),
    summary=(
        "Gives a Mamba network small pools of summary vectors that later tokens and layers read when its state has "
        "faded, for very long inputs, and adds two measures of how much of them is still remembered."
    ),
)
PARTS: tuple[str, ...] = ()
