"""Computes the loss and the gradients of a large-vocabulary output layer block by block and never stores the full
table of token scores, which saves the memory that it takes in language-model training."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Cut Your Losses in Large-Vocabulary Language Models",
    "Wijmans et al.",
    2024,
    arxiv="2411.09009",
    venue="ICLR 2025",
    tags=("learn", "loss", "kernel", "language-model"),
    summary=(
        "Computes the loss and the gradients of a large-vocabulary output layer block by block and never stores the "
        "full table of token scores, which saves the memory that it takes in language-model training."
    ),
)
PARTS: tuple[str, ...] = ()
