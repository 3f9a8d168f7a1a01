"""Erases a skill by fine-tuning a language model on random labels and measures how far the erasure carries to unseen
examples and other skills, and whether simple probes still find the skill inside."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Unforgettable Generalization in Language Models",
    "Zhang, Choshen, Andreas",
    2024,
    arxiv="2409.02228",
    venue="COLM 2024",
    tags=("audit", "unlearning", "benchmark", "loss", "language-model"),
    summary=(
        "Erases a skill by fine-tuning a language model on random labels and measures how far the erasure carries to "
        "unseen examples and other skills, and whether simple probes still find the skill inside."
    ),
)
PARTS: tuple[str, ...] = ()
