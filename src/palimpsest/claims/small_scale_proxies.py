"""Reproduces the training failures of large Transformers in small ones at high learning rates, and supplies a
sensitivity measure, warning signs and remedies for people who plan big runs."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Small-scale proxies for large-scale Transformer training instabilities",
    "Mitchell Wortsman et al.",
    2023,
    arxiv="2309.14322",
    venue="ICLR 2024",
    tags=("optimize", "audit", "training-dynamics", "scaling-law", "architecture", "language-model"),
    summary=(
        "Reproduces the training failures of large Transformers in small ones at high learning rates, and supplies a "
        "sensitivity measure, warning signs and remedies for people who plan big runs."
    ),
)
PARTS: tuple[str, ...] = ()
