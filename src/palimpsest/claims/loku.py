"""Pairs a forget loss that hands probability from the unwanted token to its closest rival with LoRA adapters started
from the weights the forget data uses most, for cheap unlearning of language models."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs",
    "Cha et al.",
    2024,
    arxiv="2408.06621",
    venue="ICLR 2025",
    tags=("forget", "unlearning", "loss", "adapter", "weight-edit", "language-model"),
    summary=(
        "Pairs a forget loss that hands probability from the unwanted token to its closest rival with LoRA adapters "
        "started from the weights the forget data uses most, for cheap unlearning of language models."
    ),
)
PARTS: tuple[str, ...] = ("objectives.inverted_hinge", "edits.fila")
