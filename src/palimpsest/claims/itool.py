"""Improves the tool calls of a language model in rounds: pick the examples it finds hardest, search over pieces of
answers for better and worse ones, and train on those preferences."""

from palimpsest.claim import Paper

PAPER = Paper(
    "Boosting Tool Use of Large Language Models via Iterative Reinforced Fine-Tuning",
    "Zeng et al.",
    2025,
    arxiv="2501.09766",
    tags=("optimize", "fine-tuning", "data-selection", "reasoning", "language-model"),
    summary=(
        "Improves the tool calls of a language model in rounds: pick the examples it finds hardest, search over "
        "pieces of answers for better and worse ones, and train on those preferences."
    ),
)
PARTS: tuple[str, ...] = ()
